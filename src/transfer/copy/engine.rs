//! Copies: the public face.
#![allow(unsafe_code)]

use std::sync::Arc;

use bytemuck::Pod;

use super::calibrate::LinkProfile;
use super::options::TransferOptions;
use super::packing::{Packed, gather_upto, pack};
use super::pageable::Pageable;
use super::pending::Pending;
use super::queue::{EXPRESS_BYTES, Placed, Queue, WayProgress};
use super::span::{Part, Span, Spans, check_apart, checked_bytes, merged};
use super::way::Way;
use crate::base::Result;
use crate::device::{Device, Stream};
use crate::pinned::{PinnedBlock, PinnedPool, PinnedSource};
use crate::pool::Buffer;
use crate::transfer::Urgency;

/// Copies between pinned memory and buffers of one device. Every copy is ordered after what was
/// last enqueued on its buffer, and what is enqueued on the buffer next is ordered after it (see
/// [`Buffer::use_on`]). Methods may be called from any thread; only `wait`, [`read`](Self::read)
/// and those that say so block. Clones share streams and queues.
///
/// Large copies go in chunks, few of them with the device at a time, so that a copy that is
/// wanted now waits for a fraction of a millisecond ([`Urgency`], [`ahead`](Self::ahead)).
///
/// ```
/// use riverbed::{device::{Device, Priority, Stream}, pinned::PinnedPool};
/// use riverbed::{pool::Allocator, transfer::Transfer};
///
/// let device = Device::open("host:vram=64MiB")?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let pinned = PinnedPool::new(&device, &Default::default());
/// let buffer = Allocator::builder(&device).build()?.alloc::<u8>(5, &stream)?;
/// let transfer = Transfer::new(&device)?;
///
/// let mut block = pinned.alloc(5)?;
/// block.copy_from_slice(b"hello");
/// let block = transfer.upload(block, &buffer, 0)?.wait()?;
/// assert_eq!(transfer.read(&buffer, &pinned)?, b"hello");
/// # drop(block);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Transfer {
    pub(super) queues: Arc<Queues>,
    pub(super) urgency: Urgency,
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) h2d: Arc<Queue>,
    d2h: Arc<Queue>,
    pub(super) pageable: Pageable,
}

/// Counters of a transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TransferProgress {
    /// To the device.
    pub h2d: WayProgress,
    /// From the device.
    pub d2h: WayProgress,
}

