//! The proof that a ledger is whole. Costs a walk over every block: for tests, fuzzers and
//! whoever suspects something.

use super::block::State;
use super::book::{Ledger, Totals};

impl Ledger {
    /// Checks every invariant of the ledger.
    ///
    /// # Errors
    /// The first violation, in words.
    pub fn check(&self) -> Result<(), String> {
        let mut totals = Totals::default();
        let mut seen_blocks = 0;
        for (_, segment) in &self.segments {
            let mut address = segment.address;
            let mut previous = None;
            let mut was_free = false;
            let mut cursor = Some(segment.first);
            while let Some(id) = cursor {
                let block = self.blocks.get(id.0).ok_or("a block chain leads nowhere")?;
                seen_blocks += 1;
                if block.address != address || block.prev != previous {
                    return Err(format!(
                        "block at {:#x} does not follow {address:#x}",
                        block.address
                    ));
                }
                let free = block.state == State::Free;
                if free && was_free {
                    return Err(format!("free neighbours at {address:#x}"));
                }
                if free != self.free.contains(&self.free_key(id)) {
                    return Err(format!("the free index is wrong about {address:#x}"));
                }
                if free == (self.in_use.get(&address) == Some(&id)) {
                    return Err(format!("the address index is wrong about {address:#x}"));
                }
                match block.state {
                    State::Active => totals.active_bytes += block.bytes,
                    State::Retired => totals.retired_bytes += block.bytes,
                    State::Free => {}
                }
                address += block.bytes;
                (previous, was_free, cursor) = (Some(id), free, block.next);
            }
            if address != segment.address + segment.bytes {
                return Err(format!("segment at {:#x} is not tiled", segment.address));
            }
            totals.reserved_bytes += segment.bytes;
        }
        if seen_blocks != self.blocks.len() || self.free.len() + self.in_use.len() != seen_blocks {
            return Err("blocks outside any segment".into());
        }
        if totals != self.totals {
            return Err(format!("totals are {:?}, the blocks say {totals:?}", self.totals));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::book::NewSegment;
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64),
        Take(usize, u64),
        Retire(usize),
        GiveBack(usize),
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..8u64).prop_map(Step::Add),
            (any::<usize>(), 1..4096u64).prop_map(|(at, bytes)| Step::Take(at, bytes)),
            any::<usize>().prop_map(Step::Retire),
            any::<usize>().prop_map(Step::GiveBack),
            any::<usize>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn any_program_keeps_every_invariant(steps in steps()) {
            let mut ledger = Ledger::default();
            let (mut address, mut live) = (4096u64, Vec::new());
            for step in steps {
                match step {
                    Step::Add(kib) => {
                        let segment = NewSegment {
                            address, bytes: kib * 1024, class: (kib % 2) as u8, stream: kib % 3,
                        };
                        ledger.add_segment(segment, 0);
                        address += kib * 1024 + (kib % 2) * 4096;
                    }
                    Step::Take(at, bytes) => {
                        let (class, stream) = ((at % 2) as u8, (at / 2 % 3) as u64);
                        let found = ledger.fits(class, stream, bytes).next();
                        if let Some(id) = found {
                            prop_assert!(ledger[id].bytes >= bytes);
                            ledger.take(id, bytes, bytes);
                            prop_assert_eq!(ledger[id].bytes, bytes);
                            live.push(ledger[id].address);
                        }
                    }
                    Step::Retire(at) if !live.is_empty() => {
                        let id = ledger.at(live[at % live.len()]).unwrap();
                        if ledger[id].state == State::Active {
                            ledger.retire(id);
                        }
                    }
                    Step::GiveBack(at) if !live.is_empty() => {
                        let address = live.swap_remove(at % live.len());
                        let id = ledger.at(address).unwrap();
                        ledger.give_back(id, 1);
                        prop_assert_eq!(ledger.at(address), None);
                    }
                    Step::Remove(at) => {
                        let class = (at % 2) as u8;
                        let whole = ledger.releasable(class).next();
                        if let Some(id) = whole {
                            let segment = ledger[id].segment;
                            prop_assert!(ledger.remove_segment(segment).is_some());
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(ledger.check(), Ok(()));
            }
            for address in live {
                let id = ledger.at(address).unwrap();
                ledger.give_back(id, 2);
            }
            prop_assert_eq!(ledger.check(), Ok(()));
            prop_assert_eq!(ledger.totals().cached_bytes(), ledger.totals().reserved_bytes);
        }
    }

    #[test]
    fn best_fit_prefers_size_then_age_then_address() {
        let mut ledger = Ledger::default();
        for (address, bytes) in [(0x9000, 4096), (0x5000, 2048), (0x1000, 2048)] {
            let new = NewSegment { address, bytes, class: 0, stream: 7 };
            ledger.add_segment(new, 0);
        }
        let found = ledger.fits(0, 7, 1024).next().unwrap();
        assert_eq!(ledger[found].address, 0x5000, "smallest, and of two the older");
        assert_eq!(ledger.fits(0, 8, 1).next(), None, "other streams' blocks stay theirs");
        assert_eq!(ledger.fits(1, 7, 1).next(), None, "other classes' blocks stay theirs");
    }
}
