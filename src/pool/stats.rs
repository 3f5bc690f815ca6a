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

    pub(super) fn reset_peak(&mut self) {
        self.peak = self.current;
    }

    pub(super) fn reset_accumulated(&mut self) {
        (self.allocated, self.freed) = (0, 0);
    }

    fn take_off_totals(&mut self, before: &Self) {
        self.allocated = self.allocated.wrapping_sub(before.allocated);
        self.freed = self.freed.wrapping_sub(before.freed);
    }
}

/// A figure by pool: requests of at most 1 MiB and larger ones (of a policy of one's own: class
/// 0 and all others).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolStat {
    /// Both pools.
    pub all: Stat,
    /// Class 0.
    pub small_pool: Stat,
    /// All other classes.
    pub large_pool: Stat,
}

impl PoolStat {
    pub(super) fn add(&mut self, class: u8, amount: u64) {
        self.all.add(amount);
        self.pool(class).add(amount);
    }

    pub(super) fn take_off(&mut self, class: u8, amount: u64) {
        self.all.take_off(amount);
        self.pool(class).take_off(amount);
    }

    /// What was counted in the pool of `class` counts in the large one from now on.
    pub(super) fn move_to_large(&mut self, class: u8, amount: u64) {
        self.pool(class).take_off(amount);
        self.large_pool.add(amount);
    }

    fn pool(&mut self, class: u8) -> &mut Stat {
        if class == 0 { &mut self.small_pool } else { &mut self.large_pool }
    }

    fn each(&mut self, mut change: impl FnMut(&mut Stat)) {
        [&mut self.all, &mut self.small_pool, &mut self.large_pool]
            .into_iter()
            .for_each(&mut change);
    }
}

/// A snapshot of an allocator's counters. Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks handed out and not freed by their owner.
    pub allocation: PoolStat,
    /// Segments held from the device.
    pub segment: PoolStat,
    /// Blocks handed out, or freed and still in flight.
    pub active: PoolStat,
    /// Free blocks that are a part of a segment only.
    pub inactive_split: PoolStat,
    /// Bytes of `allocation`.
    pub allocated_bytes: PoolStat,
    /// Bytes of `segment`.
    pub reserved_bytes: PoolStat,
    /// Bytes of `active`.
    pub active_bytes: PoolStat,
    /// Bytes of `inactive_split`.
    pub inactive_split_bytes: PoolStat,
    /// What the owners of `active` asked for, before rounding.
    pub requested_bytes: PoolStat,
    /// Blocks of `max_split_size_mb` and more handed out.
    pub oversize_allocations: Stat,
    /// Segments of `max_split_size_mb` and more.
    pub oversize_segments: Stat,
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
    /// Times a stream was made to wait for another, or was asked how far it is, so that memory
    /// could cross from one to the other.
    pub cross_stream_waits: u64,
    /// Bytes of free memory that were mapped at a second address to serve a request.
    pub remapped_bytes: u64,
    /// Mappings of physical memory held now, each handle's first one included.
    pub mappings: u64,
    /// Blocks freed and still in flight, now.
    pub retired_bytes: u64,
    /// Blocks set aside now, because the driver would not mark the end of their use.
    pub stranded_blocks: u64,
    /// False when several threads allocated since the peaks were reset: the peaks of
    /// allocations, active and split blocks are then sums of the threads' peaks, which the
    /// true ones do not exceed. Peaks of segments are always exact.
    pub peaks_exact: bool,
}

impl Stats {
    /// Lets every peak begin again at the current figure.
    pub(super) fn reset_peaks(&mut self) {
        self.segment.each(Stat::reset_peak);
        self.reserved_bytes.each(Stat::reset_peak);
        self.oversize_segments.reset_peak();
    }

    /// Sets what only ever rises to 0.
    pub(super) fn reset_accumulated(&mut self) {
        self.segment.each(Stat::reset_accumulated);
        self.reserved_bytes.each(Stat::reset_accumulated);
        self.oversize_segments.reset_accumulated();
        for counter in [
            &mut self.num_alloc_retries,
            &mut self.num_ooms,
            &mut self.num_oom_rejections,
            &mut self.num_sync_all_streams,
            &mut self.num_device_alloc,
            &mut self.num_device_free,
            &mut self.cross_stream_waits,
            &mut self.remapped_bytes,
        ] {
            *counter = 0;
        }
    }

    /// Takes the totals of `before` off those that tallies count.
    pub(super) fn take_off_totals(&mut self, before: &Self) {
        for (stat, before) in [
            (&mut self.allocation, &before.allocation),
            (&mut self.active, &before.active),
            (&mut self.inactive_split, &before.inactive_split),
            (&mut self.allocated_bytes, &before.allocated_bytes),
            (&mut self.active_bytes, &before.active_bytes),
            (&mut self.inactive_split_bytes, &before.inactive_split_bytes),
            (&mut self.requested_bytes, &before.requested_bytes),
        ] {
            stat.all.take_off_totals(&before.all);
            stat.small_pool.take_off_totals(&before.small_pool);
            stat.large_pool.take_off_totals(&before.large_pool);
        }
        self.oversize_allocations.take_off_totals(&before.oversize_allocations);
    }
}
