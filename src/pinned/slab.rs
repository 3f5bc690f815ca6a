//! Slabs: where the pool's memory comes from, and how it goes back.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mapping::Mapping;
use crate::base::{DeviceError, Error, Result};
use crate::conf::Conf;
use crate::device::Device;

/// Threads that touch pages where the conf names no number: with four of them the memory, or
/// the driver's registration, is the limit.
const TOUCH_THREADS_MAX: usize = 4;

/// What memory is, as far as copies care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pinned,
    /// The system did not let it be pinned: copies go through memory that is.
    Pageable,
    /// Pinned, quick to write in order, and very slow to read for the host.
    WriteCombined,
}

/// Memory taken in one piece.
#[derive(Debug)]
pub(super) struct Slab {
    memory: Memory,
    pub(super) kind: Kind,
    /// The one that `pinned_reserve_segment_size_mb` asks for: age does not release it.
    pub(super) is_reserve: bool,
}

#[derive(Debug)]
enum Memory {
    /// From the driver.
    Driver(DriverMemory),
    /// Our own, registered with the driver.
    Registered(Mapping),
    /// Our own.
    Plain(Mapping),
    /// A caller's, registered.
    Adopted(Adopted),
}

/// A registered part of a caller's memory.
#[derive(Debug)]
struct Adopted {
    part: DriverMemory,
    /// Keeps the memory; dropped after it is unregistered.
    _owner: Owner,
}

/// What keeps a caller's memory.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) _keeps: Arc<dyn Send + Sync>,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}

#[derive(Debug)]
struct DriverMemory {
    start: NonNull<u8>,
    bytes: u64,
}

// SAFETY: it is memory that is owned as a `Vec<u8>` owns it.
unsafe impl Send for DriverMemory {}
// SAFETY: a shared reference gives an address and a size, nothing behind them.
unsafe impl Sync for DriverMemory {}

impl Slab {
    fn new(memory: Memory, kind: Kind) -> Self {
        Self { memory, kind, is_reserve: false }
    }

    /// A caller's memory of `bytes` in whole pages, registered from `start` on, to be given back
    /// as slabs are.
    pub(super) fn adopted(start: NonNull<u8>, bytes: u64, owner: Owner) -> Self {
        let part = DriverMemory { start, bytes };
        Self::new(Memory::Adopted(Adopted { part, _owner: owner }), Kind::Pinned)
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        match &self.memory {
            Memory::Driver(memory) => memory.start,
            Memory::Adopted(adopted) => adopted.part.start,
            Memory::Registered(mapping) | Memory::Plain(mapping) => mapping.start(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match &self.memory {
            Memory::Driver(memory) => memory.bytes,
            Memory::Adopted(adopted) => adopted.part.bytes,
            Memory::Registered(mapping) | Memory::Plain(mapping) => mapping.bytes(),
        }
    }

    /// Gives it to the system. What the driver refuses to take back comes back, for another try.
    ///
    /// # Safety
    /// It was made for `device`, and nothing uses it any more.
    pub(super) unsafe fn give_back(self, device: &Device) -> Result<(), Self> {
        let given = match &self.memory {
            // SAFETY: from `alloc_pinned`, not freed yet, out of use by this function's contract.
            Memory::Driver(memory) => unsafe { device.driver().free_pinned(memory.start) },
            // SAFETY: registered, and likewise.
            Memory::Registered(_) | Memory::Adopted(_) => unsafe {
                device.driver().unregister(self.start())
            },
            Memory::Plain(_) => Ok(()),
        };
        match given {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "pinned memory was not taken back: it stays counted");
                Err(self)
            }
        }
    }
}

/// Makes slabs for one device.
#[derive(Debug)]
pub(super) struct Source {
    device: Device,
    /// Memory of our own is registered; else it is the driver's.
    registers: AtomicBool,
    threads: u32,
    node: Option<u32>,
}

impl Source {
    /// As `conf` says. Unless it says, memory of our own is registered where the device is
    /// real: the driver's allocation touches pages one by one, on one thread.
    pub(super) fn new(device: &Device, conf: &Conf) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, Into::into);
        let threads = processors.min(TOUCH_THREADS_MAX) as u32;
        let registers = conf.pinned_use_cuda_host_register.unwrap_or(!device.info().simulated);
        Self {
            device: device.clone(),
            registers: AtomicBool::new(registers),
            threads: conf.pinned_num_register_threads.unwrap_or(threads),
            node: device.driver_info().and_then(|driver| driver.numa_node),
        }
    }

    /// Pinned memory of `bytes`, a multiple of 4096: our own if it can be registered, else the
    /// driver's.
    pub(super) fn pinned(&self, bytes: u64) -> Result<Slab> {
        if !self.registers.load(Ordering::Relaxed) {
            return self.of_driver(bytes);
        }
        let refused = match self.registered(bytes) {
            Ok(slab) => return Ok(slab),
            Err(error) => error,
        };
        // The driver's own may still do, as where registering is not supported at all.
        let slab = self.of_driver(bytes).map_err(|_| refused)?;
        self.registers.store(false, Ordering::Relaxed);
        Ok(slab)
    }

    fn registered(&self, bytes: u64) -> Result<Slab> {
        let mapping = self.map(bytes)?;
        mapping.touch(self.threads);
        // SAFETY: the slab keeps the mapping until it is unregistered.
        unsafe { self.device.driver().register(mapping.start(), bytes) }?;
        Ok(Slab::new(Memory::Registered(mapping), Kind::Pinned))
    }

    fn of_driver(&self, bytes: u64) -> Result<Slab> {
        let start = self.device.driver().alloc_pinned(bytes)?;
        Ok(Slab::new(Memory::Driver(DriverMemory { start, bytes }), Kind::Pinned))
    }

    /// Write-combined memory, which only the driver gives; ordinary pinned memory where it has
    /// none.
    pub(super) fn write_combined(&self, bytes: u64) -> Result<Slab> {
        let start = self.device.driver().alloc_pinned_write_combined(bytes)?;
        Ok(Slab::new(Memory::Driver(DriverMemory { start, bytes }), Kind::WriteCombined))
    }

    /// Memory that is not pinned. Nothing is behind it before it is written.
    pub(super) fn pageable(&self, bytes: u64) -> Result<Slab> {
        Ok(Slab::new(Memory::Plain(self.map(bytes)?), Kind::Pageable))
    }

    fn map(&self, bytes: u64) -> Result<Mapping> {
        let mapped = usize::try_from(bytes)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
            .and_then(|len| Mapping::new(len, self.node));
        mapped.map_err(|error| Error::Device(self.no_memory(&error)))
    }

    /// What the system says, in the form of a driver's answer.
    fn no_memory(&self, error: &io::Error) -> DeviceError {
        DeviceError {
            device: self.device.info().name.clone(),
            call: "mmap",
            status: DeviceError::OUT_OF_MEMORY,
            text: error.to_string(),
        }
    }
}
