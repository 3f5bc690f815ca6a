//! Blocks that were handed out as bare addresses, found by address. A table of its own, because
//! the standard one's steps would be half of what a pair by address costs.

use crate::ledger::BlockId;

/// The least room there is once anything was in.
const LEAST_PLACES: usize = 64;

/// Blocks by address; 0 is no block's. Open addressing: a block stands in the first vacant place
/// from its own on, and at most half of the places are taken.
#[derive(Debug, Default)]
pub(super) struct RawBlocks {
    /// A power of two of them, or none.
    places: Vec<Place>,
    count: usize,
}

/// The address is 0 where nobody stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    address: u64,
    id: BlockId,
}

impl RawBlocks {
    /// Enters a block under an address that is not 0 and not in yet.
    #[inline]
    pub(super) fn insert(&mut self, address: u64, id: BlockId) {
        if self.count * 2 >= self.places.len() {
            self.grow();
        }
        self.count += 1;
        let mask = self.places.len() - 1;
        let mut at = home(address) & mask;
        while self.places[at].address != 0 {
            at = (at + 1) & mask;
        }
        self.places[at] = Place { address, id };
    }

    /// The block at `address`.
    pub(super) fn get(&self, address: u64) -> Option<BlockId> {
        Some(self.places[self.find(address)?].id)
    }

    /// Takes the block at `address` out.
    #[inline]
    pub(super) fn remove(&mut self, address: u64) -> Option<BlockId> {
        let mut vacant = self.find(address)?;
        let id = self.places[vacant].id;
        self.count -= 1;
        let mask = self.places.len() - 1;
        let mut at = vacant;
        loop {
            at = (at + 1) & mask;
            let place = self.places[at];
            if place.address == 0 {
                break;
            }
            // Moves up if the vacant place is not before its own.
            let from_home = at.wrapping_sub(home(place.address)) & mask;
            if from_home >= at.wrapping_sub(vacant) & mask {
                self.places[vacant] = place;
                vacant = at;
            }
        }
        self.places[vacant].address = 0;
        Some(id)
    }

    /// Every block with its address, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, BlockId)> {
        let taken = self.places.iter().filter(|place| place.address != 0);
        taken.map(|place| (place.address, place.id))
    }

    #[inline]
    fn find(&self, address: u64) -> Option<usize> {
        if address == 0 || self.places.is_empty() {
            return None;
        }
        let mask = self.places.len() - 1;
        let mut at = home(address) & mask;
        loop {
            match self.places[at].address {
                0 => return None,
                found if found == address => return Some(at),
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let places = vec![Place::default(); (self.places.len() * 2).max(LEAST_PLACES)];
        let before = Self { places: std::mem::replace(&mut self.places, places), count: 0 };
        self.count = 0;
        before.iter().for_each(|(address, id)| self.insert(address, id));
    }
}

/// Where a block stands if nobody is in its way, before that is cut down to the number of
/// places. Addresses are multiples of 512 and spread by multiplying.
#[inline(always)]
fn home(address: u64) -> usize {
    (address.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Ledger, NewSegment};

    fn ids(count: u64) -> Vec<BlockId> {
        let mut ledger = Ledger::default();
        let segment =
            |at| NewSegment { address: at << 9, bytes: 512, class: 0, stream: 7, serial: 0 };
        (1..=count).map(|at| ledger.add_segment(segment(at), 0)).collect()
    }

    proptest! {
        /// Few addresses, so that blocks stand in each other's way.
        #[test]
        fn finds_what_a_map_finds(steps in prop::collection::vec((0..400u64, any::<bool>()), 1..600)) {
            let ids = ids(400);
            let (mut table, mut map) = (RawBlocks::default(), HashMap::new());
            for (key, is_in) in steps {
                let (address, id) = ((key + 1) * 512, ids[key as usize]);
                if is_in && !map.contains_key(&address) {
                    table.insert(address, id);
                    map.insert(address, id);
                } else {
                    prop_assert_eq!(table.remove(address), map.remove(&address));
                }
                prop_assert_eq!(table.get(address), map.get(&address).copied());
            }
            let mut left: Vec<_> = table.iter().collect();
            left.sort_unstable();
            let mut expected: Vec<_> = map.into_iter().collect();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }
}
