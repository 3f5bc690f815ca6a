//! Ranges whose requests come with their place: the address is chosen beforehand, and the ledger
//! only sees to it that it is free. Blocks of such ranges are in no index, so taking a place and
//! giving it back is a matter of a few neighbours.
//!
//! The free block a place lies in is found by its name. As long as everything comes and goes as
//! it was planned, names can be told beforehand: a block keeps its name while its front does not
//! change. Names are kept apart from those the ledger gives by itself.

use std::ops::Range;

use super::block::{Block, BlockId, NO_BLOCK, SegmentId, State};
use super::book::{Ledger, SplitChange, vacate};

/// The class of ranges of places. No best fit is ever found there.
pub const PLACES: u8 = 253;

/// Where a block is to be. Names count from the first that was kept; any number means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its first byte.
    pub address: u64,
    /// Its size, above 0.
    pub bytes: u64,
    /// The free block it should lie in.
    pub within: u32,
    /// The name of its block, unless it begins where that free block does: then it has its name.
    pub name: u32,
    /// The name of what is left free behind it.
    pub rear: u32,
}

impl Ledger {
    /// Keeps so many names for places; those kept before may be given to any block again.
    pub fn keep_names(&mut self, count: u32) {
        for id in self.kept.clone().map(BlockId) {
            if self.blocks[id.at()].bytes == 0 {
                vacate(&mut self.vacant, &mut self.blocks, id);
            }
        }
        let first = self.blocks.len() as u32;
        self.kept = first..first + count;
        self.blocks.resize(self.kept.end as usize, NO_BLOCK);
    }

    /// Hands out a place, if the names in it are as they should be; else changes nothing.
    #[inline]
    pub fn take_named(
        &mut self,
        place: &Place,
        requested_bytes: u64,
    ) -> Option<(BlockId, SplitChange)> {
        let Range { start, end } = self.kept;
        let name = |name| if name < end - start { BlockId(start + name) } else { BlockId::NONE };
        let names = [name(place.within), name(place.name), name(place.rear)];
        self.take_from(names, place, requested_bytes)
    }

    /// Hands out a place of a range if it is free, whatever the names are, and sets them right
    /// where that can be done.
    pub fn take_place(
        &mut self,
        range: SegmentId,
        place: &Place,
        requested_bytes: u64,
    ) -> Option<(BlockId, SplitChange)> {
        let mut within = self.block_at(range, place.address);
        let block = self.get(within).filter(|block| block.state == State::Free)?;
        if block.address + block.bytes < place.address + place.bytes {
            return None;
        }
        if let Some(planned) = self.vacant_name(place.within) {
            self.rename(within, planned);
            within = planned;
        }
        let name = self.vacant_name(place.name).unwrap_or_else(|| self.vacancy());
        let rear = self.vacant_name(place.rear).filter(|&rear| rear != name);
        let names = [within, name, rear.unwrap_or_else(|| self.vacancy())];
        let taken = self.take_from(names, place, requested_bytes);
        // Names that were not needed.
        for id in &names[1..] {
            if self.get(*id).is_none() {
                self.forget_name(*id);
            }
        }
        taken
    }

    /// Takes `place` out of the free block `within`; the next two name the block and the rest.
    #[inline(always)]
    fn take_from(
        &mut self,
        [within, name, rear]: [BlockId; 3],
        place: &Place,
        requested_bytes: u64,
    ) -> Option<(BlockId, SplitChange)> {
        let Place { address, bytes, .. } = *place;
        let end = address + bytes;
        let is_vacant = |id: BlockId| {
            id != BlockId::NONE && self.blocks.get(id.at()).is_some_and(|block| block.bytes == 0)
        };
        let free = self.blocks.get(within.0 as usize)?;
        let (from, to) = (free.address, free.address + free.bytes);
        if free.state != State::Free || free.class != PLACES || address < from || end > to {
            return None;
        }
        let (has_front, has_rear) = (address > from, end < to);
        let clash = has_front && has_rear && name == rear;
        if clash || has_front && !is_vacant(name) || has_rear && !is_vacant(rear) {
            return None;
        }
        self.version += 1;
        self.totals.active_bytes += bytes;
        let blocks = self.blocks.as_mut_slice();
        let free = &mut blocks[within.0 as usize];
        let (segment, serial, next) = (free.segment, free.serial, free.next);
        let part = |address, bytes, state, prev, next| Block {
            address,
            bytes,
            state,
            prev,
            next,
            segment,
            serial,
            class: PLACES,
            ..NO_BLOCK
        };
        let after = if has_rear { rear } else { next };
        let taken = if has_front {
            free.bytes = address - from;
            free.next = name;
            let mut taken = part(address, bytes, State::Active, within, after);
            taken.requested_bytes = requested_bytes;
            blocks[name.0 as usize] = taken;
            name
        } else {
            (free.bytes, free.next, free.state) = (bytes, after, State::Active);
            free.requested_bytes = requested_bytes;
            within
        };
        if has_rear {
            blocks[rear.0 as usize] = part(end, to - end, State::Free, taken, next);
        }
        let before_next = if has_rear { rear } else { taken };
        if next != BlockId::NONE {
            blocks[next.0 as usize].prev = before_next;
        }
        let count = i64::from(has_front) + i64::from(has_rear) - 1;
        Some((taken, SplitChange { blocks: count, bytes: -(bytes as i64) }))
    }

