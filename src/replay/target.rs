//! What a trace is replayed on: an allocator on a device, its streams by index. The replay's one
//! door to the allocator.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{MIB, Result, format_bytes};
use crate::conf::{Conf, MEMPOOL};
use crate::device::{Call, Device, DevicePtr, Priority, Stream};
use crate::pool::{Allocator, StreamAllocator, Taken, policy_on};

/// A live block; the default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Handle {
    /// The target's stream, from 1; 0 is no block.
    stream: u64,
    block: Taken,
}

/// Which of the allocator's two entries is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Route {
    /// Through a stream's own handle.
    #[default]
    Stream,
    /// By bare addresses, as code that knows nothing of Riverbed does.
    Raw,
}

/// An allocator with streams numbered from 0.
#[derive(Debug)]
pub(super) struct Target {
    allocator: Allocator,
    streams: Vec<StreamAllocator>,
    route: Route,
    /// A replay enqueues no work, so what is recorded has happened by the next operation. Where
    /// streams run in real time they have to be waited for to make that true.
    in_real_time: bool,
}

/// What to replay on.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The device, as [`Device::open`] takes it. Opened anew for each measurement.
    pub device: String,
    /// The conf; what it leaves open, `RIVERBED_ALLOC_CONF` may set.
    pub conf: Conf,
    /// All the memory there is, in bytes: the capacity of a simulated device, a hard limit on
    /// reserved memory on others.
    pub capacity_bytes: Option<u64>,
    /// How to call the allocator.
    pub route: Route,
}

impl Setup {
    /// The default conf on `device`, with all its memory.
    #[must_use]
    pub fn new(device: &str) -> Self {
        let device = device.into();
        Self { device, conf: Conf::default(), capacity_bytes: None, route: Route::default() }
    }

    /// A fresh allocator on a fresh device.
    pub(super) fn open(&self, streams: usize) -> Result<Target> {
        let mut limit_bytes = self.capacity_bytes;
        let mut name = self.device.clone();
        if let Some(bytes) = limit_bytes.filter(|&bytes| bytes >= SIM_PAGE_BYTES)
            && name.split(':').next() == Some("sim")
        {
            let separator = if name.contains(':') { ',' } else { ':' };
            name = format!("{name}{separator}vram={bytes}");
            limit_bytes = None;
        }
        let device = Device::open(&name)?;
        let mut builder = Allocator::builder(&device).conf(self.conf.clone());
        if let Some(bytes) = limit_bytes {
            builder = builder.limit_bytes(bytes)?;
        }
        Target::new(builder.build()?, streams, self.route)
    }

    /// This setup within `bytes`.
    pub(super) fn within(&self, bytes: u64) -> Self {
        Self { capacity_bytes: Some(bytes), ..self.clone() }
    }
}

/// A simulated device has at least one page; less is a limit's business.
const SIM_PAGE_BYTES: u64 = 2 * MIB;

impl Target {
    fn new(allocator: Allocator, streams: usize, route: Route) -> Result<Self> {
        let device = allocator.device().clone();
        let stream = |_| allocator.on(&Stream::new(&device, Priority::Normal)?);
        Ok(Self {
            streams: (0..streams).map(stream).collect::<Result<_>>()?,
            route,
            in_real_time: !device.info().simulated,
            allocator,
        })
    }

    /// The same allocator with streams of its own.
    pub(super) fn beside(&self, streams: usize) -> Result<Self> {
        Self::new(self.allocator.clone(), streams, self.route)
    }

    /// Allocates; `bytes` is above 0 and `stream` one of this target's.
    #[inline(always)]
    pub(super) fn alloc(&self, bytes: u64, stream: usize) -> Result<Handle> {
        let on_stream = &self.streams[stream];
        let taken = match self.route {
            Route::Stream => on_stream.take(bytes)?,
            Route::Raw => {
                let ptr = self.allocator.alloc_raw(bytes, on_stream.stream())?;
                Taken { ptr, ..Taken::default() }
            }
        };
        Ok(Handle { stream: stream as u64 + 1, block: taken })
    }

    #[inline]
    fn home(&self, handle: Handle) -> Option<&StreamAllocator> {
        self.streams.get((handle.stream as usize).wrapping_sub(1))
    }

