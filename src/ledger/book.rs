//! The ledger itself.
//!
//! Invariants
//! 1. The blocks of a segment tile it: in address order, without gap or overlap.
//! 2. No two neighbours are both free.
//! 3. The free index holds exactly the free blocks.
//! 4. The totals are the sums over all blocks.

use std::collections::{BTreeSet, HashMap};
use std::ops::Index;

use slab::Slab;

use super::block::{Block, BlockId, Segment, SegmentId, State};

/// Free blocks in the order they are searched: by class and stream, then the smallest first,
/// then the oldest segment, then the lowest address.
type FreeKey = (u8, u64, u64, u64, u64, BlockId);

/// Segments, the blocks in them, and indexes over both.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(super) segments: Slab<Segment>,
    pub(super) blocks: Slab<Block>,
    pub(super) free: BTreeSet<FreeKey>,
    /// Blocks that are not free, by address.
    pub(super) in_use: HashMap<u64, BlockId>,
    pub(super) totals: Totals,
    serial: u64,
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
}

/// Sums over a ledger, in bytes. `reserved = active + retired + cached`, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// In segments.
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

impl Ledger {
    /// Enters a segment as one free block.
    pub fn add_segment(&mut self, new: NewSegment, freed_at: u64) -> BlockId {
        self.serial += 1;
        let segment = SegmentId(self.segments.vacant_key());
        let block = BlockId(self.blocks.insert(Block {
            segment,
            address: new.address,
            bytes: new.bytes,
            requested_bytes: 0,
            state: State::Free,
            freed_at,
            prev: None,
            next: None,
        }));
        self.segments.insert(Segment {
            address: new.address,
            bytes: new.bytes,
            class: new.class,
            stream: new.stream,
            serial: self.serial,
            first: block,
        });
        self.totals.reserved_bytes += new.bytes;
        self.free.insert(self.free_key(block));
        block
    }

    /// Takes a segment out, if it is one free block; else gives `None` and changes nothing.
    pub fn remove_segment(&mut self, id: SegmentId) -> Option<Segment> {
        let first = self.segments.get(id.0)?.first;
        let block = &self[first];
        if block.state != State::Free || !block.is_whole() {
            return None;
        }
        self.free.remove(&self.free_key(first));
        self.blocks.remove(first.0);
        let segment = self.segments.remove(id.0);
        self.totals.reserved_bytes -= segment.bytes;
        Some(segment)
    }

    /// Hands a free block out; if it is larger than `bytes`, its front part, and the rest stays
    /// free. Pass the block's own size to take it whole.
    pub fn take(&mut self, id: BlockId, bytes: u64, requested_bytes: u64) {
        debug_assert!(self[id].state == State::Free && bytes > 0 && bytes <= self[id].bytes);
        self.free.remove(&self.free_key(id));
        if bytes < self[id].bytes {
            self.split(id, bytes);
        }
        let block = &mut self.blocks[id.0];
        block.state = State::Active;
        block.requested_bytes = requested_bytes;
        self.totals.active_bytes += block.bytes;
        self.in_use.insert(block.address, id);
    }

