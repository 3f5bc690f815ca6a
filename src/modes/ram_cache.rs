//! InvokeAI's heuristics for the size of its cache of models in RAM, as a pure function.

use std::fmt;

use crate::base::{GIB, MIB};

/// Taken off half of the RAM.
const BASELINE_BYTES: u64 = 2 * GIB;
/// The cap where no CUDA device is.
const NO_CARD_CAP_BYTES: u64 = 32 * GIB;
/// The cache is never smaller.
const FLOOR_BYTES: u64 = 4 * GIB;

/// The size, and which heuristics shaped it. Prints as InvokeAI's line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamCacheSize {
    /// In bytes.
    pub bytes: u64,
    /// 1: half of the RAM less 2 GiB. 2: the cap, what the card can hold. 3: the floor of 4 GiB.
    pub applied: Vec<u8>,
}

impl RamCacheSize {
    /// The size on a system with `ram_bytes` of RAM and a card of `vram_bytes` (`None` without
    /// one), of which `working_bytes` are worked in. `cap_bytes` is `max_cache_vram_gb` where it
    /// is set: it goes in place of card less working memory. All in bytes.
    ///
    /// Caching more than the card can hold at once was judged useless there; a
    /// [cap of one's own](super::RamLimit::Bytes) goes over all of it.
    ///
    /// ```
    /// use riverbed::modes::RamCacheSize;
    /// let (ram, card, working) = (32 << 30, (20_471 << 20) / 2, 3 << 30);
    /// let size = RamCacheSize::heuristic(ram, Some(card), working, None);
    /// assert_eq!(
    ///     size.to_string(),
    ///     "Calculated model RAM cache size: 7163.50 MB. Heuristics applied: [1, 2]"
    /// );
    /// ```
    #[must_use]
    pub fn heuristic(
        ram_bytes: u64,
        vram_bytes: Option<u64>,
        working_bytes: u64,
        cap_bytes: Option<u64>,
    ) -> Self {
        let mut size =
            Self { bytes: (ram_bytes / 2).saturating_sub(BASELINE_BYTES), applied: vec![1] };
        let cap = match (vram_bytes, cap_bytes) {
            (None, _) => NO_CARD_CAP_BYTES,
            (Some(_), Some(cap)) => cap,
            (Some(vram), None) => vram.saturating_sub(working_bytes),
        };
        if size.bytes > cap {
            size.bytes = cap;
            size.applied.push(2);
        }
        if size.bytes < FLOOR_BYTES {
            size.bytes = FLOOR_BYTES;
            size.applied.push(3);
        }
        size
    }
}

impl fmt::Display for RamCacheSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes as f64 / MIB as f64;
        let applied = &self.applied;
        write!(
            f,
            "Calculated model RAM cache size: {megabytes:.2} MB. Heuristics applied: {applied:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(ram: u64, vram: Option<u64>, cap: Option<u64>) -> (u64, Vec<u8>) {
        let gib = |n| n * GIB;
        let size = RamCacheSize::heuristic(gib(ram), vram.map(gib), 3 * GIB, cap.map(gib));
        (size.bytes / GIB, size.applied)
    }

    #[test]
    fn each_heuristic_applies_where_it_should() {
        assert_eq!(size(16, None, None), (6, vec![1]));
        assert_eq!(size(128, None, None), (32, vec![1, 2]));
        assert_eq!(size(64, Some(24), None), (21, vec![1, 2]));
        assert_eq!(size(32, Some(24), None), (14, vec![1]));
        assert_eq!(size(8, Some(24), None), (4, vec![1, 3]));
        assert_eq!(size(32, Some(6), None), (4, vec![1, 2, 3]));
    }

    #[test]
    fn a_cap_on_the_cards_cache_goes_in_place_of_the_card() {
        assert_eq!(size(64, Some(24), Some(10)), (10, vec![1, 2]));
        assert_eq!(size(64, None, Some(10)), (30, vec![1]));
    }

    #[test]
    fn the_line_is_the_one_people_search_for() {
        let half_mib = MIB / 2;
        let size = RamCacheSize::heuristic(32 * GIB, Some(20471 * half_mib), 3072 * MIB, None);
        assert_eq!(
            size.to_string(),
            "Calculated model RAM cache size: 7163.50 MB. Heuristics applied: [1, 2]"
        );
    }
}
