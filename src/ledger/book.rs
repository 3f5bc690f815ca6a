//! The ledger itself.
//!
//! Invariants
//! 1. The blocks of a segment tile it: in address order, without gap or overlap.
//! 2. No two neighbours are both free.
//! 3. The bins of a class hold exactly its free blocks.
//! 4. The totals are the sums over all blocks that are not absent.

use std::num::NonZeroU32;
use std::ops::{Index, Range};

use super::bins::Bins;
use super::block::{Block, BlockId, NO_BLOCK, Segment, SegmentId, State};
use super::places::PLACES;
use super::queue::Queue;

/// Segments of one stream, the blocks in them, and an index over what is free.
#[derive(Debug)]
pub struct Ledger {
    /// Places of blocks that are gone have size 0 and are used again. The first is nobody's.
    pub(super) blocks: Vec<Block>,
    /// The place that was left last; each leads to the one left before it.
    pub(super) vacant: BlockId,
    /// Names only [`places`](super::places) give.
    pub(super) kept: Range<u32>,
    pub(super) segments: Vec<Option<Segment>>,
    pub(super) vacant_segments: Vec<SegmentId>,
    /// By class.
    pub(super) free: Vec<Option<Box<Bins>>>,
    pub(super) totals: Totals,
    pub(super) version: u64,
    /// Where to look first for an address, by segment and page of it; none where the segment is
    /// no range. See `ranges`.
    pub(super) hints: Vec<Option<Vec<BlockId>>>,
    /// In ranges.
    pub(super) ranges_bytes: u64,
}

/// A segment to be entered. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct NewSegment {
    /// Its first byte.
    pub address: u64,
    /// Its size, above 0.
    pub bytes: u64,
    /// See [`Segment::class`].
    pub class: u8,
    /// See [`Segment::stream`].
    pub stream: u64,
    /// See [`Segment::serial`].
    pub serial: u32,
}

/// Sums over a ledger, in bytes. `reserved = active + retired + cached`, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// In segments, less what is absent.
    pub reserved_bytes: u64,
    /// Handed out.
    pub active_bytes: u64,
    /// Freed, but still in flight.
    pub retired_bytes: u64,
}

impl Totals {
    /// Free to be handed out.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.reserved_bytes - self.active_bytes - self.retired_bytes
    }
}

/// How a step changed the free blocks that are a part of a segment only: such memory cannot go
/// back to the device until its neighbours are free too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SplitChange {
    /// How many more there are.
    pub blocks: i64,
    /// How many more bytes they hold.
    pub bytes: i64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            blocks: vec![NO_BLOCK],
            vacant: BlockId::NONE,
            kept: 0..0,
            segments: Vec::new(),
            vacant_segments: Vec::new(),
            free: Vec::new(),
            totals: Totals::default(),
            version: 0,
            hints: Vec::new(),
            ranges_bytes: 0,
        }
    }
}

impl Ledger {
    /// Enters a segment as one free block.
    pub fn add_segment(&mut self, new: NewSegment, freed_at: u64) -> BlockId {
        self.totals.reserved_bytes += new.bytes;
        let block = self.enter_segment(new, freed_at, State::Free);
        self.index(block);
        block
    }

    /// Makes a segment of one block, which is in no index.
    pub(super) fn enter_segment(
        &mut self,
        new: NewSegment,
        freed_at: u64,
        state: State,
    ) -> BlockId {
        let NewSegment { address, bytes, class, stream, serial } = new;
        let segment = self.vacant_segments.pop().unwrap_or_else(|| {
            self.segments.push(None);
            SegmentId(self.segments.len() as u32 - 1)
        });
        let block = self.enter(Block {
            address,
            bytes,
            requested_bytes: 0,
            freed_at: freed_at as u32,
            segment,
            state,
            class,
            marked: false,
            note: None,
            bin: 0,
            serial,
            prev: BlockId::NONE,
            next: BlockId::NONE,
            queue: Queue::EMPTY,
        });
        if class as usize >= self.free.len() {
            self.free.resize_with(class as usize + 1, || None);
        }
        self.segments[segment.0 as usize] =
            Some(Segment { address, bytes, class, stream, serial, first: block });
        block
    }

