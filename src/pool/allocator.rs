//! The public face of the allocator.

use std::sync::{Arc, Condvar, Mutex, TryLockError};

use bytemuck::Pod;

use super::buffer::Buffer;
use super::core::{Core, Freed};
use super::ladder::Placement;
use super::stats::Stats;
use crate::base::{DeviceError, Error, Result, lock};
use crate::conf::{Conf, Pytorch};
use crate::device::{Device, DevicePtr, Stream};
use crate::event::Recorder;
use crate::fence::EventPool;
use crate::policy;

/// A stream-ordered device allocator. Clones share one; it lives as long as any clone or any
/// buffer of it. All methods may be called from any thread.
///
/// ```
/// use riverbed::device::{Device, Priority, Stream};
/// use riverbed::pool::Allocator;
///
/// let device = Device::open("host:vram=64MiB")?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let allocator = Allocator::builder(&device).conf_str("max_split_size_mb:32")?.build()?;
/// let buffer = allocator.alloc::<f32>(1000, &stream)?;
/// assert_eq!(buffer.len(), 1000);
/// drop(buffer); // at once free for `stream`: no waiting, no driver call
/// assert_eq!(allocator.stats().allocated_bytes.current, 0);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Allocator(Arc<Shared>);

/// Everything behind the clones of one allocator.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: Device,
    pub(super) conf: Conf,
    pub(super) limit_bytes: Option<u64>,
    pub(super) events: EventPool,
    pub(super) core: Mutex<Core>,
    /// Signalled when detached segments are back with the driver.
    pub(super) released: Condvar,
    /// Frees that found the lock taken: whoever holds it next carries them out. Held for a
    /// push or a swap only, so that dropping a buffer never waits.
    mailbox: Mutex<Vec<Freed>>,
}

/// Settings of an [`Allocator`].
#[derive(Debug)]
#[must_use = "call build()"]
pub struct AllocatorBuilder {
    device: Device,
    conf: Conf,
    pytorch: Pytorch,
    limit_bytes: Option<u64>,
    recorder: Option<Arc<dyn Recorder>>,
}

impl AllocatorBuilder {
    /// Uses `conf` in place of the default.
    pub fn conf(mut self, conf: Conf) -> Self {
        self.conf = conf;
        self
    }

    /// Merges an alloc-conf string over what is set.
    ///
    /// # Errors
    /// What is wrong with the string.
    pub fn conf_str(mut self, conf: &str) -> Result<Self> {
        self.conf.merge(&conf.parse()?)?;
        Ok(self)
    }

    /// Never reserves more than `bytes` from the device. The smallest of this, `limit_mb` and
    /// `per_process_memory_fraction` counts.
    ///
    /// # Errors
    /// A limit that contradicts the conf.
    pub fn limit_bytes(mut self, bytes: u64) -> Result<Self> {
        // Refuses what the conf would; the limit itself is settled in `build`.
        self.conf.clone().with_limit_bytes(bytes)?;
        self.limit_bytes = Some(self.limit_bytes.map_or(bytes, |other| other.min(bytes)));
        Ok(self)
    }

    /// Shows `recorder` everything that happens.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Where `RIVERBED_ALLOC_CONF` is silent too, PyTorch's variables count.
    pub fn pytorch_env(mut self) -> Self {
        self.pytorch = Pytorch::Honour;
        self
    }

    /// The allocator. Takes no memory yet. What was set here counts over the environment, key by
    /// key.
    ///
    /// # Errors
    /// A variable that is not a valid conf, or contradicts what was set; a policy nobody
    /// registered; what the policy says.
    pub fn build(mut self) -> Result<Allocator> {
        self.conf = self.conf.over_env(self.pytorch)?;
        if let Some(least) = self.limit_bytes.into_iter().chain(self.conf.limit_bytes).min() {
            self.conf = self.conf.with_limit_bytes(least)?;
        }
        let policy = policy::create(&self.conf)?;
        let fraction = self.conf.per_process_memory_fraction;
        let by_fraction =
            (fraction < 1.0).then(|| (fraction * self.device.info().total_bytes as f64) as u64);
        let limit_bytes = self.conf.limit_bytes.into_iter().chain(by_fraction).min();
        Ok(Allocator(Arc::new(Shared {
            events: EventPool::new(&self.device),
            device: self.device,
            conf: self.conf,
            limit_bytes,
            core: Mutex::new(Core::new(policy, self.recorder)),
            released: Condvar::new(),
            mailbox: Mutex::new(Vec::new()),
        })))
    }
}

impl Allocator {
    /// Starts the settings of an allocator on `device`.
    pub fn builder(device: &Device) -> AllocatorBuilder {
        AllocatorBuilder {
            device: device.clone(),
            conf: Conf::default(),
            pytorch: Pytorch::Ignore,
            limit_bytes: None,
            recorder: None,
        }
    }

    /// A buffer of `len` elements on `stream`, of undefined content, aligned to 512 bytes. It
    /// may be used at once by work on `stream`; other streams need an order (see
    /// [`Buffer::use_on`]). Length 0 takes no memory. Waits for streams only when memory is
    /// otherwise out.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] now, [`Error::TooLarge`] for ever; what the driver says.
    pub fn alloc<T: Pod>(&self, len: usize, stream: &Stream) -> Result<Buffer<T>> {
        self.buffer(len, stream, Placement::Policy)
    }

