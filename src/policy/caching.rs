//! The caching policy: best fit with splitting over driver segments, by the rules of PyTorch's
//! native allocator (c10/cuda/CUDACachingAllocator.cpp, 2.15), so that a conf string that works
//! there works here and places alike.

use super::contract::{Cached, Fit, Policy, Pressure, Request};
use crate::base::MIB;
use crate::conf::{Conf, RoundupDivisions};
use crate::ledger::Ledger;

/// Every block is a multiple of this, which rounding sees to.
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
        }
    }

    #[inline(always)]
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
    #[inline(always)]
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        if requested_bytes > SANITY_LIMIT_BYTES {
            return None;
        }
        // A multiple of 512, and far from the end of what can be counted.
        let block_bytes = if self.roundup.is_off() {
            (requested_bytes + (MIN_BLOCK_BYTES - 1)) & !(MIN_BLOCK_BYTES - 1)
        } else {
            self.roundup.round(requested_bytes)
        };
        let class = if block_bytes <= SMALL_LIMIT_BYTES { SMALL } else { LARGE };
        Some(Request { requested_bytes, block_bytes, class })
    }

    #[inline(always)]
    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        let block = ledger.best_fit(request.class, request.block_bytes)?;
        let bytes = ledger[block].bytes;
        // Mostly there is no such size, and nothing reaches it.
        let fits = if bytes < self.oversize_bytes {
            true
        } else if request.block_bytes < self.oversize_bytes {
            false
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

    /// Segments of the large class that are older than the average, again and again until the
    /// excess over the threshold is gone or no candidate is left.
    fn garbage(&mut self, cached: &[Cached], pressure: &Pressure) -> Vec<usize> {
        let Some(threshold) = self.garbage_threshold else { return Vec::new() };
        let target_bytes = (threshold * pressure.limit_bytes as f64) as u64;
        let mut excess_bytes = pressure.reserved_bytes.saturating_sub(target_bytes);
        let mut candidates: Vec<usize> =
            (0..cached.len()).filter(|&at| cached[at].class == LARGE).collect();
        let mut garbage = Vec::new();
        while excess_bytes > 0 && !candidates.is_empty() {
            let total: f64 = candidates.iter().map(|&at| cached[at].age as f64).sum();
            let mean = total / candidates.len() as f64;
            let (old, young): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|&at| cached[at].age as f64 >= mean);
            for at in old {
                excess_bytes = excess_bytes.saturating_sub(cached[at].bytes);
                garbage.push(at);
            }
            candidates = young;
        }
        garbage
    }

    /// With oversize blocks on: the smallest cached oversize segment of the stream that holds
    /// the request, else the largest ones until there is enough.
    fn make_room(&mut self, cached: &[Cached], request: &Request) -> Vec<usize> {
        if self.oversize_bytes == u64::MAX {
            return Vec::new();
        }
        let wanted_bytes = request.block_bytes.max(self.oversize_bytes);
        let oversize = |at: &usize| {
            let Cached { bytes, class, own_stream, .. } = cached[*at];
            class == request.class && own_stream && bytes >= self.oversize_bytes
        };
        let mut by_size: Vec<usize> = (0..cached.len()).filter(oversize).collect();
        by_size.sort_by_key(|&at| cached[at].bytes);
        if let Some(&at) = by_size.iter().find(|&&at| cached[at].bytes >= wanted_bytes) {
            return vec![at];
        }
        let mut room_bytes = 0;
        let largest_first = by_size.into_iter().rev();
        largest_first
            .take_while(|&at| {
                let more = room_bytes < wanted_bytes;
                room_bytes += cached[at].bytes;
                more
            })
            .collect()
    }

    /// Only cached segments of the large class are collected.
    fn ages(&self, request: &Request) -> bool {
        self.garbage_threshold.is_some() && request.class == LARGE
    }

    fn repeats(&self) -> bool {
        self.garbage_threshold.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(conf: &str, bytes: u64) -> (u64, u64) {
        let policy = Caching::new(&conf.parse().unwrap());
        let request = policy.request(bytes).unwrap();
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
        assert_eq!(policy.request(u64::MAX), None);
        assert!(policy.request(4096).is_some());
    }
}
