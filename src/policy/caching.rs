//! The caching policy: best fit with splitting over driver segments, by the rules of PyTorch's
//! native allocator (c10/cuda/CUDACachingAllocator.cpp, 2.15), so that a conf string that works
//! there works here and places alike.

use std::collections::BTreeMap;

use super::contract::{Fit, Policy, Pressure, Request};
use crate::base::{MIB, align_up};
use crate::conf::{Conf, RoundupDivisions};
use crate::ledger::{BlockId, Ledger, SegmentId};

/// Every block is a multiple of this.
const MIN_BLOCK_BYTES: u64 = 512;
/// Blocks up to this size live in the small class.
const SMALL_LIMIT_BYTES: u64 = MIB;
/// Segments of the small class.
const SMALL_SEGMENT_BYTES: u64 = 2 * MIB;
/// Large requests from here on get a segment of their own size.
const MEDIUM_LIMIT_BYTES: u64 = 10 * MIB;
/// Segments of large requests are multiples of this.
const LARGE_ROUNDING_BYTES: u64 = 2 * MIB;
/// A remainder of the large class is split off only if it is larger than this.
const SPLIT_REMAINDER_BYTES: u64 = MIB;
/// PyTorch refuses what is larger as nonsense.
const SANITY_LIMIT_BYTES: u64 = 1 << 60;

const SMALL: u8 = 0;
const LARGE: u8 = 1;

/// Best fit with splitting, as PyTorch does it.
#[derive(Debug)]
pub struct Caching {
    /// Blocks of this size and above are never split, and serve only such requests.
    oversize_bytes: u64,
    /// How much an oversize request may waste of an oversize block.
    oversize_slack_bytes: u64,
    large_segment_bytes: u64,
    roundup: RoundupDivisions,
    /// Share of the limit above which old segments are given back.
    garbage_threshold: Option<f64>,
    /// Counts searches: the clock by which cached blocks age.
    searches: u64,
}

impl Caching {
    /// The policy with the settings of `conf`.
    #[must_use]
    pub fn new(conf: &Conf) -> Self {
        Self {
            oversize_bytes: conf.max_split_size_bytes.unwrap_or(u64::MAX),
            oversize_slack_bytes: conf.max_non_split_rounding_bytes,
            large_segment_bytes: conf.large_segment_size_bytes,
            roundup: conf.roundup_power2_divisions.clone(),
            garbage_threshold: conf.garbage_collection_threshold,
            searches: 0,
        }
    }

    fn take(&self, block_bytes: u64, request: &Request) -> u64 {
        let rest = block_bytes - request.block_bytes;
        let split = if request.class == SMALL {
            rest >= MIN_BLOCK_BYTES
        } else {
            request.block_bytes < self.oversize_bytes && rest > SPLIT_REMAINDER_BYTES
        };
        if split { request.block_bytes } else { block_bytes }
    }
}

