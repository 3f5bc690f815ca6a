//! What the ledger keeps: segments, and the blocks that tile them.

use std::num::NonZeroU32;

use super::queue::Queue;

/// Names a block of one ledger while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub(super) u32);

/// Names no block.
impl Default for BlockId {
    fn default() -> Self {
        Self::NONE
    }
}

impl BlockId {
    /// Names no block. What stands in its place is never free and never looked at: links may
    /// be followed and written without asking first whether they lead anywhere.
    pub(crate) const NONE: Self = Self(0);

    /// A number of its own, small, which another block may have once it is gone.
    #[must_use]
    pub fn place(self) -> usize {
        self.0 as usize
    }

    #[inline]
    pub(super) fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }

    /// Its place in the list of blocks.
    #[inline(always)]
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }
}

/// Names a segment of one ledger while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub(super) u32);

/// What a block is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody's: may be taken.
    Free,
    /// Handed out.
    Active,
    /// Freed, but some stream may still use it.
    Retired,
    /// Address space with no memory of this ledger behind it.
    Absent,
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
    pub serial: u32,
    pub(super) first: BlockId,
}

/// A part of a segment, in one cache line. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[repr(align(64))]
pub struct Block {
    /// Its first byte.
    pub address: u64,
    /// Its size.
    pub bytes: u64,
    /// What the caller asked for; 0 while free.
    pub requested_bytes: u64,
    /// The policy's clock when it became free: its last 32 bits.
    pub freed_at: u32,
    /// Where it lies.
    pub segment: SegmentId,
    /// What it is doing.
    pub state: State,
    /// Its segment's class.
    pub class: u8,
    /// There is more to know of it elsewhere. The ledger only keeps this, while it is active.
    pub marked: bool,
    /// Where that is, if it is kept by number. The ledger only keeps this, while it is active.
    pub note: Option<NonZeroU32>,
    /// Where it is in the free index; meaningless while it is not free.
    pub(super) bin: u16,
    /// Its segment's age, for the order of the free index.
    pub(super) serial: u32,
    /// Its neighbours in the segment.
    pub(super) prev: BlockId,
    pub(super) next: BlockId,
    /// While it is the first of its bin, the others; else its place among those.
    pub(super) queue: Queue,
}

impl Block {
    /// True when the block is its whole segment.
    #[must_use]
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.prev.0 | self.next.0 == BlockId::NONE.0
    }

    /// Its place in the order of search: the smallest first, then the oldest segment, then the
    /// lowest address.
    #[inline(always)]
    pub(super) fn rank(&self) -> Rank {
        (self.bytes, u128::from(self.serial) << 64 | u128::from(self.address))
    }
}

/// Size; age of the segment and address, as one number because that is compared in one go.
pub(super) type Rank = (u64, u128);

const _: () = assert!(size_of::<Block>() == 64);

/// What stands in a place nobody uses.
pub(super) const NO_BLOCK: Block = Block {
    address: 0,
    bytes: 0,
    requested_bytes: 0,
    freed_at: 0,
    segment: SegmentId(u32::MAX),
    state: State::Active,
    class: 0,
    marked: false,
    note: None,
    bin: 0,
    serial: 0,
    prev: BlockId::NONE,
    next: BlockId::NONE,
    queue: Queue::EMPTY,
};
