//! Where reads land: pinned memory that readers fill and a copy stream drains, aligned as direct
//! reads want it. Who may touch it when is decided by [`Lane`](super::lane::Lane).

use crate::base::Result;
use crate::device::Stream;
use crate::pinned::{PinnedBlock, PinnedPool};

use super::plan::{ALIGN, SLACK_BYTES};
use super::ram::Claim;

/// Pinned memory of an aligned start.
#[derive(Debug)]
pub(super) struct Landing {
    block: PinnedBlock,
    /// Bytes of the block before the start.
    skipped: usize,
    /// Bytes from there on.
    len_bytes: u64,
    /// What it counts in a cache, given back after the memory.
    _claim: Option<Claim>,
}

impl Landing {
    /// Room for chunks of `bytes`, wherever they begin in their file, used by `streams`.
    pub(super) fn new(pinned: &PinnedPool, bytes: u64, streams: &[&Stream]) -> Result<Self> {
        let len_bytes = Self::bytes_for(bytes);
        let mut landing = Self::aligned(pinned.alloc_pinned(len_bytes as usize)?, len_bytes);
        if landing.block.len() < landing.skipped + len_bytes as usize {
            // A pool that aligns to less than a page.
            let block = pinned.alloc_pinned((len_bytes + ALIGN) as usize)?;
            landing = Self::aligned(block, len_bytes);
        }
        for stream in streams {
            landing.block.record_use(stream)?;
        }
        Ok(landing)
    }

    fn aligned(block: PinnedBlock, len_bytes: u64) -> Self {
        let skipped = block.as_mut_ptr().align_offset(ALIGN as usize);
        Self { block, skipped, len_bytes, _claim: None }
    }

    /// What room for a unit of `bytes` takes.
    pub(super) fn bytes_for(bytes: u64) -> u64 {
        bytes.saturating_add(SLACK_BYTES)
    }

    /// Counts it in a cache, until it is gone.
    pub(super) fn claimed_by(self, claim: Option<Claim>) -> Self {
        Self { _claim: claim, ..self }
    }

    /// Keeps the memory for what is enqueued on `stream`.
    ///
    /// # Errors
    /// A stream of another device.
    pub(super) fn record_use(&self, stream: &Stream) -> Result<()> {
        self.block.record_use(stream)
    }

    /// The byte at `offset` from the aligned start.
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        self.block.as_mut_ptr().wrapping_add(self.skipped + offset as usize)
    }

    /// Its size in bytes, from the aligned start: what it takes of a cache's budget.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}
