//! Places in a ring of bytes: pure arithmetic. Places are contiguous and go round: the next one
//! begins where the last one ended, and over the oldest ones there. Where the ring's memory shows
//! a second time behind its end, a place may run over the end, and no byte is wasted there.
//!
//! Invariants
//! 1. Places do not overlap. They lie within the ring, or begin in it where it goes round.
//! 2. Beside one place that stays there is always room for another slot. A ring that goes round
//!    has that by itself from two slots on; in one that does not no place lies across the middle
//!    (see [`Space::clear_of_middle`]).

use std::cmp::Reverse;

use super::memory::Stretch;

/// A place of the ring.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: u64,
    key: usize,
}

/// A place that is gone, because another was laid over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evicted {
    pub(super) key: usize,
    /// The first byte of the other place that lies over it.
    pub(super) from: u64,
}

/// The places of a ring, each named by a key. Takes no memory beyond what it was made with.
#[derive(Debug)]
pub(super) struct Space {
    ring_bytes: u64,
    /// Whether a place may run over the end.
    goes_round: bool,
    /// The largest place of which the ring always has room for a second one beside it.
    slot_bytes: u64,
    /// Where the next place is looked for first.
    head: u64,
    /// By offset.
    places: Vec<Place>,
}

impl Space {
    /// A ring for places of these sizes, each there once at most.
    pub(super) fn new(at: &Stretch, sizes: impl ExactSizeIterator<Item = u64>) -> Self {
        let Stretch { ring_bytes, goes_round, .. } = *at;
        let places = Vec::with_capacity(sizes.len());
        let slot_bytes = sizes.filter(|&bytes| bytes <= ring_bytes / 2).max().unwrap_or(0);
        Self { ring_bytes, goes_round, slot_bytes, head: 0, places }
    }

    /// The first spot for `bytes` (above 0) from the head round where only places that
    /// `may_evict` allows are in the way.
    pub(super) fn find(&self, bytes: u64, may_evict: impl Fn(usize) -> bool) -> Option<u64> {
        let mut start = self.next_start(bytes)?;
        // Each step passes a place that stays, or the end of the ring.
        for _ in 0..self.places.len() + 2 {
            let stays = |place: &&Place| !may_evict(place.key);
            let over = |place: &Place| Some((self.begins_over(place, start, bytes)?, *place));
            let last = self.places.iter().filter(stays).filter_map(over).max_by_key(|hit| hit.0);
            let Some((_, place)) = last else { return Some(start) };
            start = self.fitting(place.offset + place.bytes, bytes);
        }
        None
    }

    /// Where a place of `bytes` begins that follows the one before; `None` if it is larger than
    /// the ring.
    pub(super) fn next_start(&self, bytes: u64) -> Option<u64> {
        (bytes <= self.ring_bytes).then(|| self.fitting(self.head, bytes))
    }

    /// How many of `bytes` from `start` are free or of places that `may_evict` allows, up to the
    /// first that must stay. 0 for a spot that is not of the ring.
    pub(super) fn room(&self, start: u64, bytes: u64, may_evict: impl Fn(usize) -> bool) -> u64 {
        let is_inside = if self.goes_round {
            start < self.ring_bytes && bytes <= self.ring_bytes
        } else {
            start.checked_add(bytes).is_some_and(|end| end <= self.ring_bytes)
        };
        let stays = self.places.iter().filter(|place| !may_evict(place.key));
        let first = stays.filter_map(|place| self.begins_over(place, start, bytes)).min();
        if is_inside { first.unwrap_or(bytes) } else { 0 }
    }

    /// Takes the first `taken` of `bytes` from `start`, which [`room`](Self::room) was found for,
    /// for `key`. Adds the places that are gone to `evicted`, the first in the
    /// way last.
    pub(super) fn take(
        &mut self,
        key: usize,
        start: u64,
        (taken, bytes): (u64, u64),
        evicted: &mut Vec<Evicted>,
    ) {
        self.evict(start, taken, 0, evicted);
        let at = self.places.partition_point(|place| place.offset < start);
        self.places.insert(at, Place { offset: start, bytes: taken, key });
        self.head = (start + bytes) % self.ring_bytes;
    }

    /// Makes the place of `key` one of `bytes`, for which room was found.
    pub(super) fn grow(&mut self, key: usize, bytes: u64, evicted: &mut Vec<Evicted>) {
        let Some(place) = self.places.iter_mut().find(|place| place.key == key) else { return };
        let Place { offset, bytes: had, .. } = *place;
        // Taken out of the way of its own growth.
        place.bytes = 0;
        self.evict(offset + had, bytes.saturating_sub(had), had, evicted);
        if let Some(place) = self.places.iter_mut().find(|place| place.key == key) {
            place.bytes = bytes;
        }
    }

