//! Places in a ring of bytes: pure arithmetic. Places are contiguous and go round: the next one
//! begins where the last one ended, and over the oldest ones there.
//!
//! Invariant: places do not overlap and lie within the ring.

use std::collections::BTreeMap;

/// The places of a ring, each named by a key.
#[derive(Debug)]
pub(super) struct Space {
    ring_bytes: u64,
    /// Where the next place is looked for first.
    head: u64,
    /// Length and key of each place, by its offset.
    places: BTreeMap<u64, (u64, usize)>,
}

impl Space {
    pub(super) fn new(ring_bytes: u64) -> Self {
        Self { ring_bytes, head: 0, places: BTreeMap::new() }
    }

    /// Takes `bytes` for `key`, at the first spot from the head round where only places that
    /// `may_evict` allows are in the way. Gives the offset and the keys whose places are gone;
    /// `None` if there is no such spot, and nothing is changed.
    pub(super) fn take(
        &mut self,
        key: usize,
        bytes: u64,
        may_evict: impl Fn(usize) -> bool,
    ) -> Option<(u64, Vec<usize>)> {
        let start = self.find(bytes, &may_evict)?;
        let end = start + bytes;
        let in_the_way: Vec<u64> = self.overlapping(start, end).map(|(offset, _)| offset).collect();
        let evicted: Vec<usize> =
            in_the_way.iter().filter_map(|offset| Some(self.places.remove(offset)?.1)).collect();
        if bytes > 0 {
            self.places.insert(start, (bytes, key));
            self.head = if end == self.ring_bytes { 0 } else { end };
        }
        Some((start, evicted))
    }

    /// Gives the place of `key` up.
    pub(super) fn free(&mut self, key: usize) {
        self.places.retain(|_, place| place.1 != key);
    }

    fn find(&self, bytes: u64, may_evict: &impl Fn(usize) -> bool) -> Option<u64> {
        // Worth a look: the head, the start, and behind every place that must stay.
        let behind = self.places.iter().filter(|(_, place)| !may_evict(place.1));
        let mut starts: Vec<u64> = behind.map(|(&offset, place)| offset + place.0).collect();
        starts.extend([self.head, 0]);
        starts.sort_unstable_by_key(|&start| (start < self.head, start));
        starts.into_iter().find(|&start| {
            start.checked_add(bytes).is_some_and(|end| {
                end <= self.ring_bytes
                    && self.overlapping(start, end).all(|(_, key)| may_evict(key))
            })
        })
    }

    /// Offsets and keys of the places that reach into `start..end`.
    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, usize)> + '_ {
        let before = self.places.range(..start).next_back();
        let before = before.filter(move |(offset, place)| *offset + place.0 > start);
        before.into_iter().chain(self.places.range(start..end)).map(|(&at, place)| (at, place.1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_go_round_and_evict_the_oldest() {
        let mut space = Space::new(100);
        assert_eq!(space.take(1, 40, |_| false), Some((0, vec![])));
        assert_eq!(space.take(2, 40, |_| false), Some((40, vec![])));
        assert_eq!(space.take(3, 40, |_| false), None, "20 bytes are left");
        assert_eq!(space.take(3, 40, |key| key == 1), Some((0, vec![1])));
        assert_eq!(space.take(4, 60, |key| key == 2), Some((40, vec![2])));
        assert_eq!(space.take(5, 10, |key| key == 3), Some((0, vec![3])));
    }

    #[test]
    fn what_must_stay_is_stepped_over() {
        let mut space = Space::new(100);
        for key in 0..4 {
            space.take(key, 25, |_| false);
        }
        assert_eq!(space.take(9, 40, |key| key != 0), Some((25, vec![1, 2])));
        assert_eq!(space.take(8, 80, |key| key != 0), None);
    }

    proptest! {
        #[test]
        fn places_never_overlap_and_never_take_what_must_stay(
            steps in proptest::collection::vec((0..60u64, any::<u64>(), any::<bool>()), 1..100),
        ) {
            let mut space = Space::new(100);
            let mut live: HashMap<usize, (u64, u64)> = HashMap::new();
            for (key, (bytes, keep_bits, free)) in steps.into_iter().enumerate() {
                let stays = |key: usize| keep_bits >> (key % 64) & 1 == 1;
                if let Some((start, evicted)) = space.take(key, bytes, |key| !stays(key)) {
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
