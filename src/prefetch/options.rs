//! Settings of a prefetcher, and what it tells of its work.

use super::stalls::PassStalls;
use crate::base::Error;

/// Settings of a [`Prefetcher`](super::Prefetcher).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefetchOptions {
    /// How many units are loaded ahead of the one in use, as far as the ring has room; the
    /// default is [`AS_FAR_AS_ROOM`](Self::AS_FAR_AS_ROOM). 0 is off: a unit is loaded when it is
    /// asked for, and not before the asking stream gets there.
    pub depth: usize,
    /// Keep units in pinned memory after their first read, as far as the pinned budget goes.
    pub keep_in_ram: bool,
    /// Give each unit the same address in every pass, so that work on it can be captured in a
    /// graph once. Units then have fixed places in the ring, laid out for the order they are
    /// given in: in another order, or with a lease kept in the way, fewer fit at once.
    pub stable_addresses: bool,
    /// Find out what each pass waited for ([`PassReport::stalls`]): three events more a lease,
    /// and three a load, and as many again where it waits for room in between.
    pub timing: bool,
}

impl PrefetchOptions {
    /// A depth that leaves it to the ring's room.
    pub const AS_FAR_AS_ROOM: usize = usize::MAX;
}

impl Default for PrefetchOptions {
    fn default() -> Self {
        Self {
            depth: Self::AS_FAR_AS_ROOM,
            keep_in_ram: true,
            stable_addresses: false,
            timing: false,
        }
    }
}

/// Counters of a prefetcher since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PrefetchStats {
    /// Leases given.
    pub leases: u64,
    /// Leases of another unit than the one that was next, or the same again.
    pub out_of_order: u64,
    /// Units loaded to the device.
    pub loads: u64,
    /// Leases whose unit had to be loaded on the spot.
    pub demand_loads: u64,
    /// Bytes enqueued to cross the link, padding between tensors included.
    pub bytes_moved: u64,
    /// Bytes of copies that are known to be done.
    pub arrived_bytes: u64,
    /// Bytes of tensors that were read from files.
    pub disk_bytes: u64,
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
    /// Where the time of the pass went, if [`PrefetchOptions::timing`] is on.
    pub stalls: Option<PassStalls>,
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
