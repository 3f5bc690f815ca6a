//! The devices: each a host device of its own, with one primary context.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use riverbed::device::{Device, Driver, GateId};

use crate::Vendor;
use crate::entry::misuse;
use crate::fake::{Fake, Kind};
use crate::memory::SmallPages;
use crate::status::{Answer, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, OUT_OF_MEMORY};
use crate::stream::Stream;

/// A device.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: Device,
    /// Handle of the primary context; 0 while it does not exist.
    pub(crate) context: u64,
    pub(crate) retains: u64,
    /// The default stream that waits for all others, once used.
    pub(crate) legacy: Option<Arc<Stream>>,
    /// Open from the start: a stream that passed it may be ordered in ways the model cannot see.
    pub(crate) open_gate: GateId,
    /// Pinned bytes that pool memory is probed into.
    pub(crate) scratch: usize,
    pub(crate) default_pool: u64,
    pub(crate) current_pool: u64,
    pub(crate) peers: BTreeSet<usize>,
    /// First bytes of what was unmapped, for memory that shows it again.
    pub(crate) stale: HashMap<u64, Vec<u8>>,
}

impl Fake {
    /// Initialises the driver.
    pub fn start(&self) -> Answer {
        if self.settings.init != 0 {
            return Err(self.settings.init);
        }
        let mut state = self.state();
        if self.settings.devices == 0 {
            return Err(NO_DEVICE);
        }
        if state.started {
            return Ok(());
        }
        let bytes = self.settings.vram.saturating_sub(self.settings.system);
        for _ in 0..self.settings.devices {
            let device = Device::open(&format!("host:vram={bytes}")).map_err(|_| OUT_OF_MEMORY)?;
            let driver = device.driver();
            let open_gate = driver.create_gate().map_err(|error| error.status)?;
            let scratch = driver.alloc_pinned(4096).map_err(|error| error.status)?;
            let scratch = scratch.as_ptr() as usize;
            let context = match self.vendor {
                Vendor::Cuda => 0,
                Vendor::Hip => state.number(Kind::Context),
            };
            state.gpus.push(Gpu {
                device,
                context,
                retains: 0,
                legacy: None,
                open_gate,
                scratch,
                default_pool: 0,
                current_pool: 0,
                peers: BTreeSet::new(),
                stale: HashMap::new(),
            });
            state.small.push(SmallPages::default());
        }
        // Each device's own capacity counts; this one must only not be in the way.
        let all = self.settings.vram.saturating_mul(self.settings.devices as u64);
        let space = Device::open(&format!("host:vram={all}")).map_err(|_| OUT_OF_MEMORY)?;
        state.space = Some(space);
        state.started = true;
        Ok(())
    }

    /// HIP's start, which names the failure otherwise when there is no device.
    pub fn start_hip(&self) -> Answer {
        self.start().map_err(|status| if status == NO_DEVICE { INVALID_DEVICE } else { status })
    }

    /// HIP's count, which fails when there is nothing to count.
    pub fn hip_device_count(&self) -> Answer<i32> {
        self.device_count().and_then(|count| if count == 0 { Err(NO_DEVICE) } else { Ok(count) })
    }

    /// How many devices there are.
    pub fn device_count(&self) -> Answer<i32> {
        match self.settings.count {
            0 => Ok(self.settings.devices as i32),
            status => Err(status),
        }
    }

    /// The device of that number.
    pub fn gpu(&self, ordinal: i32) -> Answer<usize> {
        usize::try_from(ordinal).ok().filter(|&gpu| gpu < self.settings.devices).ok_or_else(|| {
            misuse("invalid_argument", format!("no device {ordinal}"), INVALID_DEVICE)
        })
    }

    /// Its host device.
    pub(crate) fn host(&self, gpu: usize) -> Answer<Device> {
        self.state().gpus.get(gpu).map(|gpu| gpu.device.clone()).ok_or(INVALID_DEVICE)
    }

    pub fn device_name(&self, gpu: usize) -> String {
        let maker = match self.vendor {
            Vendor::Cuda => "NVIDIA",
            Vendor::Hip => "AMD",
        };
        format!("{maker} Fake {gpu}")
    }

    pub fn total_bytes(&self) -> usize {
        self.settings.vram as usize
    }

    pub fn pci_bus_id(&self, gpu: usize) -> String {
        format!("0000:{:02x}:00.0", gpu + 1)
    }

    pub fn uuid(&self, gpu: usize) -> [u8; 16] {
        let mut uuid = *b"riverbed-fake-00";
        uuid[15] += gpu as u8;
        uuid
    }

    /// The target whose code objects load.
    pub fn target(&self) -> &str {
        &self.settings.target
    }

    pub fn version(&self) -> i32 {
        self.settings.version
    }

    /// Free and total bytes of the current device.
    pub fn memory_info(&self) -> Answer<(usize, usize)> {
        let memory = driver_call(self.host(self.current()?)?.driver().memory())?;
        Ok((memory.free_bytes as usize, self.settings.vram as usize))
    }

    pub fn can_access_peer(&self, gpu: usize, peer: usize) -> bool {
        gpu != peer
    }

    /// Lets the current device read the memory of another.
    pub fn enable_peer(&self, peer: usize, flags: u32) -> Answer {
        let gpu = self.current()?;
        if flags != 0 || gpu == peer {
            return Err(misuse("invalid_argument", "flags, or its own peer", INVALID_VALUE));
        }
        match self.state().gpus[gpu].peers.insert(peer) {
            true => Ok(()),
            false => Err(crate::status::PEER_ALREADY_ENABLED),
        }
    }
}

/// A host device's answer as a status.
pub(crate) fn driver_call<T>(answer: Result<T, riverbed::base::DeviceError>) -> Answer<T> {
    answer.map_err(|error| error.status)
}

/// The driver of a device.
pub(crate) fn driver(device: &Device) -> &dyn Driver {
    device.driver()
}
