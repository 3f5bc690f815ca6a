//! Owned device memory.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use bytemuck::Pod;

use super::heap::{Freed, Heap, Taken, Which};
use crate::base::{Error, Result, lock};
use crate::device::{DevicePtr, Kernel, Stream};

/// `len` elements of device memory. Freed when dropped: at once for the stream it was allocated
/// on, for other streams once their recorded uses are over. Dropping never waits.
///
/// Safe operations order themselves: an operation on another stream than the last one's first
/// makes that stream wait, on the device, for what the last one was given.
#[derive(Debug)]
pub struct Buffer<T: Pod = u8> {
    /// Whose memory it is; none for length 0.
    owned: Option<(Arc<Heap>, Taken)>,
    len: usize,
    /// The stream it was allocated on.
    home: Stream,
    uses: Mutex<Uses>,
    elements: PhantomData<T>,
}

#[derive(Debug, Default)]
struct Uses {
    /// Where the last operation was enqueued, if not on the home stream.
    last: Option<Stream>,
    /// Every stream but the home one that was given an operation.
    others: Vec<Stream>,
}

impl<T: Pod> Buffer<T> {
    pub(super) fn new(heap: Arc<Heap>, taken: Taken, len: usize, home: &Stream) -> Self {
        Self::of(Some((heap, taken)), len, home)
    }

    pub(super) fn empty(home: &Stream) -> Self {
        Self::of(None, 0, home)
    }

    fn of(owned: Option<(Arc<Heap>, Taken)>, len: usize, home: &Stream) -> Self {
        let (home, uses) = (home.clone(), Mutex::default());
        Self { owned, len, home, uses, elements: PhantomData }
    }

    /// Where it is. The address is 0 for length 0. Whoever enqueues work on it by address says
    /// so with [`use_on`](Self::use_on).
    #[must_use]
    pub fn ptr(&self) -> DevicePtr {
        self.owned.as_ref().map_or(DevicePtr::default(), |(_, taken)| taken.ptr)
    }

    /// How many elements it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for length 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }

    /// The stream it was allocated on.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.home
    }

    /// Makes `stream` wait, on the device, for what was last enqueued on this buffer, and notes
    /// the use, so that the memory is not given to anyone before `stream` is done with it. Call
    /// it before enqueueing work by address; other threads that enqueue on the same buffer
    /// between the two are the caller's to keep away. Costs nothing while one stream uses the
    /// buffer; one event record and one wait at each change. Never blocks.
    ///
    /// # Errors
    /// A stream of another device; what the driver says.
    pub fn use_on(&self, stream: &Stream) -> Result<()> {
        self.in_order(stream, || Ok(()))
    }

    /// As [`use_on`](Self::use_on), with the work itself: `enqueue` puts it on `stream` before
    /// any other operation of this buffer can come between.
    pub(crate) fn in_order<R>(
        &self,
        stream: &Stream,
        enqueue: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        self.home.device().same_as(stream.device(), "stream")?;
        let mut uses = lock(&self.uses);
        self.order(&mut uses, stream)?;
        enqueue()
    }

    /// As [`in_order`](Self::in_order), for work that finds its own stream: `enqueue` is given the
    /// stream of the last operation, orders its work after that, and gives the stream that the
    /// next operation must be ordered after, which is done no sooner than the work is.
    pub(crate) fn in_order_of<R>(
        &self,
        enqueue: impl FnOnce(&Stream) -> Result<(Stream, R)>,
    ) -> Result<R> {
        let mut uses = lock(&self.uses);
        let (stream, result) = enqueue(uses.last.as_ref().unwrap_or(&self.home))?;
        self.note(&mut uses, &stream);
        Ok(result)
    }

    fn order(&self, uses: &mut Uses, stream: &Stream) -> Result<()> {
        let last = uses.last.as_ref().unwrap_or(&self.home);
        if last == stream {
            return Ok(());
        }
        if let Some((heap, _)) = &self.owned {
            heap.shared.events.order(last, stream)?;
        }
        self.note(uses, stream);
        Ok(())
    }

    /// Notes that `stream` was given the last operation.
    fn note(&self, uses: &mut Uses, stream: &Stream) {
        uses.last = (*stream != self.home).then(|| stream.clone());
        if *stream != self.home && !uses.others.contains(stream) {
            uses.others.push(stream.clone());
        }
    }

    /// Notes that work on `stream` uses the buffer, so that its memory is not given to anyone
    /// before that work is done, and orders nothing: for whoever keeps the order of the work
    /// by other means. Never blocks.
    ///
    /// # Errors
    /// A stream of another device.
    pub fn record_use(&self, stream: &Stream) -> Result<()> {
        self.home.device().same_as(stream.device(), "stream")?;
        let mut uses = lock(&self.uses);
        if *stream != self.home && !uses.others.contains(stream) {
            uses.others.push(stream.clone());
        }
        Ok(())
    }

    /// Enqueues setting every byte to `value` on `stream`.
    ///
    /// # Errors
    /// As [`use_on`](Self::use_on).
    pub fn fill(&self, value: u8, stream: &Stream) -> Result<()> {
        let kernel = Kernel::Fill { dst: self.ptr(), bytes: self.size_bytes(), value };
        self.in_order(stream, || {
            // SAFETY: the range is this buffer's own. `stream` is ordered after all earlier
            // operations, and the block is not reused before `stream` is done with it.
            Ok(unsafe { stream.device().driver().launch(stream.id(), &kernel) }?)
        })
    }
}

impl Buffer<u8> {
    /// Enqueues on `stream` the [checksum](crate::device::checksum()) of `bytes` bytes from
    /// `offset`, written to element `slot` of `out`.
    ///
    /// # Errors
    /// A range or slot outside the buffers; as [`use_on`](Self::use_on).
    pub fn checksum(
        &self,
        offset: u64,
        bytes: u64,
        out: &Buffer<u64>,
        slot: usize,
        stream: &Stream,
    ) -> Result<()> {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.size_bytes());
        if end.is_none() || slot >= out.len() {
            return Err(Error::invalid(
                "checksum range",
                format_args!("{bytes} bytes at {offset} into slot {slot}"),
                format!("the buffer has {} bytes, the sums {} slots", self.len, out.len()),
            ));
        }
        let kernel = Kernel::Checksum {
            src: self.ptr().offset(offset),
            bytes,
            out: out.ptr().offset(8 * slot as u64),
        };
        // Locks nest bytes before sums, here and everywhere.
        self.in_order(stream, || {
            out.in_order(stream, || {
                // SAFETY: both ranges lie in these buffers by the check above. `stream` is
                // ordered after their earlier operations, and neither block is reused before
                // `stream` is done.
                Ok(unsafe { stream.device().driver().launch(stream.id(), &kernel) }?)
            })
        })
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some((heap, taken)) = &self.owned {
            let uses = self.uses.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            let uses = std::mem::take(&mut uses.others);
            if uses.is_empty() {
                heap.free_block(taken.id);
            } else {
                heap.free(Freed { block: Which::Id(taken.id), uses });
            }
        }
    }
}