    /// [`give_back`](Self::give_back) of a block in a range of places.
    pub(super) fn give_back_place(&mut self, id: BlockId) -> SplitChange {
        let blocks = self.blocks.as_mut_slice();
        let block = &mut blocks[id.0 as usize];
        if block.state == State::Active {
            self.totals.active_bytes -= block.bytes;
        } else if block.state == State::Retired {
            self.totals.retired_bytes -= block.bytes;
        } else {
            debug_assert!(false, "freed twice");
            return SplitChange::default();
        }
        block.state = State::Free;
        block.requested_bytes = 0;
        let (mut bytes, prev, mut next) = (block.bytes, block.prev, block.next);
        let mut change = SplitChange { blocks: 1, bytes: bytes as i64 };
        let is_free = |id: BlockId, blocks: &[Block]| {
            id != BlockId::NONE && blocks[id.0 as usize].state == State::Free
        };
        let mut gone = [BlockId::NONE; 2];
        if is_free(next, blocks) {
            gone[0] = next;
            let absorbed = &mut blocks[next.0 as usize];
            bytes += std::mem::take(&mut absorbed.bytes);
            next = absorbed.next;
            change.blocks -= 1;
        }
        let mut merged = id;
        if is_free(prev, blocks) {
            gone[1] = id;
            blocks[id.0 as usize].bytes = 0;
            bytes += blocks[prev.0 as usize].bytes;
            merged = prev;
            change.blocks -= 1;
        }
        if next != BlockId::NONE {
            blocks[next.0 as usize].prev = merged;
        }
        let block = &mut blocks[merged.0 as usize];
        (block.bytes, block.next) = (bytes, next);
        for id in gone {
            // Kept names wait for their place; all others may be given to any block.
            if id != BlockId::NONE {
                self.leave(id);
            }
        }
        change
    }

    /// Lets a range of places be one like any others of `class`, with what is in it: best fit
    /// finds what is free there from now on. No names are kept any more.
    pub fn dissolve_places(&mut self, range: SegmentId, class: u8) {
        self.keep_names(0);
        let Some(segment) = &mut self.segments[range.0 as usize] else { return };
        segment.class = class;
        let mut at = segment.first;
        while at != BlockId::NONE {
            let block = &mut self.blocks[at.0 as usize];
            block.class = class;
            let (next, is_free) = (block.next, block.state == State::Free);
            if is_free {
                self.index(at);
            }
            at = next;
        }
    }

    /// [`take`](Self::take) of a free block in a range of places, or of its front part.
    #[cold]
    pub(super) fn take_front(
        &mut self,
        id: BlockId,
        bytes: u64,
        requested_bytes: u64,
    ) -> SplitChange {
        let (address, name) = (self[id].address, self.vacancy());
        let place = Place { address, bytes, within: 0, name: 0, rear: 0 };
        let taken = self.take_from([id, BlockId::NONE, name], &place, requested_bytes);
        if self.get(name).is_none() {
            self.forget_name(name);
        }
        debug_assert!(taken.is_some());
        taken.map_or_else(SplitChange::default, |(_, change)| change)
    }

    /// A kept name that no block has.
    fn vacant_name(&self, name: u32) -> Option<BlockId> {
        let Range { start, end } = self.kept;
        let id = start.checked_add(name).filter(|&id| id < end).map(BlockId)?;
        self.get(id).is_none().then_some(id)
    }

    pub(super) fn forget_name(&mut self, id: BlockId) {
        if !self.kept.contains(&id.0) {
            vacate(&mut self.vacant, &mut self.blocks, id);
        }
    }

