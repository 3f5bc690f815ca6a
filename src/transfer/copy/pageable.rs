//! Copies between buffers and memory that is not pinned.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use bytemuck::Pod;

use super::engine::{Transfer, whole};
use super::options::TransferOptions;
use super::packing::Packed;
use super::pending::Pending;
use super::queue::{EXPRESS_BYTES, Placed, Queue};
use super::slots::is_short;
use super::span::{Part, checked_bytes, chunk_of};
use super::staging::{Source, Staged, Staging};
use crate::base::{KIB, Result, lock};
use crate::conf::Conf;
use crate::device::{Device, Stores, Stream, copy_striped};
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
                let pool = self.pool().clone();
                let started = Staging::start(queue, urgency, pool, self.threads)?;
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
        let bytes = source.len() as u64;
        let device = place_in(buffer, offset, bytes)?;
        // SAFETY: the range lies in the buffer by the check.
        let staged = unsafe { self.stage(Source::lent(source, device), bytes, buffer) }?;
        // Whatever comes of it: the borrow must not end before the thread is done with it.
        staged.staged.wait()?;
        Ok(self.pending((), self.held(staged, bytes)))
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
        let len = bytes.len() as u64;
        let device = place_in(buffer, offset, len)?;
        let shown = Source::Owned { owned: Arc::clone(&source) as _, device };
        // SAFETY: the range lies in the buffer by the check, and the source owns what it shows.
        let staged = unsafe { self.stage(shown, len, buffer) }?;
        Ok(self.pending(source, self.held(staged, len)))
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
        let stores = Stores::to(target.len());
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
            let (to, from) = (now.as_mut_ptr(), block.as_ptr());
            // SAFETY: the block holds at least so much, and is nobody else's.
            unsafe { copy_striped(to, from, len, pageable.threads, stores) };
            rest = later;
            idle.push(block);
        }
        Ok(())
    }

    /// A small source goes through a block of its own, without a thread; `None` for a large one,
    /// and where the pinned budget is spent.
    pub(super) fn upload_small<T: Pod>(
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

    /// Copies what somebody keeps through the ring. `using` is told the stream that is past the
    /// copy when it has ended.
    ///
    /// # Safety
    /// As [`Self::stage`].
    pub(super) unsafe fn stage_kept<T: Pod>(
        &self,
        packed: Packed,
        bytes: u64,
        using: impl Fn(&Stream) -> Result<()>,
        buffer: &Buffer<T>,
    ) -> Result<Placed> {
        // SAFETY: by this function's own contract.
        let staged = unsafe { self.stage_using(Source::Kept(packed), bytes, using, buffer) }?;
        let (_, placed, _) = self.held(staged, bytes);
        Ok(placed)
    }

    /// As [`Self::stage`], of memory whose keeper is told the stream that is past the copy when it
    /// has ended.
    ///
    /// # Safety
    /// As there, until the streams told have passed.
    pub(super) unsafe fn stage_using<T: Pod>(
        &self,
        source: Source,
        bytes: u64,
        using: impl Fn(&Stream) -> Result<()>,
        buffer: &Buffer<T>,
    ) -> Result<Staged> {
        let queue = &self.queues.h2d;
        buffer.stream().device().same_as(queue.express_stream().device(), "buffer")?;
        using(queue.express_stream())?;
        let ring = self.queues.pageable.ring(queue, self.urgency)?;
        queue.requested(bytes);
        buffer.in_order_of(|last| {
            // SAFETY: the buffer keeps its range until the stream given has passed, and so do the
            // keepers of the source; the rest is this function's own contract.
            let (stream, staged) = unsafe { ring.take(source, bytes, last) }?;
            using(&stream)?;
            Ok((stream, staged))
        })
    }

    /// Gives a copy of `bytes` to the ring.
    ///
    /// # Safety
    /// The targets lie in the buffer and do not overlap; the source is valid, and nobody writes
    /// it, for as long as [`Source`] says.
    unsafe fn stage<T: Pod>(
        &self,
        source: Source,
        bytes: u64,
        buffer: &Buffer<T>,
    ) -> Result<Staged> {
        // SAFETY: by this function's own contract.
        unsafe { self.stage_using(source, bytes, |_: &Stream| Ok(()), buffer) }
    }

    /// What became of a copy that the ring has.
    pub(super) fn held(&self, staged: Staged, bytes: u64) -> (u64, Placed, &Arc<Queue>) {
        let Staged { request, gate, turn, .. } = staged;
        (bytes, Placed::Held { request, gate, turn }, &self.queues.h2d)
    }
}

/// The address of a range of the buffer.
///
/// # Errors
/// It reaches beyond the buffer.
fn place_in<T: Pod>(buffer: &Buffer<T>, offset: u64, bytes: u64) -> Result<u64> {
    let part = Part { block_offset: 0, buffer_offset: offset, len_bytes: bytes };
    checked_bytes(&[part], bytes, buffer.size_bytes())?;
    Ok(buffer.ptr().0 + offset)
}
