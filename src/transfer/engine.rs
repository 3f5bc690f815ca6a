//! Copies, one stream for each direction.
#![allow(unsafe_code)]

use std::sync::Arc;

use bytemuck::Pod;

use super::pending::Pending;
use crate::base::{Error, Result};
use crate::device::{Device, Priority, Stream};
use crate::fence::EventPool;
use crate::pinned::{PinnedBlock, PinnedPool, PinnedSource};
use crate::pool::Buffer;

/// Copies between pinned memory and buffers of one device, on a stream of its own for each
/// direction. Every copy is ordered after what was last enqueued on its buffer, and what is
/// enqueued on the buffer next is ordered after it (see [`Buffer::use_on`]). Methods may be
/// called from any thread; only `wait` and [`read`](Self::read) block.
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
#[derive(Debug)]
pub struct Transfer {
    h2d: Stream,
    d2h: Stream,
    events: Arc<EventPool>,
}

impl Transfer {
    /// A pair of copy streams on `device`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            h2d: Stream::new(device, Priority::Normal)?,
            d2h: Stream::new(device, Priority::Normal)?,
            events: Arc::new(EventPool::new(device)),
        })
    }

    /// Copies the whole block to `offset` bytes into the buffer. The block comes back through
    /// [`Pending::wait`]. Never blocks.
    ///
    /// # Errors
    /// A range outside the buffer; another device; what the driver says.
    pub fn upload<T: Pod>(
        &self,
        block: PinnedBlock,
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Pending<PinnedBlock>> {
        self.h2d(&block, buffer, offset)?;
        Ok(Pending::new(block, self.events.record(&self.h2d)?, &self.events))
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
        self.h2d(source.block(), buffer, offset)?;
        Ok(Pending::new(source.clone(), self.events.record(&self.h2d)?, &self.events))
    }

    fn h2d<T: Pod>(&self, block: &PinnedBlock, buffer: &Buffer<T>, offset: u64) -> Result<()> {
        let bytes = block.len() as u64;
        check_range(buffer, offset, bytes)?;
        block.record_use(&self.h2d)?;
        let (dst, src) = (buffer.ptr().offset(offset), block.as_mut_ptr());
        buffer.in_order(&self.h2d, || {
            // SAFETY: the target lies in the buffer, which this stream is ordered for and which
            // is not reused before it is done. The source is the block, owned or shared for
            // reading by the `Pending`; if that is dropped early, the recorded use keeps the
            // memory from anyone else.
            Ok(unsafe { self.h2d.device().driver().copy_h2d(self.h2d.id(), dst, src, bytes) }?)
        })
    }

    /// Copies from `offset` bytes into the buffer to the whole block, which comes back through
    /// [`Pending::wait`]. Never blocks.
    ///
    /// # Errors
    /// A range outside the buffer; another device; what the driver says.
    pub fn download<T: Pod>(
        &self,
        buffer: &Buffer<T>,
        offset: u64,
        block: PinnedBlock,
    ) -> Result<Pending<PinnedBlock>> {
        let bytes = block.len() as u64;
        check_range(buffer, offset, bytes)?;
        block.record_use(&self.d2h)?;
        let (dst, src) = (block.as_mut_ptr(), buffer.ptr().offset(offset));
        buffer.in_order(&self.d2h, || {
            // SAFETY: the source lies in the buffer, which this stream is ordered for and which
            // is not reused before it is done. The target is the block, which the `Pending`
            // owns: nobody can see it before `wait`, and its memory goes to nobody before the
            // recorded use is over.
            Ok(unsafe { self.d2h.device().driver().copy_d2h(self.d2h.id(), dst, src, bytes) }?)
        })?;
        Ok(Pending::new(block, self.events.record(&self.d2h)?, &self.events))
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
}

fn check_range<T: Pod>(buffer: &Buffer<T>, offset: u64, bytes: u64) -> Result<()> {
    let end = offset.checked_add(bytes);
    if end.is_some_and(|end| end <= buffer.size_bytes()) {
        return Ok(());
    }
    Err(Error::invalid(
        "copy range",
        format_args!("{bytes} bytes at {offset}"),
        format!("the buffer has {} bytes", buffer.size_bytes()),
    ))
}