    /// Takes a segment out, if it is one free block; else gives `None` and changes nothing.
    pub fn remove_segment(&mut self, id: SegmentId) -> Option<Segment> {
        let first = self.segments.get(id.0 as usize)?.as_ref()?.first;
        let block = &self[first];
        if block.state != State::Free || !block.is_whole() {
            return None;
        }
        self.unindex(first);
        self.leave(first);
        let segment = self.segments[id.0 as usize].take()?;
        self.vacant_segments.push(id);
        self.totals.reserved_bytes -= segment.bytes;
        Some(segment)
    }

    /// Hands a free block out; if it is larger than `bytes`, its front part, and the rest stays
    /// free. Pass the block's own size to take it whole.
    #[inline(always)]
    pub fn take(&mut self, id: BlockId, bytes: u64, requested_bytes: u64) -> SplitChange {
        if self[id].class == PLACES {
            return self.take_front(id, bytes, requested_bytes);
        }
        self.version += 1;
        self.totals.active_bytes += bytes;
        let blocks = self.blocks.as_mut_slice();
        let bins = bins(&mut self.free, blocks[id.at()].class);
        bins.remove(blocks, id);
        let block = &mut blocks[id.at()];
        debug_assert!(block.state == State::Free && bytes > 0 && bytes <= block.bytes);
        block.state = State::Active;
        block.requested_bytes = requested_bytes;
        let was_part = !block.is_whole();
        let rest_bytes = block.bytes - bytes;
        if rest_bytes == 0 {
            return SplitChange {
                blocks: -i64::from(was_part),
                bytes: if was_part { -(bytes as i64) } else { 0 },
            };
        }
        block.bytes = bytes;
        let Block { address, freed_at, segment, class, serial, next, .. } = *block;
        let rest = vacancy(&mut self.vacant, &mut self.blocks);
        let blocks = self.blocks.as_mut_slice();
        let after = &mut blocks[rest.at()];
        after.address = address + bytes;
        after.bytes = rest_bytes;
        after.requested_bytes = 0;
        after.freed_at = freed_at;
        (after.segment, after.serial) = (segment, serial);
        (after.state, after.class, after.marked) = (State::Free, class, false);
        (after.prev, after.next) = (id, next);
        blocks[next.at()].prev = rest;
        blocks[id.at()].next = rest;
        bins.insert(blocks, rest);
        SplitChange {
            blocks: i64::from(!was_part),
            bytes: if was_part { -(bytes as i64) } else { rest_bytes as i64 },
        }
    }

