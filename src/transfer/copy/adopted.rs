//! Copies from memory of the caller's own, pinned or on the way to being so.
#![allow(unsafe_code)]

use std::ops::Range;

use bytemuck::Pod;

use super::engine::Transfer;
use super::pending::Pending;
use super::span::{Part, Span, Spans, checked_bytes};
use super::staging::Source;
use crate::base::{Error, Result};
use crate::device::Stream;
use crate::pinned::AdoptedMemory;
use crate::pool::Buffer;

impl Transfer {
    /// Copies a range of adopted memory, in bytes, to `offset` bytes into the buffer, as one copy.
    /// What is pinned is copied from where it lies, the rest through pinned slots, and a copy that
    /// takes its time moves over as the memory is pinned in the background. The memory stays,
    /// pinned, until the copy has ended. Never blocks.
    ///
    /// ```
    /// use riverbed::{device::{Device, Priority, Stream}, pinned::PinnedPool};
    /// use riverbed::{pool::Allocator, transfer::Transfer};
    ///
    /// let device = Device::open("host:vram=64MiB")?;
    /// let stream = Stream::new(&device, Priority::Normal)?;
    /// let pinned = PinnedPool::new(&device, &"pinned_limit_mb:64".parse()?);
    /// let buffer = Allocator::builder(&device).build()?.alloc::<u8>(1 << 20, &stream)?;
    /// let transfer = Transfer::new(&device)?;
    ///
    /// let weights = pinned.adopt_in_background(vec![7u8; 4 << 20], None)?;
    /// transfer.upload_adopted(&weights, 1 << 20..2 << 20, &buffer, 0)?.wait()?;
    /// assert!(transfer.read(&buffer, &pinned)?.iter().all(|&byte| byte == 7));
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    ///
    /// # Errors
    /// A range outside the memory or the buffer; another device; where not all of it is pinned, no
    /// pinned memory at all within the budget; what the driver says.
    pub fn upload_adopted<T: Pod>(
        &self,
        memory: &AdoptedMemory,
        range: Range<usize>,
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Pending<AdoptedMemory>> {
        let Some(len) = range.end.checked_sub(range.start) else {
            let expected = "it must not end before it begins";
            return Err(Error::invalid("copy range", format_args!("{range:?}"), expected));
        };
        let (start, bytes) = (range.start, len as u64);
        let part = Part { block_offset: start as u64, buffer_offset: offset, len_bytes: bytes };
        checked_bytes(&[part], memory.len() as u64, buffer.size_bytes())?;
        let device = buffer.ptr().0 + offset;
        let using = |stream: &Stream| memory.record_use(stream);
        let pieces = memory.pieces(range.clone());
        if pieces.iter().all(|piece| piece.is_pinned) {
            let spans = pieces.into_iter().map(|piece| Span {
                host: memory[piece.range.clone()].as_ptr() as u64,
                device: device + (piece.range.start - start) as u64,
                bytes: piece.range.len() as u64,
            });
            let (queue, spans) = (&self.queues.h2d, Spans::apart(spans.collect()));
            // SAFETY: the ranges lie in memory and buffer by the check. Nobody writes adopted
            // memory, and it stays pinned until the streams told of its use have passed.
            let placed = unsafe { self.place(queue, spans, using, buffer) }?;
            return Ok(self.pending(memory.clone(), (bytes, placed, queue)));
        }
        if let Some(pending) = self.upload_small(&memory[range], buffer, offset)? {
            return Ok(pending.with(memory.clone()));
        }
        let source = Source::Adopted { memory: memory.clone(), start, device };
        // SAFETY: likewise.
        let staged = unsafe { self.stage_using(source, bytes, using, buffer) }?;
        Ok(self.pending(memory.clone(), self.held(staged, bytes)))
    }
}