impl Transfer {
    /// With default options, for copies of [`Urgency::Demand`].
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device) -> Result<Self> {
        Self::with_options(device, &TransferOptions::default())
    }

    /// With options of one's own.
    ///
    /// # Errors
    /// What the driver says.
    pub fn with_options(device: &Device, options: &TransferOptions) -> Result<Self> {
        let queue = |way| Queue::new(device, way, options);
        let (h2d, d2h) = (queue(Way::ToDevice)?, queue(Way::ToHost)?);
        let queues = Queues { h2d, d2h, pageable: Pageable::new(device, options) };
        Ok(Self { queues: Arc::new(queues), urgency: Urgency::Demand })
    }

    /// The same transfer, for copies ahead of need: those of demand go before them.
    #[must_use]
    pub fn ahead(&self) -> Self {
        Self { queues: Arc::clone(&self.queues), urgency: Urgency::Ahead }
    }

    /// Copies the whole block to `offset` bytes into the buffer. The block comes back through
    /// [`Pending`]. Never blocks.
    ///
    /// # Errors
    /// A range outside the buffer; another device; what the driver says.
    pub fn upload<T: Pod>(
        &self,
        block: PinnedBlock,
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Pending<PinnedBlock>> {
        let placed = self.h2d(&block, buffer, &[whole(&block, offset)])?;
        Ok(self.pending(block, placed))
    }

    /// As [`upload`](Self::upload), from a block several copies may read at once.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub fn upload_shared<T: Pod>(
        &self,
        source: &PinnedSource,
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Pending<PinnedSource>> {
        let placed = self.h2d(source.block(), buffer, &[whole(source.block(), offset)])?;
        Ok(self.pending(source.clone(), placed))
    }

    /// Copies many parts of a block to places in the buffer, as one copy that ends when all have.
    /// Parts that follow each other on both sides become one: give them in the order of the block.
    /// Other small ones go in one call where the driver has such a call; elsewhere those that lie
    /// side by side in the buffer are gathered in pinned memory first. Never blocks.
    ///
    /// # Errors
    /// A part outside block or buffer, or over another in the buffer; as
    /// [`upload`](Self::upload).
    pub fn upload_parts<T: Pod>(
        &self,
        source: &PinnedSource,
        buffer: &Buffer<T>,
        parts: &[Part],
    ) -> Result<Pending<PinnedSource>> {
        check_apart(parts)?;
        let placed = self.h2d(source.block(), buffer, parts)?;
        Ok(self.pending(source.clone(), placed))
    }

    pub(super) fn h2d<T: Pod>(
        &self,
        block: &PinnedBlock,
        buffer: &Buffer<T>,
        parts: &[Part],
    ) -> Result<(u64, Placed, &Arc<Queue>)> {
        let queue = &self.queues.h2d;
        let bytes = checked_bytes(parts, block.len() as u64, buffer.size_bytes())?;
        let using = |stream: &Stream| block.record_use(stream);
        let through_slots = match parts {
            // Without a list, and so without anything from the heap.
            [part] if block.is_pinned() => Err(Spans::one(span_of(block, buffer, part))),
            parts => {
                let spans = merged(parts.iter().map(|part| span_of(block, buffer, part)));
                if block.is_pinned() || bytes == 0 {
                    let kept = pack(spans, queue.gather_upto_bytes());
                    kept.map_err(|spans| in_chunks(spans, queue))
                } else {
                    Ok(Packed::whole(spans))
                }
            }
        };
        let placed = match through_slots {
            // SAFETY: the ranges lie in block and buffer by the check. The block is owned, or
            // shared for reading, by the `Pending`; if that is dropped early, the recorded use
            // keeps the memory from anyone else.
            Ok(packed) => unsafe { self.stage_kept(packed, bytes, using, buffer) }?,
            // SAFETY: likewise.
            Err(spans) => unsafe { self.place(queue, spans, using, buffer) }?,
        };
        Ok((bytes, placed, queue))
    }

    /// Copies from `offset` bytes into the buffer to the whole block, which comes back through
    /// [`Pending`]. Never blocks, unless the system did not let the block be pinned.
    ///
    /// # Errors
    /// A range outside the buffer; another device; what the driver says.
    pub fn download<T: Pod>(
        &self,
        buffer: &Buffer<T>,
        offset: u64,
        block: PinnedBlock,
    ) -> Result<Pending<PinnedBlock>> {
        let part = whole(&block, offset);
        self.download_part(buffer, part, block)
    }

    /// Copies a part of the buffer to a part of the block.
    pub(super) fn download_part<T: Pod>(
        &self,
        buffer: &Buffer<T>,
        mut part: Part,
        mut block: PinnedBlock,
    ) -> Result<Pending<PinnedBlock>> {
        let mut bytes = checked_bytes(&[part], block.len() as u64, buffer.size_bytes())?;
        if !block.is_pinned() {
            let into = part.block_offset as usize..(part.block_offset + part.len_bytes) as usize;
            self.download_into(buffer, part.buffer_offset, &mut block[into])?;
            // What is left is the end of a copy.
            (part.len_bytes, bytes) = (0, 0);
        }
        let queue = &self.queues.d2h;
        let spans = Spans::one(span_of(&block, buffer, &part));
        let using = |stream: &Stream| block.record_use(stream);
        // SAFETY: the ranges lie in block and buffer by the check. The target is the block, which
        // the `Pending` owns: nobody can see it before the copy has ended, and its memory goes to
        // nobody before the recorded use is over.
        let placed = unsafe { self.place(queue, spans, using, buffer) }?;
        Ok(self.pending(block, (bytes, placed, queue)))
    }

    /// The buffer's content, once everything enqueued on it has run. Blocks.
    ///
    /// # Errors
    /// As [`download`](Self::download); the pinned budget is spent.
    pub fn read<T: Pod>(&self, buffer: &Buffer<T>, pinned: &PinnedPool) -> Result<Vec<T>> {
        let block = pinned.alloc(buffer.size_bytes() as usize)?;
        let block = self.download(buffer, 0, block)?.wait()?;
        Ok(bytemuck::pod_collect_to_vec(&block))
    }

    /// Goes on with copies that are held back, as far as that is possible without waiting, and
    /// tells of those that ended; true while there are any. For transfers
    /// [driven by the caller](super::Driven::ByCaller); others have threads for it.
    pub fn drive(&self) -> bool {
        let (h2d, d2h) = (self.queues.h2d.drive(), self.queues.d2h.drive());
        h2d || d2h
    }

    /// Begins with what a calibration found, in place of finding it out: chunks have the right
    /// size from the first on, and parts are gathered where that pays. Rates go on being corrected
    /// by the chunks that follow.
    pub fn assume(&self, link: &LinkProfile) {
        let gather_upto = gather_upto(link);
        self.queues.h2d.assume(link.h2d_bytes_per_second, gather_upto);
        self.queues.d2h.assume(link.d2h_bytes_per_second, gather_upto);
    }

    /// The counters now. Costs a few loads.
    #[must_use]
    pub fn progress(&self) -> TransferProgress {
        TransferProgress { h2d: self.queues.h2d.progress(), d2h: self.queues.d2h.progress() }
    }

    /// Places a copy between pinned memory and a buffer. `using` is told each stream that will use
    /// the memory, before it does.
    ///
    /// # Safety
    /// The spans lie within the memory and the buffer, and no two targets overlap. The memory is
    /// the copy's until it has ended, as far as the streams told of its use do not see to that.
    pub(super) unsafe fn place<T: Pod>(
        &self,
        queue: &Arc<Queue>,
        spans: Spans,
        using: impl Fn(&Stream) -> Result<()>,
        buffer: &Buffer<T>,
    ) -> Result<Placed> {
        let bytes = spans.left_bytes();
        buffer.stream().device().same_as(queue.express_stream().device(), "buffer")?;
        queue.requested(bytes);
        let small = bytes <= EXPRESS_BYTES && self.urgency == Urgency::Demand;
        if let Some(span) = spans.only().filter(|_| small) {
            // SAFETY: by this function's own contract, and the buffer's order, which this is
            // called for.
            let send = || unsafe { queue.express(span, using) };
            return buffer.in_order(queue.express_stream(), send);
        }
        // SAFETY: likewise.
        buffer.in_order_of(|last| unsafe { queue.place(self.urgency, spans, last, using) })?
    }

    pub(super) fn pending<B>(&self, block: B, placed: (u64, Placed, &Arc<Queue>)) -> Pending<B> {
        let (bytes, placed, queue) = placed;
        Pending::new(block, bytes, placed, queue)
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        self.h2d.close();
        self.d2h.close();
    }
}

/// A whole block, to or from `offset` bytes into a buffer.
pub(super) fn whole(block: &PinnedBlock, offset: u64) -> Part {
    Part { block_offset: 0, buffer_offset: offset, len_bytes: block.len() as u64 }
}

/// A part of a block and a buffer, by address.
fn span_of<T: Pod>(block: &PinnedBlock, buffer: &Buffer<T>, part: &Part) -> Span {
    Span {
        host: block.as_mut_ptr() as u64 + part.block_offset,
        device: buffer.ptr().0 + part.buffer_offset,
        bytes: part.len_bytes,
    }
}

/// Spans of many small parts, in chunks that suit them.
fn in_chunks(spans: Vec<Span>, queue: &Queue) -> Spans {
    Spans::apart(spans).in_chunks_from(queue.least_gathered_bytes())
}
