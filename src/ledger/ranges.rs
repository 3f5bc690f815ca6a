//! Segments that are address space first: parts of them have memory of this ledger, the rest
//! is absent. Memory comes and goes by byte ranges, where free blocks are. For slow paths only.
//!
//! Addresses are found by hints: for each 2 MiB of a range some block of it to start from. They
//! are kept up by the searches alone, so that taking and giving back pay nothing for them.

use super::block::{BlockId, Segment, SegmentId, State};
use super::book::{Ledger, NewSegment, SplitChange};

const HINT_BITS: u32 = 21;
/// How many pages before the one asked for are looked at for a hint, and how many hints.
const NEAR_PAGES: usize = 256;
const NEAR_HINTS: usize = 16;
/// A block this near to where its hint says is near enough to start from.
const NEAR_BYTES: u64 = 16 << 20;

impl Ledger {
    /// Enters address space with no memory behind it.
    pub fn add_range(&mut self, new: NewSegment) -> SegmentId {
        let block = self.enter_segment(new, 0, State::Absent);
        let segment = self[block].segment;
        let at = segment.0 as usize;
        if self.hints.len() <= at {
            self.hints.resize_with(at + 1, || None);
        }
        self.hints[at] = Some(Vec::new());
        segment
    }

    /// Takes address space out, if none of it has memory; else gives `None` and changes nothing.
    pub fn remove_range(&mut self, id: SegmentId) -> Option<Segment> {
        let first = self.segment(id)?.first;
        let block = &self[first];
        if block.state != State::Absent || !block.is_whole() {
            return None;
        }
        self.leave(first);
        self.hints[id.0 as usize] = None;
        self.vacant_segments.push(id);
        self.segments[id.0 as usize].take()
    }

    /// The block of a range that covers `address`; none if that lies outside.
    pub fn block_at(&mut self, range: SegmentId, address: u64) -> BlockId {
        let Some(Segment { address: start, first, .. }) = self.segment(range) else {
            return BlockId::NONE;
        };
        let page = ((address - start) >> HINT_BITS) as usize;
        let mut at = self.hint_before(range, *start, page).unwrap_or(*first);
        while self[at].address > address {
            at = self[at].prev;
        }
        while at != BlockId::NONE && self[at].address + self[at].bytes <= address {
            at = self[at].next;
        }
        // The walk must end there: what stands for no block leads to itself.
        debug_assert!(at != BlockId::NONE, "an address outside of its range");
        self.set_hint(range, page, at);
        at
    }

    /// A block to start from on the way to a page, near it if one is known.
    fn hint_before(&self, range: SegmentId, start: u64, page: usize) -> Option<BlockId> {
        let hints = self.hints.get(range.0 as usize)?.as_ref()?;
        let last = hints.len().min(page + 1);
        let near = (last.saturating_sub(NEAR_PAGES)..last).rev();
        let known = near.map(|page| (page, hints[page])).filter(|&(_, id)| id != BlockId::NONE);
        // A name may be another block's by now: what lies elsewhere may be far away.
        let is_near = |&(page, id): &(usize, BlockId)| {
            let page_at = start + ((page as u64) << HINT_BITS);
            let block = self.get(id).filter(|block| block.segment == range);
            block.is_some_and(|block| {
                block.address < page_at + NEAR_BYTES
                    && block.address + block.bytes + NEAR_BYTES > page_at
            })
        };
        known.take(NEAR_HINTS).find(is_near).map(|(_, id)| id)
    }

    fn set_hint(&mut self, range: SegmentId, page: usize, block: BlockId) {
        if let Some(Some(hints)) = self.hints.get_mut(range.0 as usize) {
            if hints.len() <= page {
                hints.resize(page + 1, BlockId::NONE);
            }
            hints[page] = block;
        }
    }

    /// The memory in all ranges.
    #[must_use]
    pub fn ranges_bytes(&self) -> u64 {
        self.ranges_bytes
    }

    /// Of that, what is handed out or in flight.
    #[must_use]
    pub fn ranges_used_bytes(&self) -> u64 {
        let used_bytes = self.totals.active_bytes + self.totals.retired_bytes;
        if self.totals.reserved_bytes == self.ranges_bytes {
            return used_bytes;
        }
        let is_range = |id: SegmentId| matches!(self.hints.get(id.0 as usize), Some(Some(_)));
        let others = self.segments().filter(|(id, _)| !is_range(*id));
        used_bytes - others.map(|(_, segment)| self.used_bytes_from(segment.first)).sum::<u64>()
    }

    /// What is handed out or in flight of a block and those behind it.
    fn used_bytes_from(&self, first: BlockId) -> u64 {
        let blocks = std::iter::successors(Some(first), |&id| self[id].next.some());
        let used = |&id: &BlockId| matches!(self[id].state, State::Active | State::Retired);
        blocks.filter(used).map(|id| self[id].bytes).sum()
    }

