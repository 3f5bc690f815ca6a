//! The proof that a ledger is whole. Costs a walk over every block: for tests, fuzzers and
//! whoever suspects something.

use super::bins::Bins;
use super::block::{BlockId, State};
use super::book::{Ledger, SplitChange, Totals};
use super::places::PLACES;

impl Ledger {
    /// The free blocks that are a part of a segment only, which all changes add up to.
    #[must_use]
    pub fn splits(&self) -> SplitChange {
        let free = self.blocks().filter(|block| block.state == State::Free && !block.is_whole());
        free.fold(SplitChange::default(), |sum, block| SplitChange {
            blocks: sum.blocks + 1,
            bytes: sum.bytes + block.bytes as i64,
        })
    }

    /// Checks every invariant of the ledger.
    ///
    /// # Errors
    /// The first violation, in words.
    pub fn check(&self) -> Result<(), String> {
        let mut totals = Totals::default();
        let (mut seen_blocks, mut seen_free) = (0, 0);
        for (id, segment) in self.segments() {
            let mut address = segment.address;
            let mut previous = BlockId::NONE;
            let mut before = None;
            let mut cursor = segment.first;
            while cursor != BlockId::NONE {
                let block = self.get(cursor).ok_or("a block chain leads nowhere")?;
                seen_blocks += 1;
                if block.address != address || block.prev != previous || block.segment != id {
                    return Err(format!(
                        "block at {:#x} does not follow {address:#x}",
                        block.address
                    ));
                }
                if (block.class, block.serial) != (segment.class, segment.serial) {
                    return Err(format!("block at {address:#x} is not of its segment's kind"));
                }
                let free = block.state == State::Free;
                let alike = matches!(block.state, State::Free | State::Absent);
                if alike && before == Some(block.state) {
                    return Err(format!("{:?} neighbours at {address:#x}", block.state));
                }
                let indexed = free && block.class != PLACES;
                if indexed && !self.bins(block.class)?.contains(&self.blocks, cursor) {
                    return Err(format!("the free index lacks {address:#x}"));
                }
                seen_free += usize::from(indexed);
                match block.state {
                    State::Active => totals.active_bytes += block.bytes,
                    State::Retired => totals.retired_bytes += block.bytes,
                    State::Free | State::Absent => {}
                }
                if block.state != State::Absent {
                    totals.reserved_bytes += block.bytes;
                }
                address += block.bytes;
                (previous, before, cursor) = (cursor, Some(block.state), block.next);
            }
            if address != segment.address + segment.bytes {
                return Err(format!("segment at {:#x} is not tiled", segment.address));
            }
        }
        if seen_blocks != self.blocks().count() {
            return Err("blocks outside any segment".into());
        }
        let indexed = self.free.iter().flatten().map(|bins| bins.count(&self.blocks));
        if Some(seen_free) != indexed.sum() {
            return Err("the free index is broken, or holds what is not free".into());
        }
        if totals != self.totals {
            return Err(format!("totals are {:?}, the blocks say {totals:?}", self.totals));
        }
        Ok(())
    }

    fn bins(&self, class: u8) -> Result<&Bins, String> {
        let bins = self.free.get(class as usize).and_then(Option::as_deref);
        bins.ok_or_else(|| format!("class {class} has no free index"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::book::{NewSegment, SplitChange};
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64),
        Take(usize, u64),
        Retire(usize),
        GiveBack(usize),
        Remove(usize),
    }

    /// Sizes from a few bytes to tens of MiB, so that exact and shared bins are met.
    fn bytes() -> impl Strategy<Value = u64> {
        (1..25u32, any::<u64>()).prop_map(|(bits, noise)| (noise >> (64 - bits)) + 1)
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (1..9u64).prop_map(Step::Add),
            6 => (any::<usize>(), bytes()).prop_map(|(at, bytes)| Step::Take(at, bytes)),
            1 => any::<usize>().prop_map(Step::Retire),
            4 => any::<usize>().prop_map(Step::GiveBack),
            1 => any::<usize>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 1..300)
    }

