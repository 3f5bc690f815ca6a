//! Where reads land: pinned memory that readers fill and a copy stream drains, aligned as direct
//! reads want it. Who may touch it when is decided by [`Lane`](super::lane::Lane).

use crate::base::Result;
use crate::device::Stream;
use crate::pinned::{PinnedBlock, PinnedPool};

use super::plan::{ALIGN, SLACK_BYTES};

/// Pinned memory of an aligned start.
#[derive(Debug)]
pub(super) struct Landing {
    block: PinnedBlock,
    /// Bytes of the block before the start.
    skipped: usize,
}

impl Landing {
    /// Room for chunks of `bytes`, wherever they begin in their file, used by `streams`.
    pub(super) fn new(pinned: &PinnedPool, bytes: u64, streams: &[&Stream]) -> Result<Self> {
        let mut block = Self::aligned(pinned.alloc_pinned((bytes + SLACK_BYTES) as usize)?);
        if block.block.len() < block.skipped + (bytes + SLACK_BYTES) as usize {
            // A pool that aligns to less than a page.
            block = Self::aligned(pinned.alloc_pinned((bytes + SLACK_BYTES + ALIGN) as usize)?);
        }
        for stream in streams {
            block.block.record_use(stream)?;
        }
        Ok(block)
    }

    fn aligned(block: PinnedBlock) -> Self {
        let skipped = block.as_mut_ptr().align_offset(ALIGN as usize);
        Self { block, skipped }
    }

    /// The byte at `offset` from the aligned start.
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        self.block.as_mut_ptr().wrapping_add(self.skipped + offset as usize)
    }
}
