//! Places in a ring of bytes: pure arithmetic. Places are contiguous and go round: the next one
//! begins where the last one ended, and over the oldest ones there.
//!
//! Invariants
//! 1. Places do not overlap and lie within the ring.
//! 2. In a ring of two slots, one place that stays never splits the rest so that neither side
//!    holds another slot: no place lies across the middle (see [`Space::clear_of_middle`]).

/// A place of the ring.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: u64,
    key: usize,
}

impl Place {
    fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// The places of a ring, each named by a key. Takes no memory beyond what it was made with.
#[derive(Debug)]
pub(super) struct Space {
    ring_bytes: u64,
    /// The largest place of which the ring always has room for a second one beside it.
    slot_bytes: u64,
    /// Where the next place is looked for first.
    head: u64,
    /// By offset.
    places: Vec<Place>,
}

impl Space {
    /// A ring for places of these sizes, each there once at most.
    pub(super) fn new(ring_bytes: u64, sizes: impl ExactSizeIterator<Item = u64>) -> Self {
        let places = Vec::with_capacity(sizes.len());
        let slot_bytes = sizes.filter(|&bytes| bytes <= ring_bytes / 2).max().unwrap_or(0);
        Self { ring_bytes, slot_bytes, head: 0, places }
    }

    /// Takes `bytes` for `key`, at the first spot from the head round where only places that
    /// `may_evict` allows are in the way. Gives the offset, and adds the keys whose places are
    /// gone to `evicted`; `None` if there is no such spot, and nothing is changed.
    pub(super) fn take(
        &mut self,
        key: usize,
        bytes: u64,
        may_evict: impl Fn(usize) -> bool,
        evicted: &mut Vec<usize>,
    ) -> Option<u64> {
        if bytes == 0 {
            return Some(self.head);
        }
        let start =
            self.find(self.head, bytes, &may_evict).or_else(|| self.find(0, bytes, &may_evict))?;
        self.insert(Place { offset: start, bytes, key }, evicted);
        Some(start)
    }

    /// As [`take`](Self::take), at this offset or nowhere.
    pub(super) fn take_at(
        &mut self,
        offset: u64,
        key: usize,
        bytes: u64,
        may_evict: impl Fn(usize) -> bool,
        evicted: &mut Vec<usize>,
    ) -> Option<u64> {
        let place = Place { offset, bytes, key };
        if bytes > 0 {
            let in_the_way = &self.places[self.overlapping(offset, place.end())];
            if place.end() > self.ring_bytes || !in_the_way.iter().all(|p| may_evict(p.key)) {
                return None;
            }
            self.insert(place, evicted);
        }
        Some(offset)
    }

    /// Gives the place of `key` up.
    pub(super) fn free(&mut self, key: usize) {
        self.places.retain(|place| place.key != key);
    }

    /// The places: offset, bytes and key, by offset.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, u64, usize)> + '_ {
        self.places.iter().map(|place| (place.offset, place.bytes, place.key))
    }

    fn insert(&mut self, place: Place, evicted: &mut Vec<usize>) {
        let in_the_way = self.overlapping(place.offset, place.end());
        let at = in_the_way.start;
        evicted.extend(self.places.drain(in_the_way).map(|gone| gone.key));
        self.places.insert(at, place);
        self.head = if place.end() == self.ring_bytes { 0 } else { place.end() };
    }

    /// The first spot at `from` or behind it with nothing in it that must stay.
    fn find(&self, from: u64, bytes: u64, may_evict: &impl Fn(usize) -> bool) -> Option<u64> {
        let mut start = self.clear_of_middle(from, bytes);
        let behind = self.places.partition_point(|place| place.end() <= from);
        for stays in self.places[behind..].iter().filter(|place| !may_evict(place.key)) {
            if start.checked_add(bytes)? <= stays.offset {
                break;
            }
            if start < stays.end() {
                start = self.clear_of_middle(stays.end(), bytes);
            }
        }
        Some(start)
            .filter(|start| start.checked_add(bytes).is_some_and(|end| end <= self.ring_bytes))
    }

    /// `start`, or where the second slot begins if a place from `start` on would leave no slot
    /// free on either side. Only rings of fewer than three slots have such a middle.
    fn clear_of_middle(&self, start: u64, bytes: u64) -> u64 {
        let slot = self.slot_bytes;
        let first_side_ends = self.ring_bytes - slot;
        let splits = start < slot && start.saturating_add(bytes) > first_side_ends;
        if splits && bytes <= slot { slot } else { start }
    }

