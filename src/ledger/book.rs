//! The ledger itself.
//!
//! Invariants
//! 1. The blocks of a segment tile it: in address order, without gap or overlap.
//! 2. No two neighbours are both free.
//! 3. The bins of a class hold exactly its free blocks.
//! 4. The totals are the sums over all blocks that are not absent.

use std::collections::HashMap;
use std::ops::{Index, Range};

use super::bins::Bins;
use super::block::{Block, BlockId, Segment, SegmentId, State};
use super::places::PLACES;

/// Segments of one stream, the blocks in them, and an index over what is free.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Places of blocks that are gone have size 0 and are used again.
    pub(super) blocks: Vec<Block>,
    pub(super) vacant_blocks: Vec<BlockId>,
    /// Names only [`places`](super::places) give.
    pub(super) kept: Range<u32>,
    pub(super) segments: Vec<Option<Segment>>,
    pub(super) vacant_segments: Vec<SegmentId>,
    /// By class.
    pub(super) free: Vec<Option<Box<Bins>>>,
    pub(super) totals: Totals,
    pub(super) version: u64,
    /// Where to look first for an address, by segment and page of it; see `ranges`.
    pub(super) hints: HashMap<SegmentId, Vec<BlockId>>,
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
            freed_at,
            segment,
            state,
            class,
            marked: false,
            serial,
            prev: BlockId::NONE,
            next: BlockId::NONE,
            left: BlockId::NONE,
            right: BlockId::NONE,
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
    #[inline]
    pub fn take(&mut self, id: BlockId, bytes: u64, requested_bytes: u64) -> SplitChange {
        if self[id].class == PLACES {
            return self.take_front(id, bytes, requested_bytes);
        }
        self.version += 1;
        self.totals.active_bytes += bytes;
        let place = (bytes < self[id].bytes).then(|| self.vacancy());
        let blocks = self.blocks.as_mut_slice();
        let block = &mut blocks[id.0 as usize];
        debug_assert!(block.state == State::Free && bytes > 0 && bytes <= block.bytes);
        let whole_bytes = block.bytes;
        let mut change = SplitChange::default();
        if !block.is_whole() {
            change = SplitChange { blocks: -1, bytes: -(whole_bytes as i64) };
        }
        let bins = bins(&mut self.free, block.class);
        bins.remove(blocks, id);
        let block = &mut blocks[id.0 as usize];
        block.state = State::Active;
        block.requested_bytes = requested_bytes;
        let Some(rest) = place else { return change };
        let next = std::mem::replace(&mut block.next, rest);
        block.bytes = bytes;
        // Field by field: a copy of the whole line would wait for the last stores into it.
        let after = Block {
            address: block.address + bytes,
            bytes: whole_bytes - bytes,
            requested_bytes: 0,
            freed_at: block.freed_at,
            segment: block.segment,
            state: State::Free,
            class: block.class,
            marked: false,
            serial: block.serial,
            prev: id,
            next,
            left: BlockId::NONE,
            right: BlockId::NONE,
        };
        blocks[rest.0 as usize] = after;
        if next != BlockId::NONE {
            blocks[next.0 as usize].prev = rest;
        }
        bins.insert(blocks, rest);
        change.blocks += 1;
        change.bytes += (whole_bytes - bytes) as i64;
        change
    }

    /// Marks an active block as freed but in flight.
    pub fn retire(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        debug_assert_eq!(block.state, State::Active);
        block.state = State::Retired;
        self.version += 1;
        self.totals.active_bytes -= block.bytes;
        self.totals.retired_bytes += block.bytes;
    }

    /// Makes an active or retired block free and merges it with free neighbours.
    #[inline]
    pub fn give_back(&mut self, id: BlockId, freed_at: u64) -> SplitChange {
        self.version += 1;
        if self[id].class == PLACES {
            return self.give_back_place(id);
        }
        let blocks = self.blocks.as_mut_slice();
        let block = &mut blocks[id.0 as usize];
        match block.state {
            State::Active => self.totals.active_bytes -= block.bytes,
            State::Retired => self.totals.retired_bytes -= block.bytes,
            State::Free | State::Absent => {
                debug_assert!(false, "freed twice");
                return SplitChange::default();
            }
        }
        block.state = State::Free;
        block.requested_bytes = 0;
        block.freed_at = freed_at;
        let (prev, next) = (block.prev, block.next);
        let bins = bins(&mut self.free, block.class);
        let mut change = SplitChange::default();
        if is_free(blocks, next) {
            change.blocks -= 1;
            change.bytes -= blocks[next.0 as usize].bytes as i64;
            bins.remove(blocks, next);
            absorb_next(blocks, id, next);
            self.vacant_blocks.push(next);
        }
        let mut merged = id;
        if is_free(blocks, prev) {
            change.blocks -= 1;
            change.bytes -= blocks[prev.0 as usize].bytes as i64;
            bins.remove(blocks, prev);
            absorb_next(blocks, prev, id);
            self.vacant_blocks.push(id);
            blocks[prev.0 as usize].freed_at = freed_at;
            merged = prev;
        }
        let block = &blocks[merged.0 as usize];
        if !block.is_whole() {
            change.blocks += 1;
            change.bytes += block.bytes as i64;
        }
        bins.insert(blocks, merged);
        change
    }

    /// The free block of a class to serve `bytes` from: the smallest that holds them, of these
    /// the one in the oldest segment, of these the lowest.
    #[inline]
    #[must_use]
    pub fn best_fit(&self, class: u8, bytes: u64) -> Option<BlockId> {
        self.free.get(class as usize)?.as_ref()?.best_fit(&self.blocks, bytes)
    }

    /// The free blocks of a class that hold `bytes`, best fit first.
    pub fn fits(&self, class: u8, bytes: u64) -> impl Iterator<Item = BlockId> + '_ {
        let bins = self.free.get(class as usize).and_then(Option::as_deref);
        let first = bins.and_then(|bins| bins.best_fit(&self.blocks, bytes));
        std::iter::successors(first, move |&id| bins?.after(&self.blocks, id))
    }

    /// The free blocks of a class that are whole segments, so that these could be given back.
    pub fn releasable(&self, class: u8) -> impl Iterator<Item = BlockId> + '_ {
        self.fits(class, 0).filter(|&id| self[id].is_whole())
    }

    /// The classes there are free blocks of, in order.
    pub fn free_classes(&self) -> impl DoubleEndedIterator<Item = u8> + '_ {
        let filled = |bins: &Option<Box<Bins>>| bins.as_ref().is_some_and(|bins| bins.len() > 0);
        (0..self.free.len())
            .filter(move |&class| filled(&self.free[class]))
            .map(|class| class as u8)
    }

    /// The largest free block of a class, in bytes.
    #[must_use]
    pub fn largest_free_bytes(&self, class: u8) -> u64 {
        let bins = self.free.get(class as usize).and_then(Option::as_deref);
        let largest = bins.and_then(|bins| bins.largest(&self.blocks));
        largest.map_or(0, |id| self[id].bytes)
    }

    /// A block, if there is one of that name.
    #[must_use]
    pub fn get(&self, id: BlockId) -> Option<&Block> {
        self.blocks.get(id.0 as usize).filter(|block| block.bytes > 0)
    }

    /// A segment, if there is one of that name.
    #[must_use]
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(id.0 as usize)?.as_ref()
    }

    /// Changes what a block's owner asked for.
    #[inline]
    pub fn set_requested(&mut self, id: BlockId, requested_bytes: u64) {
        self.blocks[id.0 as usize].requested_bytes = requested_bytes;
    }

    /// Sets [`Block::marked`] of an active block.
    pub fn set_marked(&mut self, id: BlockId, marked: bool) {
        self.blocks[id.0 as usize].marked = marked;
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
        let front = &mut self.blocks[id.0 as usize];
        let next = front.next;
        let mut rest = front.clone();
        front.bytes = bytes;
        rest.address += bytes;
        rest.bytes -= bytes;
        rest.prev = id;
        let rest = self.enter(rest);
        self.blocks[id.0 as usize].next = rest;
        if next != BlockId::NONE {
            self.blocks[next.0 as usize].prev = rest;
        }
        rest
    }

    /// Makes the next block, which is in no index, part of `id`.
    pub(super) fn absorb_next(&mut self, id: BlockId) {
        let next = self[id].next;
        absorb_next(&mut self.blocks, id, next);
        self.forget_name(next);
    }

    /// A place for a new block.
    #[inline]
    pub(super) fn vacancy(&mut self) -> BlockId {
        self.vacant_blocks.pop().unwrap_or_else(|| self.new_place())
    }

    #[cold]
    fn new_place(&mut self) -> BlockId {
        self.blocks.push(Block::none());
        BlockId(self.blocks.len() as u32 - 1)
    }

    pub(super) fn enter(&mut self, block: Block) -> BlockId {
        let id = self.vacancy();
        self.blocks[id.0 as usize] = block;
        id
    }

    pub(super) fn leave(&mut self, id: BlockId) {
        self.blocks[id.0 as usize].bytes = 0;
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
    free[class as usize].get_or_insert_default()
}

#[inline(always)]
fn is_free(blocks: &[Block], id: BlockId) -> bool {
    id != BlockId::NONE && blocks[id.0 as usize].state == State::Free
}

/// Makes `next`, the block after `id`, which is in no index, part of it.
#[inline(always)]
fn absorb_next(blocks: &mut [Block], id: BlockId, next: BlockId) {
    let absorbed = &mut blocks[next.0 as usize];
    let bytes = std::mem::take(&mut absorbed.bytes);
    let after = absorbed.next;
    if after != BlockId::NONE {
        blocks[after.0 as usize].prev = id;
    }
    let block = &mut blocks[id.0 as usize];
    block.bytes += bytes;
    block.next = after;
}

impl Index<BlockId> for Ledger {
    type Output = Block;

    #[inline]
    fn index(&self, id: BlockId) -> &Block {
        &self.blocks[id.0 as usize]
    }
}
