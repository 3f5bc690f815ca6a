//! The public face of the allocator.
#![allow(unsafe_code)]

use std::sync::Arc;

use bytemuck::Pod;

use super::buffer::Buffer;
use super::builder::AllocatorBuilder;
use super::driver_pool::DriverPool;
use super::heap::{Heap, Which};
use super::heaps::{Heaps, Held};
use super::ladder::{Placement, Served};
use super::reclaim::may_go;
use super::scope;
use super::shared::Shared;
use super::stats::Stats;
use super::stream_allocator::StreamAllocator;
use crate::base::{DeviceError, Error, Result, format_bytes};
use crate::conf::Conf;
use crate::device::{Device, DevicePtr, Stream};
use crate::fence::StreamKey;
use crate::ledger::{SplitChange, Totals};

/// How often closing gives back what nobody uses, before it says that something is kept.
const CLOSING_TRIMS: usize = 4;

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
/// assert_eq!(allocator.stats().allocated_bytes.all.current, 0);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Allocator(pub(super) Arc<Inner>);

/// Everything behind the clones of one allocator.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) heaps: Heaps,
}

impl Allocator {
    /// Starts the settings of an allocator on `device`.
    pub fn builder(device: &Device) -> AllocatorBuilder {
        AllocatorBuilder::new(device)
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
    /// and to nothing else; when dropped, its memory goes back to the device. Under
    /// `policy:mempool` it is a block of the driver's pool like any other, and goes back there.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn alloc_dedicated<T: Pod>(&self, len: usize, stream: &Stream) -> Result<Buffer<T>> {
        self.buffer(len, stream, Placement::Dedicated)
    }

    /// The way to allocate on `stream` again and again: what it costs to find the stream's
    /// memory is paid once.
    ///
    /// # Errors
    /// A stream of another device; too many streams at once.
    pub fn on(&self, stream: &Stream) -> Result<StreamAllocator> {
        self.0.on(scope::innermost(self.0.heaps.id()).as_ref(), stream)
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    fn buffer<T: Pod>(
        &self,
        len: usize,
        stream: &Stream,
        placement: Placement,
    ) -> Result<Buffer<T>> {
        let heap = self.heap(stream)?;
        self.0.buffer(heap, len, stream, placement)
    }

    /// The memory of `stream`, in the pool this thread is in.
    #[inline]
    pub(super) fn heap(&self, stream: &Stream) -> Result<&Arc<Heap>> {
        self.0.shared.device.same_as(stream.device(), "stream")?;
        self.0.heaps.of(&self.0.shared, stream)
    }

    /// `bytes` of device memory as a bare address; 0 bytes give address 0. Otherwise as
    /// [`alloc`](Self::alloc).
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    #[inline]
    pub fn alloc_raw(&self, bytes: u64, stream: &Stream) -> Result<DevicePtr> {
        let heap = self.heap(stream)?;
        self.0.raw(heap, bytes, stream)
    }

    /// Frees what [`alloc_raw`](Self::alloc_raw) gave: at once for its own stream, for others
    /// once the streams of [`record_use_raw`](Self::record_use_raw) are done. Address 0 is
    /// nothing. Never waits for a stream, nor for another thread.
    ///
    /// # Errors
    /// An address that is no live block of this allocator; nothing is changed then. Where
    /// another thread is the one that allocates on the block's stream, only an address outside
    /// all segments is told here, and any other mistake is logged when that thread gets to it.
    ///
    /// # Safety
    /// Nobody uses the memory after this call, other than work already enqueued on its own
    /// stream or on a recorded one.
    #[inline]
    pub unsafe fn free_raw(&self, ptr: DevicePtr) -> Result<()> {
        if ptr == DevicePtr::default() {
            return Ok(());
        }
        let heap = self.0.shared.heap_at(ptr.0).and_then(|number| self.0.heaps.get(number));
        if heap.is_some_and(|heap| heap.free_address(ptr.0)) {
            Ok(())
        } else {
            Err(Self::unknown(ptr))
        }
    }

    /// Notes that work on `stream` uses the raw block at `ptr`, so that freeing it waits for
    /// that work. Waits for a thread that is just allocating on the block's stream.
    ///
    /// # Errors
    /// An address that is no live block of this allocator; a stream of another device.
    pub fn record_use_raw(&self, ptr: DevicePtr, stream: &Stream) -> Result<()> {
        self.0.shared.device.same_as(stream.device(), "stream")?;
        let heap = self.0.shared.heap_at(ptr.0).and_then(|number| self.0.heaps.get(number));
        let Some(heap) = heap else { return Err(Self::unknown(ptr)) };
        let known = heap.enter()?.note_use(Which::Address(ptr.0), stream);
        if known { Ok(()) } else { Err(Self::unknown(ptr)) }
    }

    #[cold]
    fn unknown(ptr: DevicePtr) -> Error {
        Error::invalid(
            "pointer",
            format_args!("{ptr:?}"),
            "it must be a live block of this allocator",
        )
    }

    /// Gives everything cached back to the device; waits for the streams it was cached on, and
    /// for those that still use what was freed. Streams that hold nothing any more are let go.
    /// What private pools have cached stays, but for those made with `use_on_oom`. Does nothing
    /// during a capture. Gives the bytes released.
    pub fn trim(&self) -> u64 {
        let released = match &self.0.shared.driver_pool {
            Some(pool) => self.0.trim_driver_pool(pool),
            None => self.0.trim(),
        };
        self.0.heaps.vacate();
        self.0.books(may_go).iter().for_each(|book| book.let_streams_go());
        released
    }

    /// The counters at one moment, for which all other threads are kept out: microseconds a
    /// stream. All 0 when asked by a recorder or policy from within the allocator.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Lets every peak of [`stats`](Self::stats) begin again at its current figure.
    pub fn reset_peak_stats(&self) {
        // SAFETY: every heap is held.
        self.0.quiet(|shared, _| unsafe { shared.reset_peaks() });
        if let Some(pool) = &self.0.shared.driver_pool {
            pool.reset_peak();
        }
    }

    /// Sets the totals of [`stats`](Self::stats) that only ever rise back to 0.
    pub fn reset_accumulated_stats(&self) {
        // SAFETY: every heap is held.
        self.0.quiet(|shared, _| unsafe { shared.reset_accumulated() });
    }

    /// The hard limit on reserved bytes, if any.
    #[must_use]
    pub fn limit_bytes(&self) -> Option<u64> {
        self.0.shared.limit_bytes
    }

    /// The conf in force.
    #[must_use]
    pub fn conf(&self) -> &Conf {
        &self.0.shared.conf
    }

    /// The device underneath.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.shared.device
    }