    /// Gives memory to `bytes` from `address`, all of which are absent: they become free, merged
    /// with free neighbours.
    pub fn fill(&mut self, range: SegmentId, address: u64, bytes: u64) -> SplitChange {
        let Some(at) = self.block_at(range, address).some() else { return SplitChange::default() };
        let at = self.isolate(at, address, bytes);
        debug_assert_eq!(self[at].state, State::Absent);
        self.blocks[at.0 as usize].state = State::Active;
        self.totals.reserved_bytes += bytes;
        self.ranges_bytes += bytes;
        self.totals.active_bytes += bytes;
        let before = self[at].prev;
        let is_free = self.get(before).is_some_and(|block| block.state == State::Free);
        let change = self.give_back(at, 0);
        // What was made is asked for next, often at its end.
        let start = self.segment(range).map_or(address, |segment| segment.address);
        let end_page = (address + bytes - 1 - start) >> HINT_BITS;
        self.set_hint(range, end_page as usize, if is_free { before } else { at });
        change
    }

    /// Takes the memory of `bytes` from `address`, all in one free block: they become absent.
    pub fn carve(&mut self, range: SegmentId, address: u64, bytes: u64) -> SplitChange {
        let Some(at) = self.block_at(range, address).some() else { return SplitChange::default() };
        debug_assert_eq!(self[at].state, State::Free);
        let whole_bytes = self[at].bytes;
        let mut change = SplitChange { blocks: -1, bytes: -(bytes as i64) };
        self.unindex(at);
        let (before, after) = (address > self[at].address, {
            let block = &self[at];
            block.address + block.bytes > address + bytes
        });
        debug_assert!(bytes <= whole_bytes);
        let front = at;
        let middle = self.isolate(at, address, bytes);
        if before {
            self.index(front);
            change.blocks += 1;
        }
        if after {
            let rear = self[middle].next;
            self.index(rear);
            change.blocks += 1;
        }
        self.blocks[middle.0 as usize].state = State::Absent;
        self.totals.reserved_bytes -= bytes;
        self.ranges_bytes -= bytes;
        self.merge_absent(middle);
        change
    }

    /// Takes all memory of a range, none of which is in use.
    pub fn empty(&mut self, range: SegmentId) -> SplitChange {
        let mut change = SplitChange::default();
        let Some(first) = self.segment(range).map(|segment| segment.first) else { return change };
        if let Some(Some(hints)) = self.hints.get_mut(range.0 as usize) {
            hints.clear();
        }
        let mut at = first;
        loop {
            let (state, bytes) = (self[at].state, self[at].bytes);
            debug_assert!(matches!(state, State::Free | State::Absent));
            if state == State::Free {
                self.unindex(at);
                self.blocks[at.0 as usize].state = State::Absent;
                self.totals.reserved_bytes -= bytes;
                self.ranges_bytes -= bytes;
                change.blocks -= 1;
                change.bytes -= bytes as i64;
            }
            if at != first {
                self.absorb_next(first);
            }
            let Some(next) = self[first].next.some() else { return change };
            at = next;
        }
    }

    /// Cuts the free block that covers `address` in two there, unless it begins there, and gives
    /// the rear part, which has to be taken next: until then two neighbours are free.
    pub fn part_at(&mut self, range: SegmentId, address: u64) -> (BlockId, SplitChange) {
        let at = self.block_at(range, address);
        debug_assert_eq!(self[at].state, State::Free);
        let front_bytes = address - self[at].address;
        if front_bytes == 0 {
            return (at, SplitChange::default());
        }
        self.unindex(at);
        let rear = self.cut(at, front_bytes);
        self.index(at);
        self.index(rear);
        (rear, SplitChange { blocks: 1, bytes: 0 })
    }

    /// The free block that covers `address`, as first byte and size.
    pub fn free_at(&mut self, range: SegmentId, address: u64) -> Option<(u64, u64)> {
        let at = self.block_at(range, address);
        let block = self.get(at).filter(|block| block.state == State::Free)?;
        Some((block.address, block.bytes))
    }

    /// Shows the free parts of the addresses from `from` to `to` in order: first byte and end.
    pub fn free_parts(
        &mut self,
        range: SegmentId,
        from: u64,
        to: u64,
        mut show: impl FnMut(u64, u64),
    ) {
        let mut at = self.block_at(range, from);
        while let Some(block) = self.get(at).filter(|block| block.address < to) {
            if block.state == State::Free {
                show(block.address.max(from), (block.address + block.bytes).min(to));
            }
            at = block.next;
        }
    }