impl Policy for Caching {
    fn request(&self, requested_bytes: u64, stream: u64) -> Option<Request> {
        if requested_bytes > SANITY_LIMIT_BYTES {
            return None;
        }
        let block_bytes = align_up(self.roundup.round(requested_bytes), MIN_BLOCK_BYTES)?;
        let class = if block_bytes <= SMALL_LIMIT_BYTES { SMALL } else { LARGE };
        Some(Request { requested_bytes, block_bytes, class, stream })
    }

    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        // The clock of the large class alone: only its segments age.
        self.searches += u64::from(request.class == LARGE);
        let block = ledger.fits(request.class, request.stream, request.block_bytes).next()?;
        let bytes = ledger[block].bytes;
        let fits = if request.block_bytes < self.oversize_bytes {
            bytes < self.oversize_bytes
        } else {
            bytes < request.block_bytes.saturating_add(self.oversize_slack_bytes)
        };
        fits.then(|| Fit { block, take_bytes: self.take(bytes, request) })
    }

    fn segment_bytes(&self, request: &Request) -> u64 {
        if request.class == SMALL {
            SMALL_SEGMENT_BYTES
        } else if request.block_bytes < MEDIUM_LIMIT_BYTES {
            self.large_segment_bytes
        } else {
            // Cannot overflow: requests are below the sanity limit.
            request.block_bytes.next_multiple_of(LARGE_ROUNDING_BYTES)
        }
    }

    fn take_of_segment(&self, segment_bytes: u64, request: &Request) -> u64 {
        self.take(segment_bytes, request)
    }

    /// Whole cached segments of the large class that are older than the average, again and
    /// again until the excess over the threshold is gone or no candidate is left.
    fn garbage(&mut self, ledger: &Ledger, pressure: &Pressure) -> Vec<SegmentId> {
        let Some(threshold) = self.garbage_threshold else { return Vec::new() };
        let target_bytes = (threshold * pressure.limit_bytes as f64) as u64;
        let mut excess_bytes = pressure.reserved_bytes.saturating_sub(target_bytes);
        let age = |id: BlockId| self.searches - ledger[id].freed_at;
        let mut candidates: Vec<BlockId> = ledger.releasable(LARGE).collect();
        let mut garbage = Vec::new();
        while excess_bytes > 0 && !candidates.is_empty() {
            let total: u64 = candidates.iter().map(|&id| age(id)).sum();
            let mean = total as f64 / candidates.len() as f64;
            let (old, young): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|&id| age(id) as f64 >= mean);
            for id in old {
                excess_bytes = excess_bytes.saturating_sub(ledger[id].bytes);
                garbage.push(ledger[id].segment);
            }
            candidates = young;
        }
        garbage
    }

    /// With oversize blocks on: the smallest cached oversize segment of the stream that holds
    /// the request, else the largest ones until there is enough.
    fn make_room(
        &mut self,
        ledger: &Ledger,
        request: &Request,
        segment_bytes: u64,
    ) -> Vec<SegmentId> {
        if self.oversize_bytes == u64::MAX {
            return Vec::new();
        }
        let wanted = segment_bytes.max(self.oversize_bytes);
        let by_size: BTreeMap<(u64, BlockId), SegmentId> = ledger
            .releasable(LARGE)
            .filter(|&id| ledger[ledger[id].segment].stream == request.stream)
            .filter(|&id| ledger[id].bytes >= self.oversize_bytes)
            .map(|id| ((ledger[id].bytes, id), ledger[id].segment))
            .collect();
        if let Some((_, &segment)) = by_size.iter().find(|((bytes, _), _)| *bytes >= wanted) {
            return vec![segment];
        }
        let mut room_bytes = 0;
        let largest_first = by_size.into_iter().rev();
        largest_first
            .take_while(|((bytes, _), _)| {
                let more = room_bytes < wanted;
                room_bytes += bytes;
                more
            })
            .map(|(_, segment)| segment)
            .collect()
    }

    fn clock(&self) -> u64 {
        self.searches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(conf: &str, bytes: u64) -> (u64, u64) {
        let policy = Caching::new(&conf.parse().unwrap());
        let request = policy.request(bytes, 0).unwrap();
        let segment = policy.segment_bytes(&request);
        (policy.take_of_segment(segment, &request), segment)
    }

    #[test]
    fn first_allocations_are_sized_as_in_pytorch() {
        for (request, block, segment) in [
            (1, 512, 2 * MIB),
            (MIB, MIB, 2 * MIB),
            (MIB + 1, 1_049_088, 20 * MIB),
            (10 * MIB - 1, 10 * MIB, 10 * MIB),
            (10 * MIB + 1, 10_486_272, 12 * MIB),
            (11 * MIB, 12 * MIB, 12 * MIB),
        ] {
            assert_eq!(placed("", request), (block, segment), "request {request}");
        }
    }

    #[test]
    fn roundup_divisions_apply_before_the_block_size() {
        assert_eq!(placed("roundup_power2_divisions:4", 300 * MIB + 5).0, 320 * MIB);
        assert_eq!(placed("roundup_power2_divisions:4", 600).0, 1024);
    }

    #[test]
    fn nonsense_sizes_are_refused() {
        let policy = Caching::new(&Conf::default());
        assert_eq!(policy.request(u64::MAX, 0), None);
        assert!(policy.request(4096, 0).is_some());
    }
}