    /// Frees on the block's own stream. The default handle is nothing.
    #[inline(always)]
    pub(super) fn free(&self, handle: Handle) -> Result<()> {
        let Some(home) = self.home(handle) else { return Ok(()) };
        let taken = handle.block;
        match self.route {
            Route::Stream => home.take_back(taken),
            Route::Raw => self.free_raw(taken.ptr)?,
        }
        Ok(())
    }

    #[inline]
    #[expect(unsafe_code, reason = "nothing uses the memory of a replay")]
    fn free_raw(&self, ptr: DevicePtr) -> Result<()> {
        // SAFETY: a replay enqueues no work, so nothing uses the block.
        unsafe { self.allocator.free_raw(ptr) }
    }

    /// Frees on another stream than the block's: a use there, then a free.
    pub(super) fn free_elsewhere(&self, handle: Handle, stream: usize) -> Result<()> {
        let Some(home) = self.home(handle) else { return Ok(()) };
        let taken = handle.block;
        let used_on = self.streams[stream].stream();
        match self.route {
            Route::Stream => {
                home.note_use(taken, used_on)?;
            }
            Route::Raw => self.allocator.record_use_raw(taken.ptr, used_on)?,
        }
        self.free(handle)?;
        if self.in_real_time { used_on.synchronize() } else { Ok(()) }
    }

    /// The counters now.
    pub(super) fn counters(&self) -> Counters {
        let stats = self.allocator.stats();
        let device = self.allocator.device();
        let counts = device.calls();
        let calls = Call::ALL.iter().map(|&call| (counts.get(call), counts.time_ns(call)));
        let calls = calls.collect();
        Counters {
            reserved_bytes: stats.reserved_bytes.all.current,
            reserved_peak_bytes: stats.reserved_bytes.all.peak,
            calls,
            simulated: device.info().simulated,
            cross_stream_waits: stats.cross_stream_waits,
            remapped_bytes: stats.remapped_bytes,
        }
    }

    /// What to know of the figures of this target.
    pub(super) fn caveat(&self) -> Option<String> {
        let info = self.allocator.device().info();
        let conf = self.allocator.conf();
        let (asked, placed_by) = (conf.policy(), policy_on(info, conf));
        if asked != placed_by {
            return Some(format!(
                "{} cannot map memory: the {placed_by} policy stands in for the {asked} one",
                info.name
            ));
        }
        // Neither of the two devices without a driver has a pool of a driver's.
        let modelled = info.simulated || info.host_accessible;
        (modelled && asked == MEMPOOL).then(|| {
            format!(
                "the driver's pool is a model here, growing by pieces of {}: a driver grows and \
                 remaps in its own way",
                format_bytes(info.granularity_bytes)
            )
        })
    }

    /// Lets the allocator do between two replays what a program's next iteration would find done.
    pub(super) fn settle(&self) -> Result<()> {
        self.allocator.settle_plan()
    }

    /// Lets the peaks of the counters begin again.
    pub(super) fn reset_peaks(&self) {
        self.allocator.reset_peak_stats();
    }

    /// Proves the allocator's books.
    pub(super) fn check(&self) -> Result<(), String> {
        self.allocator.check()
    }
}

/// Counters of an allocator and its device at one moment.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    pub(super) reserved_bytes: u64,
    pub(super) reserved_peak_bytes: u64,
    pub(super) cross_stream_waits: u64,
    pub(super) remapped_bytes: u64,
    /// How often and how long, in the order of [`Call::ALL`].
    calls: Arc<[(u64, u64)]>,
    /// The device tells what its calls cost.
    simulated: bool,
}

impl Counters {
    /// How often each call was made since `before`; calls not made are left out.
    pub(super) fn calls_since(&self, before: &Self) -> BTreeMap<&'static str, u64> {
        let counts = self.calls.iter().zip(before.calls.iter()).map(|(now, then)| now.0 - then.0);
        let named = Call::ALL.iter().map(|call| call.name()).zip(counts);
        named.filter(|&(_, count)| count > 0).collect()
    }

    /// Microseconds spent in each call since `before`, where the device tells.
    pub(super) fn call_us_since(&self, before: &Self) -> Option<BTreeMap<&'static str, f64>> {
        let times = self.calls.iter().zip(before.calls.iter());
        let times = times.map(|(now, then)| (now.1 - then.1) as f64 / 1e3);
        let named = Call::ALL.iter().map(|call| call.name()).zip(times);
        self.simulated.then(|| named.filter(|&(_, us)| us > 0.0).collect())
    }
}
