//! What an allocator counts, by PyTorch's names where PyTorch has the figure.

/// A figure that rises and falls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stat {
    /// Now.
    pub current: u64,
    /// The most it has been.
    pub peak: u64,
    /// Everything ever added.
    pub allocated: u64,
    /// Everything ever taken off.
    pub freed: u64,
}

impl Stat {
    pub(super) fn add(&mut self, amount: u64) {
        self.current += amount;
        self.allocated += amount;
        self.peak = self.peak.max(self.current);
    }

    pub(super) fn take_off(&mut self, amount: u64) {
        self.current -= amount;
        self.freed += amount;
    }
}

/// A snapshot of an allocator's counters. Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks handed out and not freed by their owner.
    pub allocation: Stat,
    /// Segments held from the device.
    pub segment: Stat,
    /// Blocks handed out, or freed and still in flight.
    pub active: Stat,
    /// Bytes of `allocation`.
    pub allocated_bytes: Stat,
    /// Bytes of `segment`.
    pub reserved_bytes: Stat,
    /// Bytes of `active`.
    pub active_bytes: Stat,
    /// What the owners of `allocation` asked for, before rounding.
    pub requested_bytes: Stat,
    /// Requests that climbed to the last rung of the ladder.
    pub num_alloc_retries: u64,
    /// Requests that failed.
    pub num_ooms: u64,
    /// Requests refused at the limit without an attempt to make room.
    pub num_oom_rejections: u64,
    /// Times the host waited for streams, on the last rung.
    pub num_sync_all_streams: u64,
    /// Segments taken from the device.
    pub num_device_alloc: u64,
    /// Segments given back to it.
    pub num_device_free: u64,
    /// Blocks freed and still in flight, now.
    pub retired_bytes: u64,
    /// Blocks set aside now, because the driver would not mark the end of their use.
    pub stranded_blocks: u64,
}