    /// Gives the place of `key` up.
    pub(super) fn free(&mut self, key: usize) {
        self.places.retain(|place| place.key != key);
    }

    /// The places: offset, bytes and key, by offset.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, u64, usize)> + '_ {
        self.places.iter().map(|place| (place.offset, place.bytes, place.key))
    }

    /// Takes out the places in `bytes` from `start`; their first bytes over it are counted from
    /// `base`.
    fn evict(&mut self, start: u64, bytes: u64, base: u64, evicted: &mut Vec<Evicted>) {
        let mut places = std::mem::take(&mut self.places);
        places.retain(|place| match self.begins_over(place, start, bytes) {
            Some(from) => {
                evicted.push(Evicted { key: place.key, from: base + from });
                false
            }
            None => true,
        });
        self.places = places;
        evicted.sort_unstable_by_key(|gone| Reverse(gone.from));
    }

    /// The first of `bytes` from `start` that `place` lies under, if any does.
    fn begins_over(&self, place: &Place, start: u64, bytes: u64) -> Option<u64> {
        // What lies behind the end of the ring is its start again.
        let ahead = |from: u64, to: u64| {
            let (from, to) = (from % self.ring_bytes, to % self.ring_bytes);
            if to >= from { to - from } else { to + (self.ring_bytes - from) }
        };
        if bytes == 0 || place.bytes == 0 {
            return None;
        }
        if ahead(place.offset, start) < place.bytes {
            return Some(0);
        }
        Some(ahead(start, place.offset)).filter(|&from| from < bytes)
    }

    /// `start`, or the next spot behind it that places of so many bytes may be at.
    fn fitting(&self, start: u64, bytes: u64) -> u64 {
        let start = start % self.ring_bytes;
        if self.goes_round {
            return start;
        }
        let start = self.clear_of_middle(start, bytes);
        let fits = start.checked_add(bytes).is_some_and(|end| end <= self.ring_bytes);
        if fits { start } else { self.clear_of_middle(0, bytes) }
    }

    /// `start`, or where the second slot begins if a place from `start` on would leave no slot
    /// free on either side. Only rings of fewer than three slots have such a middle.
    fn clear_of_middle(&self, start: u64, bytes: u64) -> u64 {
        let slot = self.slot_bytes;
        let first_side_ends = self.ring_bytes - slot;
        let splits = start < slot && start.saturating_add(bytes) > first_side_ends;
        if splits && bytes <= slot { slot } else { start }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::device::DevicePtr;

    fn space(ring_bytes: u64, goes_round: bool, sizes: &[u64]) -> Space {
        let (base, staging) = (DevicePtr(0), DevicePtr(0));
        let at = Stretch { base, ring_bytes, goes_round, staging, staging_bytes: 0 };
        Space::new(&at, sizes.iter().copied())
    }

    /// Takes, and gives the offset with what was evicted.
    fn take(
        space: &mut Space,
        key: usize,
        bytes: u64,
        may_evict: impl Fn(usize) -> bool,
    ) -> Option<(u64, Vec<usize>)> {
        let offset = space.find(bytes, may_evict)?;
        let mut evicted = Vec::new();
        space.take(key, offset, (bytes, bytes), &mut evicted);
        Some((offset, evicted.into_iter().rev().map(|gone| gone.key).collect()))
    }

    #[test]
    fn places_go_round_and_evict_the_oldest() {
        let mut space = space(100, false, &[]);
        assert_eq!(take(&mut space, 1, 40, |_| false), Some((0, vec![])));
        assert_eq!(take(&mut space, 2, 40, |_| false), Some((40, vec![])));
        assert_eq!(take(&mut space, 3, 40, |_| false), None, "20 bytes are left");
        assert_eq!(take(&mut space, 3, 40, |key| key == 1), Some((0, vec![1])));
        assert_eq!(take(&mut space, 4, 60, |key| key == 2), Some((40, vec![2])));
        assert_eq!(take(&mut space, 5, 10, |key| key == 3), Some((0, vec![3])));
    }

    #[test]
    fn a_ring_that_goes_round_wastes_nothing_at_its_end() {
        let mut space = space(100, true, &[40, 40, 40]);
        assert_eq!(take(&mut space, 1, 40, |_| false), Some((0, vec![])));
        assert_eq!(take(&mut space, 2, 40, |_| false), Some((40, vec![])));
        assert_eq!(take(&mut space, 3, 40, |key| key == 1), Some((80, vec![1])));
        assert_eq!(take(&mut space, 4, 21, |_| false), None, "20 bytes are left");
        assert_eq!(take(&mut space, 4, 20, |_| false), Some((20, vec![])));
        assert_eq!(take(&mut space, 5, 100, |_| true), Some((40, vec![2, 3, 4])));
    }

    #[test]
    fn what_must_stay_is_stepped_over() {
        for goes_round in [false, true] {
            let mut space = space(100, goes_round, &[]);
            for key in 0..4 {
                take(&mut space, key, 25, |_| false);
            }
            assert_eq!(take(&mut space, 9, 40, |key| key != 0), Some((25, vec![1, 2])));
            assert_eq!(take(&mut space, 8, 80, |key| key != 0), None);
        }
    }

    #[test]
    fn a_place_can_be_taken_in_parts() {
        let mut space = space(100, true, &[]);
        for key in 0..4 {
            take(&mut space, key, 25, |_| false);
        }
        let mut evicted = Vec::new();
        assert_eq!(space.room(0, 60, |key| key < 2), 50);
        space.take(7, 0, (30, 60), &mut evicted);
        assert_eq!(evicted, [Evicted { key: 1, from: 25 }, Evicted { key: 0, from: 0 }]);
        evicted.clear();
        space.grow(7, 60, &mut evicted);
        assert_eq!(evicted, [Evicted { key: 2, from: 50 }]);
        assert_eq!(space.places().collect::<Vec<_>>(), [(0, 60, 7), (75, 25, 3)]);
        assert_eq!(space.next_start(10), Some(60), "behind the whole of it");
    }

    #[test]
    fn there_is_no_room_outside_the_ring() {
        let (line, round) = (space(100, false, &[]), space(100, true, &[]));
        assert_eq!((line.room(61, 40, |_| true), round.room(61, 40, |_| true)), (0, 40));
        assert_eq!((line.room(0, 101, |_| true), round.room(0, 101, |_| true)), (0, 0));
    }

    #[test]
    fn a_small_place_does_not_split_a_ring_of_two_slots() {
        let mut space = space(200, false, &[70, 60, 100]);
        assert_eq!(take(&mut space, 0, 70, |_| true), Some((0, vec![])));
        assert_eq!(take(&mut space, 1, 60, |_| true), Some((100, vec![])), "not across the middle");
        assert_eq!(take(&mut space, 2, 100, |key| key != 1), Some((0, vec![0])));
    }

    proptest! {
        #[test]
        fn beside_one_place_that_stays_every_slot_finds_room(
            sizes in proptest::collection::vec(1..100u64, 2..12),
            spare in 0..250u64,
            goes_round in any::<bool>(),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 1..100),
        ) {
            let largest = sizes.iter().copied().max().unwrap_or(0);
            let mut space = space(2 * largest + spare, goes_round, &sizes);
            let mut held = usize::MAX;
            for next in order {
                let key = next.index(sizes.len());
                if space.places().all(|(.., there)| there != key) {
                    let place = take(&mut space, key, sizes[key], |other| other != held);
                    prop_assert!(place.is_some(), "unit {} beside unit {}", key, held);
                }
                held = key;
            }
        }

        #[test]
        fn places_never_overlap_and_never_take_what_must_stay(
            steps in proptest::collection::vec((1..60u64, any::<u64>(), any::<bool>()), 1..100),
            goes_round in any::<bool>(),
        ) {
            let mut space = space(100, goes_round, &[]);
            let mut live: HashMap<usize, (u64, u64)> = HashMap::new();
            let bytes_of = |start: u64, bytes: u64| (start..start + bytes).map(|byte| byte % 100);
            for (key, (bytes, keep_bits, free)) in steps.into_iter().enumerate() {
                let stays = |key: usize| keep_bits >> (key % 64) & 1 == 1;
                if let Some((start, evicted)) = take(&mut space, key, bytes, |key| !stays(key)) {
                    prop_assert!(start < 100 && (goes_round || start + bytes <= 100));
                    for gone in evicted {
                        prop_assert!(!stays(gone));
                        prop_assert!(live.remove(&gone).is_some());
                    }
                    live.insert(key, (start, bytes));
                } else {
                    // Refused only if every spot touches something that must stay.
                    let mut taken = [false; 100];
                    for (_, &(start, bytes)) in live.iter().filter(|(key, _)| stays(**key)) {
                        bytes_of(start, bytes).for_each(|byte| taken[byte as usize] = true);
                    }
                    let blocked = |start: u64| bytes_of(start, bytes).any(|b| taken[b as usize]);
                    let last = if goes_round { 99 } else { 100 - bytes };
                    prop_assert!((0..=last).all(blocked));
                }
                if free {
                    let gone = live.keys().next().copied();
                    if let Some(gone) = gone {
                        space.free(gone);
                        live.remove(&gone);
                    }
                }
                let mut owners = [0; 100];
                for &(start, bytes) in live.values() {
                    bytes_of(start, bytes).for_each(|byte| owners[byte as usize] += 1);
                }
                prop_assert!(owners.iter().all(|&owners| owners <= 1));
            }
        }
    }
}
