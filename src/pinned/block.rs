//! Owned pinned memory.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::shared::Shared;
use super::slab::Kind;
use super::uses::Uses;
use crate::base::{Result, lock};
use crate::device::Stream;
use crate::ledger::BlockId;

/// A range of a pool's memory that is out of its free lists. A name only: it keeps nothing alive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) id: BlockId,
    pub(super) start: NonNull<u8>,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

// SAFETY: an address and a size, which give no right to what is there.
unsafe impl Send for Range {}
// SAFETY: likewise.
unsafe impl Sync for Range {}

/// A range somebody has, and what keeps the pool's insides alive for it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) anchor: Arc<Anchor>,
    pub(super) range: Range,
}

/// One of several that a pool has, so that blocks of different threads count their references in
/// different cache lines. Two lines: processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Anchor(pub(super) Arc<Shared>);

impl Piece {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.anchor.0
    }
}

/// Pinned host memory, readable and writable as a byte slice. Its content is whatever its last
/// user left, zeros at first. Dropping it gives it back to its pool without waiting: it is used
/// again once the streams of [`record_use`](Self::record_use) are done.
pub struct PinnedBlock {
    /// There until the block is dropped.
    piece: Option<Piece>,
    start: NonNull<u8>,
    len: usize,
    uses: Mutex<Uses>,
}

// SAFETY: the block owns its memory as a `Vec<u8>` does; the pool behind it is thread-safe.
unsafe impl Send for PinnedBlock {}
// SAFETY: through `&PinnedBlock` the memory can only be read, and `uses` has its own lock.
unsafe impl Sync for PinnedBlock {}

impl PinnedBlock {
    /// The first `len` bytes of `piece`, which are the caller's to hand out.
    #[inline]
    pub(super) fn new(piece: Piece, len: usize) -> Self {
        let start = piece.range.start;
        Self { piece: Some(piece), start, len, uses: Mutex::new(Uses::default()) }
    }

    /// Notes that work on `stream` uses the memory, so that it is not given to anyone else
    /// before that work is done. For whoever enqueues copies by address; the copies of this
    /// crate do it themselves. While the stream is captured (see
    /// [`PinnedGraph::begin_capture`](super::PinnedGraph::begin_capture)), the memory stays the
    /// graph's until that is gone. Never blocks.
    ///
    /// # Errors
    /// A stream of another device.
    pub fn record_use(&self, stream: &Stream) -> Result<()> {
        let Some(piece) = &self.piece else { return Ok(()) };
        piece.shared().device.same_as(stream.device(), "stream")?;
        let graph = piece.shared().captures.graph_of(stream);
        lock(&self.uses).add(stream, graph);
        Ok(())
    }

    /// True unless the system refused to pin the memory. Devices cannot copy from and to it
    /// directly then: copies have to go through memory that is pinned.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.piece.as_ref().is_none_or(|piece| piece.range.kind != Kind::Pageable)
    }

    /// Its first byte. Writing through it is for whoever owns the block and has lent it to
    /// nobody.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
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
        // SAFETY: the range is this block's alone and initialised (slabs are zeroed).
        // Copies that write into it own it while they run (see `transfer`).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for PinnedBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; copies that read from it own it, or share it as a
        // `PinnedSource`, which never gives a `&mut` again.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for PinnedBlock {
    #[inline]
    fn drop(&mut self) {
        let uses = self.uses.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = self.piece.take() {
            Shared::put_back(piece, std::mem::take(uses));
        }
    }
}

impl fmt::Debug for PinnedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_pinned() { "" } else { ", pageable" };
        write!(f, "PinnedBlock({:p}, {} bytes{kind})", self.start, self.len)
    }
}

/// A pinned block nobody may write any more: the source of any number of copies. Clones share
/// the memory.
#[derive(Debug, Clone)]
pub struct PinnedSource(Arc<PinnedBlock>);

impl PinnedSource {
    /// See [`PinnedBlock::is_pinned`].
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.0.is_pinned()
    }

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
