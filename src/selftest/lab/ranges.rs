//! Which addresses are there.

use std::collections::BTreeMap;

/// Ranges of addresses that do not overlap; neighbours count as one.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn add(&mut self, at: u64, bytes: u64) {
        self.0.insert(at, bytes);
    }

    /// Takes the range that begins at `at` away; gives its length.
    pub(super) fn remove(&mut self, at: u64) -> u64 {
        self.0.remove(&at).unwrap_or(0)
    }

    /// The first range that shares a byte with this one.
    pub(super) fn overlaps(&self, at: u64, bytes: u64) -> Option<(u64, u64)> {
        let end = at.saturating_add(bytes);
        let before = self.0.range(..end).next_back();
        before.map(|(&start, &len)| (start, len)).filter(|(start, len)| start + len > at)
    }

    /// Whether every byte of the range is there.
    pub(super) fn covers(&self, at: u64, bytes: u64) -> bool {
        let Some(end) = at.checked_add(bytes) else { return false };
        let mut reached = at;
        while reached < end {
            let Some((&start, &len)) = self.0.range(..=reached).next_back() else { return false };
            if start + len <= reached {
                return false;
            }
            reached = start + len;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_and_gaps_are_none() {
        let mut ranges = Ranges::default();
        ranges.add(10, 10);
        ranges.add(20, 5);
        ranges.add(30, 5);
        for (at, bytes, there) in [
            (10, 15, true),
            (12, 3, true),
            (9, 2, false),
            (20, 6, false),
            (24, 8, false),
            (30, 5, true),
            (34, 2, false),
            (u64::MAX, 2, false),
        ] {
            assert_eq!(ranges.covers(at, bytes), there, "{bytes} at {at}");
        }
        assert_eq!(ranges.overlaps(25, 5), None);
        assert_eq!(ranges.overlaps(24, 1), Some((20, 5)));
        ranges.remove(20);
        assert!(!ranges.covers(10, 15));
    }
}