    /// Gives a block in no index a vacant name.
    fn rename(&mut self, from: BlockId, to: BlockId) {
        let block = self[from].clone();
        let (prev, next, segment) = (block.prev, block.next, block.segment);
        if prev != BlockId::NONE {
            self.blocks[prev.0 as usize].next = to;
        } else if let Some(segment) = &mut self.segments[segment.0 as usize] {
            segment.first = to;
        }
        if next != BlockId::NONE {
            self.blocks[next.0 as usize].prev = to;
        }
        self.blocks[to.0 as usize] = block;
        self.leave(from);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::book::NewSegment;
    use super::*;

    const START: u64 = 1 << 30;
    const UNITS: u64 = 64;

    fn ledger() -> (Ledger, SegmentId) {
        let mut ledger = Ledger::default();
        let bytes = (UNITS + 1) * 512;
        let range = ledger.add_range(NewSegment {
            address: START,
            bytes,
            class: PLACES,
            stream: 0,
            serial: 0,
        });
        ledger.fill(range, START, UNITS * 512);
        (ledger, range)
    }

    fn place(from: u64, units: u64, [within, name, rear]: [u32; 3]) -> Place {
        Place { address: START + from * 512, bytes: units * 512, within, name, rear }
    }

    #[test]
    fn a_plan_is_followed_by_names_after_the_first_round() {
        let (mut ledger, range) = ledger();
        ledger.keep_names(4);
        // The middle, then its front, then what is behind.
        let places = [place(8, 8, [0, 1, 2]), place(0, 8, [0, 9, 9]), place(16, 8, [2, 9, 3])];
        for round in 0..3 {
            let mut taken = Vec::new();
            for at in &places {
                let quick = ledger.take_named(at, 1);
                assert_eq!(quick.is_some(), round > 0 || at != &places[0]);
                let (id, _) = quick.or_else(|| ledger.take_place(range, at, 1)).unwrap();
                assert_eq!(ledger[id].address, at.address);
                assert_eq!(ledger.take_named(at, 1), None, "taken twice");
                assert_eq!(ledger.check(), Ok(()));
                taken.push(id);
            }
            for id in taken {
                ledger.give_back(id, 0);
                assert_eq!(ledger.check(), Ok(()));
            }
        }
    }

    #[test]
    fn best_fit_finds_places_once_they_are_dissolved() {
        let (mut ledger, range) = ledger();
        ledger.keep_names(3);
        let taken = ledger.take_place(range, &place(8, 8, [0, 1, 2]), 1).unwrap().0;
        assert_eq!((ledger.best_fit(PLACES, 512), ledger.best_fit(1, 512)), (None, None));
        ledger.dissolve_places(range, 1);
        assert_eq!(ledger.check(), Ok(()));
        let front = ledger.best_fit(1, 8 * 512).unwrap();
        assert_eq!(ledger[front].address, START);
        ledger.give_back(taken, 0);
        assert_eq!(ledger.check(), Ok(()));
        assert_eq!(ledger.best_fit(1, UNITS * 512), Some(front));
    }

    proptest! {
        #[test]
        fn places_are_handed_out_once_and_books_agree(
            steps in proptest::collection::vec(
                (0..6u8, 0..UNITS, 1..16u64, any::<[u8; 3]>()), 1..200)
        ) {
            let (mut ledger, range) = ledger();
            ledger.keep_names(12);
            let mut model = vec![false; UNITS as usize];
            let mut live: Vec<(BlockId, usize, usize)> = Vec::new();
            let (mut count, mut free_bytes) = (1, UNITS as i64 * 512);
            for (step, from, units, names) in steps {
                let to = (from + units).min(UNITS);
                let at = place(from, to - from, names.map(|name| u32::from(name % 14)));
                let span = from as usize..to as usize;
                let is_free = model[span.clone()].iter().all(|taken| !taken);
                let mut changed = SplitChange::default();
                match step {
                    0..=2 => {
                        let taken = match step {
                            0 => ledger.take_named(&at, 1),
                            _ => ledger.take_place(range, &at, 1),
                        };
                        prop_assert!(is_free || taken.is_none());
                        prop_assert!(!is_free || step == 0 || taken.is_some());
                        if let Some((id, change)) = taken {
                            let block = &ledger[id];
                            prop_assert_eq!((block.address, block.bytes), (at.address, at.bytes));
                            changed = change;
                            model[span.clone()].fill(true);
                            live.push((id, span.start, span.end));
                        }
                    }
                    3 if is_free => {
                        // As a request that has no place of its own takes it.
                        let (part, cut) = ledger.part_at(range, at.address);
                        let change = ledger.take(part, at.bytes, 1);
                        changed.blocks = cut.blocks + change.blocks;
                        changed.bytes = cut.bytes + change.bytes;
                        model[span.clone()].fill(true);
                        live.push((part, span.start, span.end));
                    }
                    _ if !live.is_empty() => {
                        let (id, from, to) = live.swap_remove(from as usize % live.len());
                        changed = ledger.give_back(id, 0);
                        model[from..to].fill(false);
                    }
                    _ => {}
                }
                count += changed.blocks;
                free_bytes += changed.bytes;
                prop_assert_eq!(ledger.check(), Ok(()));
                let free = ledger.blocks().filter(|block| block.state == State::Free);
                let free: Vec<u64> = free.map(|block| block.bytes).collect();
                prop_assert_eq!(count, free.len() as i64);
                prop_assert_eq!(free_bytes, free.iter().sum::<u64>() as i64);
                prop_assert_eq!(free_bytes / 512, model.iter().filter(|taken| !**taken).count() as i64);
            }
        }
    }
}