    /// Makes `bytes` from `address` a block of their own. The block they lie in is in no index.
    fn isolate(&mut self, mut at: BlockId, address: u64, bytes: u64) -> BlockId {
        let front_bytes = address - self[at].address;
        debug_assert!(front_bytes + bytes <= self[at].bytes);
        if front_bytes > 0 {
            at = self.cut(at, front_bytes);
        }
        if self[at].bytes > bytes {
            self.cut(at, bytes);
        }
        at
    }

    fn merge_absent(&mut self, mut at: BlockId) {
        let (prev, next) = (self[at].prev, self[at].next);
        let absent = |id: BlockId| self.get(id).is_some_and(|block| block.state == State::Absent);
        let (with_prev, with_next) = (absent(prev), absent(next));
        if with_next {
            self.absorb_next(at);
        }
        if with_prev {
            self.absorb_next(prev);
            at = prev;
        }
        debug_assert_eq!(self[at].state, State::Absent);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANGE_PAGES: u64 = 40;
    const PAGE: u64 = 1 << 19;

    /// What each page should be.
    fn states(ledger: &mut Ledger, range: SegmentId) -> Vec<State> {
        let mut states = Vec::new();
        for page in 0..RANGE_PAGES {
            let at = ledger.block_at(range, 4096 + page * PAGE);
            states.push(ledger[at].state);
        }
        states
    }

    proptest! {
        #[test]
        fn memory_comes_and_goes_by_ranges(
            steps in proptest::collection::vec((0..5u8, 0..RANGE_PAGES - 1, 1..9u64), 1..200)
        ) {
            let mut ledger = Ledger::default();
            let bytes = RANGE_PAGES * PAGE;
            let range = ledger.add_range(
                NewSegment { address: 4096, bytes, class: 1, stream: 0, serial: 0 });
            let mut model = vec![State::Absent; RANGE_PAGES as usize];
            let mut live: Vec<(BlockId, usize, usize)> = Vec::new();
            let (mut count, mut free_bytes) = (0, 0);
            for (step, page, pages) in steps {
                let (from, to) = (page as usize, (page + pages).min(RANGE_PAGES - 1) as usize);
                let all = |state| model[from..to].iter().all(|&page| page == state);
                let (address, bytes) = (4096 + page * PAGE, (to - from) as u64 * PAGE);
                let mut note = |change: SplitChange| {
                    count += change.blocks;
                    free_bytes += change.bytes;
                };
                match step {
                    0 if all(State::Absent) => {
                        note(ledger.fill(range, address, bytes));
                        model[from..to].fill(State::Free);
                    }
                    1 if all(State::Free) => {
                        note(ledger.carve(range, address, bytes));
                        model[from..to].fill(State::Absent);
                    }
                    2 if all(State::Free) => {
                        let (part, change) = ledger.part_at(range, address);
                        note(change);
                        note(ledger.take(part, bytes, bytes));
                        prop_assert_eq!(ledger[part].address, address);
                        live.push((part, from, to));
                        model[from..to].fill(State::Active);
                    }
                    3 if !live.is_empty() => {
                        let (id, from, to) = live.swap_remove(from % live.len());
                        note(ledger.give_back(id, 0));
                        model[from..to].fill(State::Free);
                    }
                    4 if live.is_empty() && page % 4 == 0 => {
                        note(ledger.empty(range));
                        model.fill(State::Absent);
                    }
                    _ => {}
                }
                prop_assert_eq!(ledger.check(), Ok(()));
                prop_assert_eq!(&states(&mut ledger, range), &model);
                let free: Vec<u64> = ledger.fits(1, 0).map(|id| ledger[id].bytes).collect();
                prop_assert_eq!(count, free.len() as i64);
                prop_assert_eq!(free_bytes, free.iter().sum::<u64>() as i64);
                let mut parts = 0;
                ledger.free_parts(range, address, address + bytes, |from, to| parts += to - from);
                let wanted = model[from..to].iter().filter(|&&page| page == State::Free).count();
                prop_assert_eq!(parts, wanted as u64 * PAGE);
                let gone = model.iter().all(|&page| page == State::Absent);
                if gone {
                    prop_assert_eq!(ledger.totals(), super::super::book::Totals::default());
                } else {
                    prop_assert!(ledger.remove_range(range).is_none());
                }
            }
        }
    }

    #[test]
    fn an_empty_range_can_be_taken_out() {
        let mut ledger = Ledger::default();
        let new = NewSegment { address: 4096, bytes: 1 << 30, class: 1, stream: 0, serial: 0 };
        let range = ledger.add_range(new);
        ledger.fill(range, 4096, 512);
        assert_eq!(ledger.remove_range(range), None);
        ledger.carve(range, 4096, 512);
        assert_eq!(ledger.remove_range(range).map(|segment| segment.bytes), Some(1 << 30));
        assert_eq!(ledger.check(), Ok(()));
    }
}
