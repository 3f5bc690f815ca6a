//! What a trace is replayed on: an allocator on a device, its streams by index. The replay's one
//! door to the allocator.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Result;
use crate::conf::Conf;
use crate::device::{Call, Device, DevicePtr, Priority, Stream};
use crate::pool::Allocator;

/// A live block; the default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Handle(DevicePtr);

/// An allocator with streams numbered from 0.
#[derive(Debug)]
pub(super) struct Target {
    allocator: Allocator,
    streams: Vec<Stream>,
    /// A replay enqueues no work, so what is recorded has happened by the next operation. The
    /// host device's streams are threads, which have to be waited for to make that true.
    streams_are_threads: bool,
}

/// What to replay on.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The device, as [`Device::open`] takes it. Opened anew for each measurement.
    pub device: String,
    /// The conf; what it leaves open, `RIVERBED_ALLOC_CONF` may set.
    pub conf: Conf,
    /// Hard limit on reserved memory, in bytes.
    pub limit_bytes: Option<u64>,
}

impl Setup {
    /// A fresh allocator on a fresh device.
    pub(super) fn open(&self, streams: usize) -> Result<Target> {
        let device = Device::open(&self.device)?;
        let mut builder = Allocator::builder(&device).conf(self.conf.clone());
        if let Some(bytes) = self.limit_bytes {
            builder = builder.limit_bytes(bytes)?;
        }
        Target::new(builder.build()?, streams)
    }

    /// This setup within `bytes`.
    pub(super) fn within(&self, bytes: u64) -> Self {
        Self { limit_bytes: Some(bytes), ..self.clone() }
    }
}

impl Target {
    fn new(allocator: Allocator, streams: usize) -> Result<Self> {
        let device = allocator.device().clone();
        let stream = |_| Stream::new(&device, Priority::Normal);
        Ok(Self {
            streams: (0..streams).map(stream).collect::<Result<_>>()?,
            streams_are_threads: device.info().host_accessible,
            allocator,
        })
    }

    /// The same allocator with streams of its own.
    pub(super) fn beside(&self, streams: usize) -> Result<Self> {
        Self::new(self.allocator.clone(), streams)
    }

    /// Allocates; `bytes` is above 0 and `stream` one of this target's.
    #[inline]
    pub(super) fn alloc(&self, bytes: u64, stream: usize) -> Result<Handle> {
        self.allocator.alloc_raw(bytes, &self.streams[stream]).map(Handle)
    }

    /// Frees on the block's own stream. The default handle is nothing.
    #[inline]
    #[expect(unsafe_code, reason = "nothing uses the memory of a replay")]
    pub(super) fn free(&self, handle: Handle) -> Result<()> {
        // SAFETY: a replay enqueues no work, so nothing uses the block.
        unsafe { self.allocator.free_raw(handle.0) }
    }

    /// Frees on another stream than the block's: a use there, then a free.
    pub(super) fn free_elsewhere(&self, handle: Handle, stream: usize) -> Result<()> {
        let stream = &self.streams[stream];
        self.allocator.record_use_raw(handle.0, stream)?;
        self.free(handle)?;
        if self.streams_are_threads { stream.synchronize() } else { Ok(()) }
    }

    /// The counters now.
    pub(super) fn counters(&self) -> Counters {
        let stats = self.allocator.stats();
        let device = self.allocator.device();
        let calls = Call::ALL.iter().map(|&call| device.calls().get(call)).collect();
        Counters {
            reserved_bytes: stats.reserved_bytes.current,
            reserved_peak_bytes: stats.reserved_bytes.peak,
            calls,
        }
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
    /// In the order of [`Call::ALL`].
    calls: Arc<[u64]>,
}

impl Counters {
    /// How often each call was made since `before`; calls not made are left out.
    pub(super) fn calls_since(&self, before: &Self) -> BTreeMap<&'static str, u64> {
        let counts = self.calls.iter().zip(before.calls.iter()).map(|(now, then)| now - then);
        let named = Call::ALL.iter().map(|call| call.name()).zip(counts);
        named.filter(|&(_, count)| count > 0).collect()
    }
}