    /// Proves the bookkeeping: blocks tile segments, indexes and counters agree. Walks every
    /// block, and keeps every other thread out meanwhile.
    ///
    /// # Errors
    /// The first violation, in words: a bug in this crate or in a policy.
    pub fn check(&self) -> Result<(), String> {
        self.0.check()
    }

    /// Gives all memory back and waits until it is back. Dropping the last clone does the same
    /// in the background.
    ///
    /// # Errors
    /// Blocks are still alive, a private pool has some cached, or a capture is open, and the
    /// allocator then goes on as before; the driver did not take everything back.
    pub fn close(self) -> Result<()> {
        let live = self.stats().allocation.all.current;
        if live > 0 {
            return Err(Error::invalid(
                "allocator",
                format_args!("{live} live block(s)"),
                "free them first",
            ));
        }
        if self.0.shared.captures.any() {
            return Err(Error::invalid("allocator", "a capture is open", "end it first"));
        }
        if let Some((id, bytes)) = self.0.shared.open_pool_in_use() {
            return Err(Error::invalid(
                "allocator",
                format_args!("private pool {id} keeps {}", format_bytes(bytes)),
                "trim it or drop its handles first",
            ));
        }
        self.0.wait_for_retired()?;
        // More than once: what was on its way when the trimming began may be refused, and is then
        // held again.
        for _ in 0..CLOSING_TRIMS {
            self.trim();
            self.0.shared.wait_released();
            if self.0.shared.held_bytes() == 0 {
                break;
            }
        }
        let pool_bytes = self.0.shared.driver_pool.as_ref().map_or(0, DriverPool::reserved_bytes);
        let kept_bytes = self.0.shared.held_bytes().max(pool_bytes);
        if kept_bytes > 0 {
            return Err(Error::Device(DeviceError {
                device: self.0.shared.device.info().name.clone(),
                call: "free",
                status: DeviceError::UNKNOWN,
                text: format!("{kept_bytes} bytes were not taken back"),
            }));
        }
        Ok(())
    }
}

impl Inner {
    pub(super) fn buffer<T: Pod>(
        &self,
        heap: &Arc<Heap>,
        len: usize,
        stream: &Stream,
        placement: Placement,
    ) -> Result<Buffer<T>> {
        let bytes = Self::bytes_of::<T>(len)?;
        if bytes == 0 {
            return Ok(Buffer::empty(stream));
        }
        let (heap, taken) = self.serve(heap, bytes, stream, placement)?;
        Ok(Buffer::new(heap, taken, len, stream))
    }

    /// The size of `len` elements.
    pub(super) fn bytes_of<T: Pod>(len: usize) -> Result<u64> {
        (len as u64).checked_mul(size_of::<T>() as u64).ok_or_else(|| {
            Error::invalid("length", len, format!("{} bytes each overflow", size_of::<T>()))
        })
    }

    #[inline]
    pub(super) fn raw(&self, heap: &Arc<Heap>, bytes: u64, stream: &Stream) -> Result<DevicePtr> {
        if bytes == 0 {
            return Ok(DevicePtr::default());
        }
        let key = StreamKey::of(stream).raw();
        if let Some(ptr) = heap.take_raw_quickly(bytes, key) {
            return Ok(ptr);
        }
        self.raw_slowly(heap, bytes, stream)
    }