    /// What the free index should say, by looking at every block.
    fn free_in_order(ledger: &Ledger, class: u8) -> Vec<u64> {
        let free = ledger.blocks().filter(|block| block.state == State::Free);
        let mut ranks: Vec<_> =
            free.filter(|block| block.class == class).map(|block| block.rank()).collect();
        ranks.sort_unstable();
        ranks.into_iter().map(|(_, order)| order as u64).collect()
    }

    fn split_totals(ledger: &Ledger) -> (i64, i64) {
        let free = ledger.blocks().filter(|block| block.state == State::Free);
        free.filter(|block| !block.is_whole())
            .fold((0, 0), |(count, bytes), block| (count + 1, bytes + block.bytes as i64))
    }

    proptest! {
        #[test]
        fn any_program_keeps_every_invariant(steps in steps()) {
            let mut ledger = Ledger::default();
            let (mut address, mut serial, mut live) = (4096u64, 0, Vec::new());
            let (mut count, mut split_bytes) = (0, 0);
            let mut note = |change: SplitChange| {
                count += change.blocks;
                split_bytes += change.bytes;
                (count, split_bytes)
            };
            for step in steps {
                let version = ledger.version();
                let mut split = None;
                match step {
                    Step::Add(mib) => {
                        serial += 1;
                        let (bytes, class) = (mib << 20, (mib % 2) as u8);
                        let segment = NewSegment { address, bytes, class, stream: 7, serial };
                        ledger.add_segment(segment, 0);
                        prop_assert!(ledger.version() > version);
                        address += bytes + (mib % 2) * 4096;
                    }
                    Step::Take(at, bytes) => {
                        let class = (at % 2) as u8;
                        if let Some(id) = ledger.best_fit(class, bytes) {
                            prop_assert!(ledger[id].bytes >= bytes);
                            split = Some(note(ledger.take(id, bytes, bytes)));
                            prop_assert_eq!(ledger[id].bytes, bytes);
                            live.push(id);
                        }
                    }
                    Step::Retire(at) if !live.is_empty() => {
                        let id = live[at % live.len()];
                        if ledger[id].state == State::Active {
                            ledger.retire(id);
                        }
                    }
                    Step::GiveBack(at) if !live.is_empty() => {
                        let id = live.swap_remove(at % live.len());
                        split = Some(note(ledger.give_back(id, 1)));
                    }
                    Step::Remove(at) => {
                        let whole = ledger.releasable((at % 2) as u8).next();
                        if let Some(id) = whole {
                            let segment = ledger[id].segment;
                            prop_assert!(ledger.remove_segment(segment).is_some());
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(ledger.check(), Ok(()));
                if let Some(split) = split {
                    prop_assert_eq!(split, split_totals(&ledger));
                }
                for class in [0, 1] {
                    let found: Vec<u64> =
                        ledger.fits(class, 0).map(|id| ledger[id].address).collect();
                    prop_assert_eq!(&found, &free_in_order(&ledger, class));
                    let largest = ledger.blocks()
                        .filter(|block| block.state == State::Free && block.class == class)
                        .map(|block| block.bytes).max();
                    prop_assert_eq!(ledger.largest_free_bytes(class), largest.unwrap_or(0));
                }
            }
            for id in live {
                ledger.give_back(id, 2);
            }
            prop_assert_eq!(ledger.check(), Ok(()));
            prop_assert_eq!(ledger.totals().cached_bytes(), ledger.totals().reserved_bytes);
        }
    }

    #[test]
    fn best_fit_prefers_size_then_age_then_address() {
        let mut ledger = Ledger::default();
        for (serial, (address, bytes)) in
            [(0x9000, 4096), (0x5000, 2048), (0x1000, 2048)].into_iter().enumerate()
        {
            let serial = serial as u32;
            ledger.add_segment(NewSegment { address, bytes, class: 0, stream: 7, serial }, 0);
        }
        let found = ledger.best_fit(0, 1024).unwrap();
        assert_eq!(ledger[found].address, 0x5000, "smallest, and of two the older");
        assert_eq!(ledger.best_fit(1, 1), None, "other classes' blocks stay theirs");
    }
}
