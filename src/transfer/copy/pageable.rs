//! Copies between buffers and memory that is not pinned.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use bytemuck::Pod;

use super::engine::{Transfer, whole};
use super::options::TransferOptions;
use super::pending::Pending;
use super::queue::{EXPRESS_BYTES, Placed, Queue};
use super::span::{Part, checked_bytes, chunk_of};
use super::staging::{Lent, Source, Staged, Staging, is_short};
use crate::base::{Error, KIB, Result, lock};
use crate::conf::Conf;
use crate::device::{Device, copy_striped};
use crate::pinned::{PinnedBlock, PinnedPool};
use crate::pool::Buffer;
use crate::transfer::Urgency;

/// Blocks a download goes through at a time.
const SLOTS: usize = 3;
/// The smallest of them worth a copy, where the pinned budget is tight.
const MIN_SLOT_BYTES: u64 = 64 * KIB;

/// What pageable copies of a transfer need.
#[derive(Debug)]
pub(super) struct Pageable {
    device: Device,
    threads: usize,
    pool: OnceLock<PinnedPool>,
    /// By urgency; made at first use.
    rings: Mutex<[Option<Arc<Staging>>; 2]>,
}

impl Pageable {
    pub(super) fn new(device: &Device, options: &TransferOptions) -> Self {
        let pool = OnceLock::new();
        if let Some(given) = &options.staging_pool {
            pool.get_or_init(|| given.clone());
        }
        let threads = options.staging_threads.max(1);
        Self { device: device.clone(), threads, pool, rings: Mutex::default() }
    }

    fn pool(&self) -> &PinnedPool {
        self.pool.get_or_init(|| PinnedPool::new(&self.device, &Conf::default()))
    }

    fn ring(&self, queue: &Arc<Queue>, urgency: Urgency) -> Result<Arc<Staging>> {
        let ring = &mut lock(&self.rings)[urgency as usize];
        Ok(Arc::clone(match ring {
            Some(ring) => ring,
            none => {
                let started = Staging::start(queue, self.pool().clone(), self.threads)?;
                none.insert(Arc::new(started))
            }
        }))
    }
}