    /// Which places reach into `start..end`.
    fn overlapping(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        let first = self.places.partition_point(|place| place.end() <= start);
        let last = self.places.partition_point(|place| place.offset < end);
        first..last.max(first)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Takes, and gives the offset with what was evicted.
    fn take(
        space: &mut Space,
        key: usize,
        bytes: u64,
        may_evict: impl Fn(usize) -> bool,
    ) -> Option<(u64, Vec<usize>)> {
        let mut evicted = Vec::new();
        let offset = space.take(key, bytes, may_evict, &mut evicted)?;
        Some((offset, evicted))
    }

    #[test]
    fn places_go_round_and_evict_the_oldest() {
        let mut space = Space::new(100, [].into_iter());
        assert_eq!(take(&mut space, 1, 40, |_| false), Some((0, vec![])));
        assert_eq!(take(&mut space, 2, 40, |_| false), Some((40, vec![])));
        assert_eq!(take(&mut space, 3, 40, |_| false), None, "20 bytes are left");
        assert_eq!(take(&mut space, 3, 40, |key| key == 1), Some((0, vec![1])));
        assert_eq!(take(&mut space, 4, 60, |key| key == 2), Some((40, vec![2])));
        assert_eq!(take(&mut space, 5, 10, |key| key == 3), Some((0, vec![3])));
    }

    #[test]
    fn what_must_stay_is_stepped_over() {
        let mut space = Space::new(100, [].into_iter());
        for key in 0..4 {
            take(&mut space, key, 25, |_| false);
        }
        assert_eq!(take(&mut space, 9, 40, |key| key != 0), Some((25, vec![1, 2])));
        assert_eq!(take(&mut space, 8, 80, |key| key != 0), None);
    }

    #[test]
    fn a_place_has_its_offset_or_none() {
        let mut space = Space::new(100, [].into_iter());
        let mut evicted = Vec::new();
        assert_eq!(space.take_at(30, 1, 40, |_| false, &mut evicted), Some(30));
        assert_eq!(space.take_at(60, 2, 40, |_| false, &mut evicted), None);
        assert_eq!(space.take_at(61, 2, 40, |_| true, &mut evicted), None, "beyond the end");
        assert_eq!(space.take_at(60, 2, 40, |_| true, &mut evicted), Some(60));
        assert_eq!(evicted, [1]);
    }

    #[test]
    fn a_small_place_does_not_split_a_ring_of_two_slots() {
        let mut space = Space::new(200, [70, 60, 100].into_iter());
        assert_eq!(take(&mut space, 0, 70, |_| true), Some((0, vec![])));
        assert_eq!(take(&mut space, 1, 60, |_| true), Some((100, vec![])), "not across the middle");
        assert_eq!(take(&mut space, 2, 100, |key| key != 1), Some((0, vec![0])));
    }

    proptest! {
        #[test]
        fn beside_one_place_that_stays_every_slot_finds_room(
            sizes in proptest::collection::vec(1..100u64, 2..12),
            spare in 0..250u64,
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 1..100),
        ) {
            let largest = sizes.iter().copied().max().unwrap_or(0);
            let mut space = Space::new(2 * largest + spare, sizes.iter().copied());
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
            steps in proptest::collection::vec((0..60u64, any::<u64>(), any::<bool>()), 1..100),
        ) {
            let mut space = Space::new(100, [].into_iter());
            let mut live: HashMap<usize, (u64, u64)> = HashMap::new();
            for (key, (bytes, keep_bits, free)) in steps.into_iter().enumerate() {
                let stays = |key: usize| keep_bits >> (key % 64) & 1 == 1;
                if let Some((start, evicted)) = take(&mut space, key, bytes, |key| !stays(key)) {
                    prop_assert!(start + bytes <= 100);
                    for gone in evicted {
                        prop_assert!(!stays(gone));
                        prop_assert!(live.remove(&gone).is_some());
                    }
                    if bytes > 0 {
                        live.insert(key, (start, start + bytes));
                    }
                } else if bytes > 0 {
                    // Refused only if every spot touches something that must stay.
                    let blocked = |start: u64| live.iter().any(|(&key, &(from, to))| {
                        stays(key) && from < start + bytes && start < to
                    });
                    prop_assert!((0..=100 - bytes).all(blocked));
                }
                if free {
                    let gone = live.keys().next().copied();
                    if let Some(gone) = gone {
                        space.free(gone);
                        live.remove(&gone);
                    }
                }
                let mut spans: Vec<_> = live.values().collect();
                spans.sort();
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            }
        }
    }
}
