//! Settings of a prefetcher, and what it tells of its work.

use crate::base::Error;

/// Settings of a [`Prefetcher`](super::Prefetcher).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefetchOptions {
    /// How many units are loaded ahead of the one in use, as far as the ring has room. 0 is
    /// off: a unit is loaded when it is asked for, and not before the asking stream gets there.
    pub depth: usize,
    /// Keep units in pinned memory after their first read, as far as the pinned budget goes.
    pub keep_in_ram: bool,
}

impl Default for PrefetchOptions {
    fn default() -> Self {
        Self { depth: 4, keep_in_ram: true }
    }
}

/// Counters of a prefetcher since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PrefetchStats {
    /// Leases given.
    pub leases: u64,
    /// Units loaded to the device.
    pub loads: u64,
    /// Leases whose unit had to be loaded on the spot.
    pub demand_loads: u64,
    /// Bytes enqueued to cross the link, padding between tensors included.
    pub bytes_moved: u64,
    /// Nanoseconds of device time the link was busy, in copies that are done.
    pub copy_busy_ns: u64,
    /// Times CPU code waited for a lease ([`Lease::wait_host`](super::Lease::wait_host)).
    pub host_waits: u64,
}

/// What [`Prefetcher::finish_pass`](super::Prefetcher::finish_pass) found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PassReport {
    /// Units that failed to load since the last report, with the reason: file and offset.
    pub failures: Vec<(String, Error)>,
    /// Counters since the prefetcher was made.
    pub stats: PrefetchStats,
}

impl PassReport {
    /// The report, or the first failure as an error.
    ///
    /// # Errors
    /// The first unit that failed to load.
    pub fn into_result(mut self) -> Result<Self, Error> {
        if self.failures.is_empty() { Ok(self) } else { Err(self.failures.swap_remove(0).1) }
    }
}