    #[cold]
    #[inline(never)]
    fn raw_slowly(&self, heap: &Arc<Heap>, bytes: u64, stream: &Stream) -> Result<DevicePtr> {
        let Served { taken, mut state, .. } =
            self.allocate(heap, bytes, stream, Placement::Policy)?;
        state.note_raw(taken);
        Ok(taken.ptr)
    }

    /// A block by the long way, after the quick one failed.
    #[cold]
    pub(super) fn take<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        bytes: u64,
        stream: &Stream,
    ) -> Result<Served<'a>> {
        self.allocate(heap, bytes, stream, Placement::Policy)
    }

    /// The counters, after what other threads and streams left to be done.
    pub(super) fn stats(&self) -> Stats {
        // SAFETY: every heap is held.
        let stats = self.quiet(|shared, _| unsafe { shared.stats() });
        let mut stats = stats.unwrap_or_default();
        if let Some(pool) = &self.shared.driver_pool {
            pool.describe(&mut stats);
        }
        stats
    }

    fn trim(&self) -> u64 {
        let before = self.shared.given_back_bytes();
        if !self.shared.captures.any()
            && let Err(error) = self.wait_for_retired()
        {
            tracing::warn!(%error, "what other streams use was not waited for");
        }
        self.poll();
        self.release_cached(may_go, None);
        self.shared.given_back_bytes().saturating_sub(before)
    }

    /// Carries out what waits in mailboxes, and makes free what streams are done with.
    pub(super) fn poll(&self) {
        self.quiet(|_, _| ());
    }

    /// Shows `look` all heaps at one moment, with everything done that was left to be done;
    /// `None` from within one of them.
    pub(super) fn quiet<R>(&self, look: impl FnOnce(&Shared, &mut [Held<'_>]) -> R) -> Option<R> {
        let looked = self.heaps.at_once(|held| {
            for (heap, state) in held.iter_mut() {
                state.poll(&self.shared);
                state.settle_pending(&self.shared);
                if state.finished {
                    heap.reap_finished(state);
                }
            }
            look(&self.shared, held)
        });
        looked.ok()
    }

    /// Does what was put off while a capture was open.
    pub(super) fn catch_up(&self) {
        for heap in self.heaps.all() {
            let Ok(mut state) = heap.enter() else { continue };
            state.poll(&self.shared);
            if state.finished {
                heap.reap_finished(&mut state);
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        // Nothing physical comes, goes or changes its owner meanwhile.
        let books = self.books(|_| true);
        let books: Result<Vec<_>> = books.iter().map(|book| book.book()).collect();
        let books = books.map_err(|error| error.to_string())?;
        let checked = self.quiet(|shared, held| {
            let mut totals = Totals::default();
            let (mut private_bytes, mut splits) = (0, SplitChange::default());
            for book in &books {
                let states = held.iter_mut().map(|(heap, state)| (heap.number, &mut **state));
                let unowned_bytes = book.check(states)?;
                totals.reserved_bytes += unowned_bytes;
                private_bytes += if book.pool() > 0 { unowned_bytes } else { 0 };
            }
            for (_, state) in held {
                state.check(shared)?;
                let Totals { reserved_bytes, active_bytes, retired_bytes } = state.ledger.totals();
                totals.reserved_bytes += reserved_bytes;
                totals.active_bytes += active_bytes;
                totals.retired_bytes += retired_bytes;
                private_bytes += if state.pool.is_some() { reserved_bytes } else { 0 };
                let SplitChange { blocks, bytes } = state.ledger.splits();
                splits.blocks += blocks;
                splits.bytes += bytes;
            }
            totals.reserved_bytes += shared.paged_bytes();
            // Asked first: while all heaps stand still nothing sets out.
            let in_transit = shared.in_transit();
            // SAFETY: every heap is held.
            let stats = unsafe { shared.stats() };
            let pools = shared.pools();
            let counted_private: u64 = pools.iter().map(|pool| pool.reserved_bytes.current).sum();
            let agree = (in_transit
                || stats.reserved_bytes.all.current == totals.reserved_bytes
                    && counted_private == private_bytes)
                && stats.active_bytes.all.current == totals.active_bytes + totals.retired_bytes
                && stats.allocated_bytes.all.current == totals.active_bytes
                && stats.inactive_split.all.current as i64 == splits.blocks
                && stats.inactive_split_bytes.all.current as i64 == splits.bytes;
            if agree {
                let pool = self.shared.driver_pool.as_ref();
                return pool.map_or(Ok(()), |pool| pool.check(&totals, self.shared.limit_bytes));
            }
            Err(format!("counters are {stats:?}, {pools:?}, ledgers say {totals:?}, {splits:?}"))
        });
        checked.unwrap_or_else(|| Err("asked from within the allocator".into()))
    }
}