    /// Marks an active block as freed but in flight.
    pub fn retire(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0];
        debug_assert_eq!(block.state, State::Active);
        block.state = State::Retired;
        self.totals.active_bytes -= block.bytes;
        self.totals.retired_bytes += block.bytes;
    }

    /// Makes an active or retired block free and merges it with free neighbours. Gives the
    /// block it is now part of.
    pub fn give_back(&mut self, id: BlockId, freed_at: u64) -> BlockId {
        let block = &mut self.blocks[id.0];
        match block.state {
            State::Active => self.totals.active_bytes -= block.bytes,
            State::Retired => self.totals.retired_bytes -= block.bytes,
            State::Free => {
                debug_assert!(false, "freed twice");
                return id;
            }
        }
        block.state = State::Free;
        block.requested_bytes = 0;
        block.freed_at = freed_at;
        let (address, prev, next) = (block.address, block.prev, block.next);
        self.in_use.remove(&address);
        if let Some(next) = next.filter(|&next| self[next].state == State::Free) {
            self.free.remove(&self.free_key(next));
            self.absorb_next(id);
        }
        let merged = match prev.filter(|&prev| self[prev].state == State::Free) {
            Some(prev) => {
                self.free.remove(&self.free_key(prev));
                self.absorb_next(prev);
                self.blocks[prev.0].freed_at = freed_at;
                prev
            }
            None => id,
        };
        self.free.insert(self.free_key(merged));
        merged
    }

    /// The active or retired block that begins at `address`.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<BlockId> {
        self.in_use.get(&address).copied()
    }

    /// The free blocks of a class and stream that hold `bytes`, best fit first.
    pub fn fits(&self, class: u8, stream: u64, bytes: u64) -> impl Iterator<Item = BlockId> + '_ {
        let from = (class, stream, bytes, 0, 0, BlockId(0));
        self.free
            .range(from..)
            .take_while(move |key| key.0 == class && key.1 == stream)
            .map(|key| key.5)
    }

    /// The free blocks of a class that are whole segments, so that these could be given back.
    pub fn releasable(&self, class: u8) -> impl Iterator<Item = BlockId> + '_ {
        let from = (class, 0, 0, 0, 0, BlockId(0));
        self.free
            .range(from..)
            .take_while(move |key| key.0 == class)
            .map(|key| key.5)
            .filter(|&id| self[id].is_whole())
    }

    /// The classes of the segments there are, each once, in order.
    #[must_use]
    pub fn classes(&self) -> BTreeSet<u8> {
        self.segments.iter().map(|(_, segment)| segment.class).collect()
    }

    /// A block, if there is one of that name.
    #[must_use]
    pub fn get(&self, id: BlockId) -> Option<&Block> {
        self.blocks.get(id.0)
    }

    /// Sums over all segments.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The largest free block of a class and stream, in bytes.
    #[must_use]
    pub fn largest_free_bytes(&self, class: u8, stream: u64) -> u64 {
        self.fits(class, stream, 0).last().map_or(0, |id| self[id].bytes)
    }

    /// Every active and retired block.
    pub fn in_use(&self) -> impl Iterator<Item = &Block> {
        self.in_use.values().map(|&id| &self[id])
    }

    fn split(&mut self, id: BlockId, bytes: u64) {
        let front = self[id].clone();
        let rest = BlockId(self.blocks.insert(Block {
            address: front.address + bytes,
            bytes: front.bytes - bytes,
            prev: Some(id),
            ..front
        }));
        if let Some(next) = front.next {
            self.blocks[next.0].prev = Some(rest);
        }
        let front = &mut self.blocks[id.0];
        front.bytes = bytes;
        front.next = Some(rest);
        self.free.insert(self.free_key(rest));
    }

    /// Makes the next block, which is in no index, part of `id`.
    fn absorb_next(&mut self, id: BlockId) {
        let Some(next) = self[id].next else { return };
        let absorbed = self.blocks.remove(next.0);
        if let Some(after) = absorbed.next {
            self.blocks[after.0].prev = Some(id);
        }
        let block = &mut self.blocks[id.0];
        block.bytes += absorbed.bytes;
        block.next = absorbed.next;
    }

    pub(super) fn free_key(&self, id: BlockId) -> FreeKey {
        let block = &self[id];
        let segment = &self[block.segment];
        (segment.class, segment.stream, block.bytes, segment.serial, block.address, id)
    }
}

impl Index<BlockId> for Ledger {
    type Output = Block;

    fn index(&self, id: BlockId) -> &Block {
        &self.blocks[id.0]
    }
}

impl Index<SegmentId> for Ledger {
    type Output = Segment;

    fn index(&self, id: SegmentId) -> &Segment {
        &self.segments[id.0]
    }
}
