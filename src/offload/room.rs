//! How much of the limit weights may have: the limit less what the caller works in, or is known
//! to need.

use crate::base::align_up;
use crate::pool::{Allocator, StatsScope};

/// Passes without want of memory after which what was given up comes back: the first time. Each
/// time that was too soon it doubles.
const CALM_PASSES: u32 = 2;
/// It doubles up to here.
const MOST_CALM_PASSES: u32 = 64;

/// What is known of the caller's own memory. In bytes.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) limit_bytes: u64,
    pub(super) page_bytes: u64,
    /// The most that was in use in the pass before the last, and in the last.
    peaks: [u64; 2],
    /// Of the pass under way, with what was in use when it began.
    pass: Option<(u64, StatsScope)>,
    /// What was wanted when memory was short.
    wanted_bytes: u64,
    calm_passes: u32,
    calm_wanted: u32,
}

impl Room {
    pub(super) fn new(limit_bytes: u64, page_bytes: u64) -> Self {
        Self {
            limit_bytes,
            page_bytes,
            peaks: [0; 2],
            pass: None,
            wanted_bytes: 0,
            calm_passes: 0,
            calm_wanted: CALM_PASSES,
        }
    }

    /// Room for weights while the caller has so much in use and was promised so much.
    pub(super) fn for_weights(&self, working_bytes: u64, live_bytes: u64) -> u64 {
        let seen = self.peaks.into_iter().max().unwrap_or(0);
        let working = working_bytes.max(live_bytes).max(seen).max(self.wanted_bytes);
        let working = align_up(working, self.page_bytes).unwrap_or(u64::MAX);
        self.limit_bytes.saturating_sub(working)
    }

    /// Memory was short: the caller's own would have been so much.
    pub(super) fn short(&mut self, wanted_bytes: u64) {
        let relapsed = self.wanted_bytes == 0 && self.calm_passes > 0;
        if relapsed {
            self.calm_wanted = (self.calm_wanted * 2).min(MOST_CALM_PASSES);
        }
        self.wanted_bytes = self.wanted_bytes.max(wanted_bytes);
        self.calm_passes = 0;
    }

    /// A pass ended; `live_bytes` of the caller's are in use.
    pub(super) fn end_pass(&mut self, allocator: &Allocator, live_bytes: u64) {
        let peak = self
            .pass
            .take()
            .map_or(live_bytes, |(before, scope)| before.saturating_add(scope.stats().peak_bytes));
        self.peaks = [self.peaks[1], peak];
        self.pass = Some((live_bytes, allocator.stats_scope()));
        self.calm_passes = self.calm_passes.saturating_add(1);
        if self.calm_passes >= self.calm_wanted {
            self.wanted_bytes = 0;
        }
    }
}