impl Transfer {
    /// Copies `source`, which need not be pinned, to `offset` bytes into the buffer. Blocks until
    /// `source` is not needed any more: all of it is in pinned memory. The last of that, up to
    /// three chunks, is then still on its way, and what is enqueued on the buffer next comes after
    /// it; before the first three chunks are, the buffer's earlier work has to be done, so the
    /// caller must not be who lets that go on.
    ///
    /// # Errors
    /// A range outside the buffer; no pinned memory at all within the budget; what the driver
    /// says.
    pub fn upload_slice<T: Pod>(
        &self,
        source: &[u8],
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Pending<()>> {
        if let Some(pending) = self.upload_small(source, buffer, offset)? {
            return Ok(pending);
        }
        let staged = self.stage(Source::Lent(Lent::new(source)), source.len(), buffer, offset)?;
        // Whatever comes of it: the borrow must not end before the thread is done with it.
        staged.staged.wait()?;
        Ok(self.staged((), source.len(), staged))
    }

    /// As [`upload_slice`](Self::upload_slice), from what shows bytes and may be shared. Never
    /// waits: a thread reads the source, which comes back through [`Pending`].
    ///
    /// # Errors
    /// As there; a source that shows more or fewer bytes later than now ends the copy with one.
    pub fn upload_owned<S, T: Pod>(
        &self,
        source: Arc<S>,
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Pending<Arc<S>>>
    where
        S: AsRef<[u8]> + Send + Sync + 'static,
    {
        let bytes: &[u8] = (*source).as_ref();
        if let Some(pending) = self.upload_small(bytes, buffer, offset)? {
            return Ok(pending.with(source));
        }
        let (len, shown) = (bytes.len(), Source::Owned(Arc::clone(&source) as _));
        let staged = self.stage(shown, len, buffer, offset)?;
        Ok(self.staged(source, len, staged))
    }

    /// Copies from `offset` bytes into the buffer to `target`, which need not be pinned. Blocks
    /// until all is there.
    ///
    /// # Errors
    /// A range outside the buffer; no pinned memory at all within the budget; what the driver
    /// says. What `target` holds is then undefined.
    pub fn download_into<T: Pod>(
        &self,
        buffer: &Buffer<T>,
        offset: u64,
        target: &mut [u8],
    ) -> Result<()> {
        let whole = Part { block_offset: 0, buffer_offset: offset, len_bytes: target.len() as u64 };
        checked_bytes(&[whole], whole.len_bytes, buffer.size_bytes())?;
        let pageable = &self.queues.pageable;
        let mut slot_bytes = self.queues.h2d.chunk_bytes();
        let (mut idle, mut busy) = (Vec::new(), VecDeque::<(Pending<PinnedBlock>, usize)>::new());
        let (mut asked, mut rest) = (0u64, target);
        while !rest.is_empty() {
            while asked < whole.len_bytes && busy.len() < SLOTS {
                let block = match idle.pop() {
                    Some(block) => Ok(block),
                    None => pageable.pool().alloc_pinned(slot_bytes as usize),
                };
                let block = match block {
                    Ok(block) => block,
                    Err(error) if is_short(&error) && !busy.is_empty() => break,
                    Err(error) if is_short(&error) && slot_bytes > MIN_SLOT_BYTES => {
                        slot_bytes /= 2;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let most = block.len() as u64;
                let len_bytes = chunk_of(whole.len_bytes - asked, most).min(most);
                let part = Part { block_offset: 0, buffer_offset: offset + asked, len_bytes };
                busy.push_back((self.download_part(buffer, part, block)?, len_bytes as usize));
                asked += len_bytes;
            }
            let Some((pending, len)) = busy.pop_front() else { break };
            let block = pending.wait()?;
            let (now, later) = rest.split_at_mut(len);
            // SAFETY: the block holds at least so much, and is nobody else's.
            unsafe { copy_striped(now.as_mut_ptr(), block.as_ptr(), len, pageable.threads) };
            rest = later;
            idle.push(block);
        }
        Ok(())
    }

    /// A small source goes through a block of its own, without a thread; `None` for a large one,
    /// and where the pinned budget is spent.
    fn upload_small<T: Pod>(
        &self,
        source: &[u8],
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Option<Pending<()>>> {
        if source.len() as u64 > EXPRESS_BYTES {
            return Ok(None);
        }
        let mut block = match self.queues.pageable.pool().alloc_pinned(source.len()) {
            Ok(block) => block,
            Err(error) if is_short(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        block.copy_from_slice(source);
        let placed = self.h2d(&block, buffer, &[whole(&block, offset)])?;
        // The streams told of its use keep the block's memory.
        Ok(Some(self.pending((), placed)))
    }

    /// Copies a part of a block that the system did not let be pinned.
    pub(super) fn stage_block<T: Pod>(
        &self,
        block: &PinnedBlock,
        buffer: &Buffer<T>,
        parts: &[Part],
    ) -> Result<(u64, Placed, &Arc<Queue>)> {
        let bytes = checked_bytes(parts, block.len() as u64, buffer.size_bytes())?;
        let &[Part { block_offset, buffer_offset, .. }] = parts else {
            return Err(Error::Unsupported {
                what: "a copy of many parts of memory that is not pinned".into(),
                by: "this transfer".into(),
                way_out: "copy part by part (the system refused to pin this block)".into(),
            });
        };
        let queue = &self.queues.h2d;
        buffer.stream().device().same_as(queue.express_stream().device(), "buffer")?;
        block.record_use(queue.express_stream())?;
        let ring = self.queues.pageable.ring(queue, self.urgency)?;
        queue.requested(bytes);
        let from = block_offset as usize;
        let staged = buffer.in_order_of(|last| {
            let source = Source::Lent(Lent::new(&block[from..from + bytes as usize]));
            // SAFETY: the ranges lie in block and buffer by the check, and the buffer keeps its
            // own until the stream given has passed. So does the block, by the use recorded on
            // that stream, which passes once the copy has ended.
            let (stream, staged) =
                unsafe { ring.take(source, buffer.ptr().0 + buffer_offset, bytes, last) }?;
            block.record_use(&stream)?;
            Ok((stream, staged))
        })?;
        let Staged { request, gate, turn, .. } = staged;
        Ok((bytes, Placed::Held { request, gate, turn }, queue))
    }

    fn stage<T: Pod>(
        &self,
        source: Source,
        len: usize,
        buffer: &Buffer<T>,
        offset: u64,
    ) -> Result<Staged> {
        let bytes = len as u64;
        let part = Part { block_offset: 0, buffer_offset: offset, len_bytes: bytes };
        checked_bytes(&[part], bytes, buffer.size_bytes())?;
        let queue = &self.queues.h2d;
        buffer.stream().device().same_as(queue.express_stream().device(), "buffer")?;
        let ring = self.queues.pageable.ring(queue, self.urgency)?;
        queue.requested(bytes);
        let device = buffer.ptr().0 + offset;
        // SAFETY: the range lies in the buffer by the check, and the buffer keeps it until the
        // stream given has passed. A lent source is waited for by `upload_slice`.
        buffer.in_order_of(|last| unsafe { ring.take(source, device, bytes, last) })
    }

    fn staged<B>(&self, block: B, len: usize, staged: Staged) -> Pending<B> {
        let Staged { request, gate, turn, .. } = staged;
        let placed = Placed::Held { request, gate, turn };
        Pending::new(block, len as u64, placed, &self.queues.h2d)
    }
}
