//! The ring's counters over all passes, though a phase may begin with another ring.

use riverbed::prefetch::PrefetchStats;

/// Sums since it was begun.
#[derive(Debug)]
pub(super) struct Tally {
    last: PrefetchStats,
    sums: PrefetchStats,
}

impl Tally {
    /// Counts from here on.
    pub(super) fn from(now: PrefetchStats) -> Self {
        Self { last: now, sums: PrefetchStats::default() }
    }

    /// Takes in what was counted by now.
    pub(super) fn note(&mut self, now: PrefetchStats) {
        if now.leases < self.last.leases {
            // Another ring, with counters of its own.
            self.last = PrefetchStats::default();
        }
        let Self { last, sums } = self;
        sums.bytes_moved += now.bytes_moved.saturating_sub(last.bytes_moved);
        sums.arrived_bytes += now.arrived_bytes.saturating_sub(last.arrived_bytes);
        sums.copy_busy_ns += now.copy_busy_ns.saturating_sub(last.copy_busy_ns);
        sums.host_waits += now.host_waits.saturating_sub(last.host_waits);
        sums.demand_loads += now.demand_loads.saturating_sub(last.demand_loads);
        self.last = now;
    }

    /// Bytes, copies, waits and loads on demand; the rest is not counted.
    pub(super) fn sums(&self) -> PrefetchStats {
        self.sums
    }
}