    /// A buffer with a segment of its own, rounded to the device's granularity (2 MiB on most)
    /// and to nothing else; when dropped, its memory goes back to the device.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn alloc_dedicated<T: Pod>(&self, len: usize, stream: &Stream) -> Result<Buffer<T>> {
        self.buffer(len, stream, Placement::Dedicated)
    }

    fn buffer<T: Pod>(
        &self,
        len: usize,
        stream: &Stream,
        placement: Placement,
    ) -> Result<Buffer<T>> {
        let bytes = (len as u64).checked_mul(size_of::<T>() as u64).ok_or_else(|| {
            Error::invalid("length", len, format!("{} bytes each overflow", size_of::<T>()))
        })?;
        let ptr = match bytes {
            0 => DevicePtr::default(),
            _ => self.0.allocate(bytes, stream, placement)?,
        };
        Ok(Buffer::new(self.clone(), ptr, len, stream))
    }

    /// `bytes` of device memory as a bare address; 0 bytes give address 0. Otherwise as
    /// [`alloc`](Self::alloc).
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn alloc_raw(&self, bytes: u64, stream: &Stream) -> Result<DevicePtr> {
        match bytes {
            0 => Ok(DevicePtr::default()),
            _ => self.0.allocate(bytes, stream, Placement::Policy),
        }
    }

    /// Frees what [`alloc_raw`](Self::alloc_raw) gave: at once for its own stream, for others
    /// once the streams of [`record_use_raw`](Self::record_use_raw) are done. Address 0 is
    /// nothing. Never waits for a stream.
    ///
    /// # Errors
    /// An address that is no live block of this allocator; nothing is changed then.
    ///
    /// # Safety
    /// Nobody uses the memory after this call, other than work already enqueued on its own
    /// stream or on a recorded one.
    #[expect(unsafe_code, reason = "a declaration; the duty is the caller's")]
    pub unsafe fn free_raw(&self, ptr: DevicePtr) -> Result<()> {
        if ptr == DevicePtr::default() {
            return Ok(());
        }
        let freed = Freed { address: ptr.0, uses: Vec::new() };
        if self.0.enter().free(freed, &self.0.events) {
            return Ok(());
        }
        Err(Self::unknown(ptr))
    }

    /// Notes that work on `stream` uses the raw block at `ptr`, so that freeing it waits for
    /// that work.
    ///
    /// # Errors
    /// An address that is no live block of this allocator; a stream of another device.
    pub fn record_use_raw(&self, ptr: DevicePtr, stream: &Stream) -> Result<()> {
        self.0.device.same_as(stream.device(), "stream")?;
        if self.0.enter().note_raw_use(ptr.0, stream) { Ok(()) } else { Err(Self::unknown(ptr)) }
    }

    fn unknown(ptr: DevicePtr) -> Error {
        Error::invalid(
            "pointer",
            format_args!("{ptr:?}"),
            "it must be a live block of this allocator",
        )
    }

    /// Gives everything cached back to the device; waits for the streams it was cached on.
    /// Gives the bytes released.
    pub fn trim(&self) -> u64 {
        let core = self.0.enter();
        let before = core.stats.reserved_bytes.freed;
        let cached = core.releasable();
        let core = self.0.release(core, cached);
        core.stats.reserved_bytes.freed - before
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.enter().snapshot()
    }

    /// The hard limit on reserved bytes, if any.
    #[must_use]
    pub fn limit_bytes(&self) -> Option<u64> {
        self.0.limit_bytes
    }

    /// The conf in force.
    #[must_use]
    pub fn conf(&self) -> &Conf {
        &self.0.conf
    }

    /// The device underneath.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Proves the bookkeeping: blocks tile segments, indexes and counters agree. Walks every
    /// block.
    ///
    /// # Errors
    /// The first violation, in words: a bug in this crate or in a policy.
    pub fn check(&self) -> Result<(), String> {
        self.0.enter().check()
    }

    /// Gives all memory back and waits until it is back. Dropping the last clone does the same
    /// in the background.
    ///
    /// # Errors
    /// Blocks are still alive, and the allocator then goes on as before; the driver did not take
    /// everything back.
    pub fn close(self) -> Result<()> {
        let live = self.stats().allocation.current;
        if live > 0 {
            return Err(Error::invalid(
                "allocator",
                format_args!("{live} live block(s)"),
                "free them first",
            ));
        }
        let pending = self.0.enter().retired.pending();
        for event in pending {
            event.synchronize()?;
        }
        self.trim();
        let kept_bytes = self.0.wait_released(self.0.enter()).reserved_bytes();
        if kept_bytes > 0 {
            return Err(Error::Device(DeviceError {
                device: self.0.device.info().name.clone(),
                call: "free",
                status: DeviceError::UNKNOWN,
                text: format!("{kept_bytes} bytes were not taken back"),
            }));
        }
        Ok(())
    }

    pub(super) fn events(&self) -> &EventPool {
        &self.0.events
    }

    /// Frees a buffer's block without ever waiting: if the lock is taken, its next holder does it.
    pub(super) fn free_buffer(&self, ptr: DevicePtr, uses: Vec<Stream>) {
        let freed = Freed { address: ptr.0, uses };
        let mut core = match self.0.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return lock(&self.0.mailbox).push(freed),
        };
        self.0.drain_mailbox(&mut core);
        self.0.free(&mut core, freed);
        self.0.reap_dedicated(&mut core);
    }
}

impl Shared {
    pub(super) fn drain_mailbox(&self, core: &mut Core) {
        let freed = std::mem::take(&mut *lock(&self.mailbox));
        for block in freed {
            self.free(core, block);
        }
    }

    fn free(&self, core: &mut Core, freed: Freed) {
        let known = core.free(freed, &self.events);
        debug_assert!(known, "a buffer's block is always live");
    }
}
