//! Owned pinned memory.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::PinnedPool;
use crate::base::{Result, lock};
use crate::device::Stream;
use crate::ledger::BlockId;

/// Pinned host memory, readable and writable as a byte slice. Its content is whatever its last
/// user left, zeros at first. Dropping it gives it back to its pool without waiting: it is used
/// again once the streams of [`record_use`](Self::record_use) are done.
pub struct PinnedBlock {
    pool: PinnedPool,
    id: BlockId,
    ptr: NonNull<u8>,
    len: usize,
    uses: Mutex<Vec<Stream>>,
}

// SAFETY: the block owns its memory as a `Vec<u8>` does; the pool behind it is thread-safe.
unsafe impl Send for PinnedBlock {}
// SAFETY: through `&PinnedBlock` the memory can only be read, and `uses` has its own lock.
unsafe impl Sync for PinnedBlock {}

impl PinnedBlock {
    /// The block `id` of `pool`: `len` bytes at `ptr`, which are the caller's to hand out.
    pub(super) fn new(pool: PinnedPool, id: BlockId, ptr: NonNull<u8>, len: usize) -> Self {
        Self { pool, id, ptr, len, uses: Mutex::new(Vec::new()) }
    }

    /// Notes that work on `stream` uses the memory, so that it is not given to anyone else
    /// before that work is done. For whoever enqueues copies by address; the copies of this
    /// crate do it themselves. Never blocks.
    ///
    /// # Errors
    /// A stream of another device.
    pub fn record_use(&self, stream: &Stream) -> Result<()> {
        self.pool.device().same_as(stream.device(), "stream")?;
        let mut uses = lock(&self.uses);
        if !uses.contains(stream) {
            uses.push(stream.clone());
        }
        Ok(())
    }

    /// Its first byte. Writing through it is for whoever owns the block and has lent it to
    /// nobody.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Gives up the right to write, so that several copies may read at once.
    #[must_use]
    pub fn freeze(self) -> PinnedSource {
        PinnedSource(Arc::new(self))
    }
}

impl Deref for PinnedBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is this block's alone and initialised (the driver zeroes slabs).
        // Copies that write into it own it while they run (see `transfer`).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for PinnedBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; copies that read from it own it, or share it as a
        // `PinnedSource`, which never gives a `&mut` again.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for PinnedBlock {
    fn drop(&mut self) {
        let uses = self.uses.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.pool.free_block(self.id, std::mem::take(uses));
    }
}

impl fmt::Debug for PinnedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedBlock({:p}, {} bytes)", self.ptr, self.len)
    }
}

/// A pinned block nobody may write any more: the source of any number of copies. Clones share
/// the memory.
#[derive(Debug, Clone)]
pub struct PinnedSource(Arc<PinnedBlock>);

impl PinnedSource {
    pub(crate) fn block(&self) -> &PinnedBlock {
        &self.0
    }
}

impl Deref for PinnedSource {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