    /// Marks an active block as freed but in flight.
    pub fn retire(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.at()];
        debug_assert_eq!(block.state, State::Active);
        block.state = State::Retired;
        self.version += 1;
        self.totals.active_bytes -= block.bytes;
        self.totals.retired_bytes += block.bytes;
    }

    /// Makes an active or retired block free and merges it with free neighbours.
    #[inline(always)]
    pub fn give_back(&mut self, id: BlockId, freed_at: u64) -> SplitChange {
        let block = &self.blocks[id.at()];
        if block.class == PLACES {
            return self.give_back_place(id);
        }
        match block.state {
            State::Active => self.totals.active_bytes -= block.bytes,
            _ => return self.give_back_retired(id, freed_at),
        }
        self.make_free(id, freed_at)
    }

    #[cold]
    #[inline(never)]
    fn give_back_retired(&mut self, id: BlockId, freed_at: u64) -> SplitChange {
        let block = &self.blocks[id.at()];
        if block.state != State::Retired {
            debug_assert!(false, "freed twice");
            return SplitChange::default();
        }
        self.totals.retired_bytes -= block.bytes;
        self.make_free(id, freed_at)
    }

    /// Makes a block free that is counted in no total, and merges it with free neighbours.
    #[inline(always)]
    fn make_free(&mut self, id: BlockId, freed_at: u64) -> SplitChange {
        self.version += 1;
        let blocks = self.blocks.as_mut_slice();
        let Block { bytes, prev, next, class, .. } = blocks[id.at()];
        let bins = bins(&mut self.free, class);
        let with_next = blocks[next.at()].state == State::Free;
        let with_prev = blocks[prev.at()].state == State::Free;
        let (mut merged, mut others_bytes) = (id, 0);
        if with_next {
            bins.remove(blocks, next);
            others_bytes += absorb_next(&mut self.vacant, blocks, id, next);
        }
        if with_prev {
            bins.remove(blocks, prev);
            others_bytes += blocks[prev.at()].bytes;
            absorb_next(&mut self.vacant, blocks, prev, id);
            merged = prev;
        }
        let block = &mut blocks[merged.at()];
        block.requested_bytes = 0;
        block.freed_at = freed_at as u32;
        block.state = State::Free;
        let is_whole = block.is_whole();
        bins.insert(blocks, merged);
        // It counts unless it is a whole segment, and what it was merged with counts no more.
        SplitChange {
            blocks: i64::from(!is_whole) - i64::from(with_next) - i64::from(with_prev),
            bytes: if is_whole { -(others_bytes as i64) } else { bytes as i64 },
        }
    }

    /// The free block of a class to serve `bytes` from: the smallest that holds them, of these
    /// the one in the oldest segment, of these the lowest.
    #[inline(always)]
    #[must_use]
    pub fn best_fit(&self, class: u8, bytes: u64) -> Option<BlockId> {
        self.free.get(class as usize)?.as_ref()?.best_fit(&self.blocks, bytes)
    }

    /// The free blocks of a class that hold `bytes`, best fit first.
    pub fn fits(&self, class: u8, bytes: u64) -> impl Iterator<Item = BlockId> + '_ {
        let bins = self.free.get(class as usize).and_then(Option::as_deref);
        bins.into_iter().flat_map(move |bins| bins.fits(&self.blocks, bytes))
    }

    /// The free blocks of a class that are whole segments, so that these could be given back.
    pub fn releasable(&self, class: u8) -> impl Iterator<Item = BlockId> + '_ {
        self.fits(class, 0).filter(|&id| self[id].is_whole())
    }

    /// The classes there are free blocks of, in order.
    pub fn free_classes(&self) -> impl DoubleEndedIterator<Item = u8> + '_ {
        let filled = |bins: &Option<Box<Bins>>| bins.as_ref().is_some_and(|bins| !bins.is_empty());
        (0..self.free.len())
            .filter(move |&class| filled(&self.free[class]))
            .map(|class| class as u8)
    }

    /// The largest free block of a class, in bytes.
    #[must_use]
    pub fn largest_free_bytes(&self, class: u8) -> u64 {
        let bins = self.free.get(class as usize).and_then(Option::as_deref);
        bins.map_or(0, |bins| bins.largest_bytes(&self.blocks))
    }

    /// A block, if there is one of that name.
    #[must_use]
    pub fn get(&self, id: BlockId) -> Option<&Block> {
        self.blocks.get(id.at()).filter(|block| block.bytes > 0)
    }

    /// A segment, if there is one of that name.
    #[must_use]
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(id.0 as usize)?.as_ref()
    }

    /// Changes what a block's owner asked for.
    #[inline]
    pub fn set_requested(&mut self, id: BlockId, requested_bytes: u64) {
        self.blocks[id.at()].requested_bytes = requested_bytes;
    }

    /// Sets [`Block::marked`] of an active block.
    pub fn set_marked(&mut self, id: BlockId, marked: bool) {
        self.blocks[id.at()].marked = marked;
    }

    /// Sets [`Block::note`] of an active block.
    pub fn set_note(&mut self, id: BlockId, note: Option<NonZeroU32>) {
        self.blocks[id.at()].note = note;
    }

    /// Sums over all segments.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Rises with every change of what is free.
    #[must_use]
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every block, in no order.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.bytes > 0)
    }

    /// Every segment, in no order.
    pub fn segments(&self) -> impl Iterator<Item = (SegmentId, &Segment)> {
        let entries = self.segments.iter().enumerate();
        entries.filter_map(|(at, segment)| Some((SegmentId(at as u32), segment.as_ref()?)))
    }

    /// Cuts a block in two of its state; gives the rear one, which is in no index.
    pub(super) fn cut(&mut self, id: BlockId, bytes: u64) -> BlockId {
        let front = &mut self.blocks[id.at()];
        let next = front.next;
        let mut rest = front.clone();
        front.bytes = bytes;
        rest.address += bytes;
        rest.bytes -= bytes;
        rest.prev = id;
        let rest = self.enter(rest);
        self.blocks[id.at()].next = rest;
        self.blocks[next.at()].prev = rest;
        rest
    }

    /// Makes the next block, which is in no index, part of `id`.
    pub(super) fn absorb_next(&mut self, id: BlockId) {
        let next = self[id].next;
        let Block { bytes, next: after, .. } = self.blocks[next.at()];
        self.blocks[after.at()].prev = id;
        let block = &mut self.blocks[id.at()];
        block.bytes += bytes;
        block.next = after;
        self.leave(next);
    }

    /// A name no block has.
    pub(super) fn vacancy(&mut self) -> BlockId {
        vacancy(&mut self.vacant, &mut self.blocks)
    }

    pub(super) fn enter(&mut self, block: Block) -> BlockId {
        let id = vacancy(&mut self.vacant, &mut self.blocks);
        self.blocks[id.at()] = block;
        id
    }

    pub(super) fn leave(&mut self, id: BlockId) {
        (self.blocks[id.at()].bytes, self.blocks[id.at()].state) = (0, State::Active);
        self.forget_name(id);
    }

    pub(super) fn index(&mut self, id: BlockId) {
        self.version += 1;
        let class = self[id].class;
        if class == PLACES {
            return;
        }
        bins(&mut self.free, class).insert(&mut self.blocks, id);
    }

    pub(super) fn unindex(&mut self, id: BlockId) {
        self.version += 1;
        let class = self[id].class;
        if class == PLACES {
            return;
        }
        bins(&mut self.free, class).remove(&mut self.blocks, id);
    }
}

