//! What the ledger keeps: segments, and the blocks that tile them.

/// Names a block of one ledger while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub(super) usize);

/// Names a segment of one ledger while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub(super) usize);

/// What a block is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody's: may be taken.
    Free,
    /// Handed out.
    Active,
    /// Freed, but some stream may still use it.
    Retired,
}

/// Memory from the device. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// Its first byte.
    pub address: u64,
    /// Its size.
    pub bytes: u64,
    /// The policy's class of requests it serves; blocks of different classes never mix.
    pub class: u8,
    /// The stream it was made for.
    pub stream: u64,
    /// Counts up over the ledger's life: a smaller one is older.
    pub serial: u64,
    pub(super) first: BlockId,
}

/// A part of a segment. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Block {
    /// Where it lies.
    pub segment: SegmentId,
    /// Its first byte.
    pub address: u64,
    /// Its size.
    pub bytes: u64,
    /// What the caller asked for; 0 while free.
    pub requested_bytes: u64,
    /// What it is doing.
    pub state: State,
    /// The policy's clock when it became free.
    pub freed_at: u64,
    pub(super) prev: Option<BlockId>,
    pub(super) next: Option<BlockId>,
}

impl Block {
    /// True when the block is its whole segment.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.prev.is_none() && self.next.is_none()
    }
}
