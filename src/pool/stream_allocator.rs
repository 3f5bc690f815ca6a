//! Allocating on one stream, at full speed.

use std::sync::Arc;

use bytemuck::Pod;

use super::allocator::Inner;
use super::buffer::Buffer;
use super::heap::{Heap, Taken, Which};
use super::ladder::{Placement, Served};
use super::private::PrivatePool;
use crate::base::Result;
use crate::device::{DevicePtr, Stream};
use crate::fence::StreamKey;

/// An allocator's memory of one stream. Any thread may use it; the one that does nearly always
/// pays no atomic operation for it. Made by [`Allocator::on`](super::Allocator::on).
///
/// ```
/// use riverbed::device::{Device, Priority, Stream};
/// use riverbed::pool::Allocator;
///
/// let device = Device::open("host:vram=64MiB")?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let allocator = Allocator::builder(&device).build()?;
/// let on_stream = allocator.on(&stream)?;
/// for _ in 0..1000 {
///     let scratch = on_stream.block(100_000)?;
///     assert_eq!(scratch.bytes(), 100_000);
/// } // freed at once, for the next round
/// assert_eq!(allocator.stats().num_device_alloc, 1);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StreamAllocator {
    pub(super) inner: Arc<Inner>,
    pub(super) heap: Arc<Heap>,
    stream: Stream,
    /// The stream is the same one on every thread, and so the heap is its own for as long as
    /// this handle lives.
    is_settled: bool,
    /// Kept alive; none for the default pool.
    pool: Option<PrivatePool>,
}

impl Inner {
    /// The way to allocate on `stream` from `pool`, or from the default one.
    pub(super) fn on(
        self: &Arc<Self>,
        pool: Option<&PrivatePool>,
        stream: &Stream,
    ) -> Result<StreamAllocator> {
        self.shared.device.same_as(stream.device(), "stream")?;
        let heap = self.heaps.of_pool(&self.shared, pool.map(PrivatePool::info), stream)?;
        Ok(StreamAllocator {
            inner: Arc::clone(self),
            heap,
            stream: stream.clone(),
            is_settled: !StreamKey::is_per_thread(stream),
            pool: pool.cloned(),
        })
    }
}

impl StreamAllocator {
    /// The private pool it allocates from; none for the default one.
    #[must_use]
    pub fn pool(&self) -> Option<&PrivatePool> {
        self.pool.as_ref()
    }

    /// The stream it allocates on.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// As [`Allocator::alloc`](super::Allocator::alloc).
    ///
    /// # Errors
    /// As there.
    pub fn alloc<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        self.inner.buffer(&self.heap, len, &self.stream, Placement::Policy)
    }

    /// A block of `bytes`, for as long as this handle is borrowed: the cheapest there is. 0
    /// bytes give address 0. Its content is undefined; it is aligned to 512 bytes.
    ///
    /// # Errors
    /// As [`Allocator::alloc`](super::Allocator::alloc).
    #[inline(always)]
    pub fn block(&self, bytes: u64) -> Result<Block<'_>> {
        // Put together in the caller's registers: what comes back through memory, and is moved
        // in other pieces than it was written in, holds the processor up.
        let (heap, taken) = match self.take_quickly(bytes) {
            Some(taken) => (&self.heap, taken),
            None => self.serve_slowly(bytes)?,
        };
        Ok(Block { heap, taken, bytes })
    }

    /// A block, and whose it is: another heap's where the stream is another one on this thread.
    #[cold]
    #[inline(never)]
    fn serve_slowly(&self, bytes: u64) -> Result<(&Arc<Heap>, Taken)> {
        if bytes == 0 {
            return Ok((&self.heap, Taken::default()));
        }
        let Served { heap, taken, .. } = self.inner.take(&self.heap, bytes, &self.stream)?;
        Ok((heap, taken))
    }

    #[inline(always)]
    fn take_quickly(&self, bytes: u64) -> Option<Taken> {
        if bytes == 0 || !self.is_settled {
            return None;
        }
        self.heap.take_quickly(bytes)
    }

    /// As [`block`](Self::block), for whoever keeps the block without a borrow and gives it to
    /// [`take_back`](Self::take_back) of a handle of the same stream.
    #[inline]
    pub(crate) fn take(&self, bytes: u64) -> Result<Taken> {
        match self.take_quickly(bytes) {
            Some(taken) => Ok(taken),
            None => self.serve_slowly(bytes).map(|(_, taken)| taken),
        }
    }

    /// Takes a block of [`take`](Self::take) back, once.
    #[inline]
    pub(crate) fn take_back(&self, taken: Taken) {
        self.heap.free_block(taken.id);
    }

    /// Notes that `stream` uses a block of [`take`](Self::take).
    pub(crate) fn note_use(&self, taken: Taken, stream: &Stream) -> Result<()> {
        self.heap.enter()?.note_use(Which::Id(taken.id), stream);
        Ok(())
    }

    /// As [`Allocator::alloc_raw`](super::Allocator::alloc_raw).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn alloc_raw(&self, bytes: u64) -> Result<DevicePtr> {
        self.inner.raw(&self.heap, bytes, &self.stream)
    }
}

/// Device memory borrowed from a [`StreamAllocator`]. Dropping it gives it back, on any thread,
/// and never waits: at once free for its stream, for others once the streams of
/// [`record_use`](Self::record_use) are done.
#[derive(Debug)]
pub struct Block<'a> {
    heap: &'a Arc<Heap>,
    /// The default for 0 bytes.
    taken: Taken,
    bytes: u64,
}

impl Block<'_> {
    /// Its first byte; 0 for a block of 0 bytes.
    #[must_use]
    #[inline]
    pub fn ptr(&self) -> DevicePtr {
        self.taken.ptr
    }

    /// What was asked for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that work on `stream` uses the block, so that its memory is not given to anyone
    /// else before that work is done. Orders nothing. Waits for a thread that is just
    /// allocating on the block's stream.
    ///
    /// # Errors
    /// A stream of another device.
    pub fn record_use(&self, stream: &Stream) -> Result<()> {
        self.heap.shared.device.same_as(stream.device(), "stream")?;
        if self.bytes > 0 {
            self.heap.enter()?.note_use(Which::Id(self.taken.id), stream);
        }
        Ok(())
    }
}

impl Drop for Block<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.heap.free_block(self.taken.id);
        }
    }
}