/// The index of a class that has had a segment.
#[inline(always)]
fn bins(free: &mut [Option<Box<Bins>>], class: u8) -> &mut Bins {
    match &mut free[class as usize] {
        Some(bins) => bins,
        none => make_bins(none),
    }
}

/// Apart, because an index is large on the stack while it is made.
#[cold]
#[inline(never)]
fn make_bins(bins: &mut Option<Box<Bins>>) -> &mut Bins {
    bins.insert(Box::default())
}

/// A place for a new block.
#[inline(always)]
fn vacancy(vacant: &mut BlockId, blocks: &mut Vec<Block>) -> BlockId {
    let id = *vacant;
    if id == BlockId::NONE {
        return new_place(blocks);
    }
    *vacant = blocks[id.at()].next;
    id
}

#[cold]
#[inline(never)]
fn new_place(blocks: &mut Vec<Block>) -> BlockId {
    blocks.push(NO_BLOCK);
    BlockId(blocks.len() as u32 - 1)
}

/// Lets the place of a block that is gone be used again.
#[inline(always)]
pub(super) fn vacate(vacant: &mut BlockId, blocks: &mut [Block], id: BlockId) {
    let block = &mut blocks[id.at()];
    // Whoever looks at it sees nothing that could be taken, or merged with.
    (block.bytes, block.state) = (0, State::Active);
    block.next = std::mem::replace(vacant, id);
}

/// Makes `next`, the block after `id`, which is in no index, part of it. Gives its size.
#[inline(always)]
fn absorb_next(vacant: &mut BlockId, blocks: &mut [Block], id: BlockId, next: BlockId) -> u64 {
    let Block { bytes, next: after, .. } = blocks[next.at()];
    vacate(vacant, blocks, next);
    blocks[after.at()].prev = id;
    let block = &mut blocks[id.at()];
    block.bytes += bytes;
    block.next = after;
    bytes
}

impl Index<BlockId> for Ledger {
    type Output = Block;

    #[inline]
    fn index(&self, id: BlockId) -> &Block {
        &self.blocks[id.at()]
    }
}
