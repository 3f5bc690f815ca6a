//! The pool's figures: our own, and PyTorch's by their names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::pool::PinnedPool;
use super::shared::Shared;
use super::slab::{Kind, Slab};
use crate::base::lock;

/// A snapshot of a pool's counters. `reserved = active + retired + cached`, but for memory that
/// is just being taken or given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PinnedStats {
    /// Bytes held: slabs.
    pub reserved_bytes: u64,
    /// The most bytes that ever counted against the budget.
    pub reserved_peak_bytes: u64,
    /// Bytes handed out now.
    pub active_bytes: u64,
    /// The most bytes that were handed out or at hand for one thread: an upper estimate of the
    /// peak of `active_bytes`.
    pub active_peak_bytes: u64,
    /// Bytes freed, but some copy may still use them, or a graph keeps them.
    pub retired_bytes: u64,
    /// Bytes free to be handed out.
    pub cached_bytes: u64,
    /// Bytes of slabs that the system refused to pin.
    pub pageable_bytes: u64,
    /// Bytes of callers' own memory that are registered, in whole pages.
    pub adopted_bytes: u64,
    /// Slabs held.
    pub slabs: u64,
    /// Blocks ever handed out.
    pub allocations: u64,
    /// Blocks ever dropped.
    pub frees: u64,
    /// Taking slabs from the system.
    pub slab_allocations: CallTimes,
    /// Giving slabs to the system.
    pub slab_frees: CallTimes,
}

/// How often something was done, and how long it took, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct CallTimes {
    /// How often.
    pub count: u64,
    /// All together.
    pub total_ns: u64,
    /// The shortest; 0 before the first.
    pub min_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl CallTimes {
    pub(super) fn add(&mut self, took: Duration) {
        self.add_many(took, 1);
    }

    /// `count` calls that took so long together.
    pub(super) fn add_many(&mut self, took: Duration, count: usize) {
        let Some(each) = took.checked_div(u32::try_from(count).unwrap_or(u32::MAX)) else { return };
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.min_ns = if self.count == 0 { ns(each) } else { self.min_ns.min(ns(each)) };
        self.max_ns = self.max_ns.max(ns(each));
        self.total_ns = self.total_ns.saturating_add(ns(took));
        self.count += count as u64;
    }
}

/// What went through the books.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    /// Blocks taken out of the ledger, their bytes, and the most that were in use or at hand.
    pub(super) taken: u64,
    pub(super) taken_bytes: u64,
    pub(super) taken_peak_bytes: u64,
    /// Blocks out of the ledger now, and the most there were.
    pub(super) out: u64,
    pub(super) out_peak: u64,
    /// Blocks that came back past the shelves.
    pub(super) returned: u64,
    /// Bytes of all slabs there ever were, and the most slabs at once.
    pub(super) slab_bytes: u64,
    pub(super) slabs_peak: u64,
    /// What asking the system took.
    pub(super) taking: CallTimes,
    pub(super) giving: CallTimes,
}

impl Flow {
    /// Counts a block of `bytes` out of the ledger, which makes `active_bytes`.
    pub(super) fn hand_out(&mut self, bytes: u64, active_bytes: u64) {
        self.taken += 1;
        self.taken_bytes += bytes;
        self.taken_peak_bytes = self.taken_peak_bytes.max(active_bytes);
        self.out += 1;
        self.out_peak = self.out_peak.max(self.out);
    }
}

impl Shared {
    pub(super) fn stats(self: &Arc<Self>) -> PinnedStats {
        let core = self.enter();
        let (totals, shelves) = (core.ledger.totals(), self.shelves.totals());
        let kept_bytes = self.captures.kept_bytes();
        let slabs = || core.slabs.values().chain(&core.outgoing);
        let pageable = slabs().filter(|slab| slab.kind == Kind::Pageable);
        PinnedStats {
            reserved_bytes: core.held_bytes() - core.adopted_bytes,
            reserved_peak_bytes: core.peak_bytes,
            active_bytes: totals.active_bytes.saturating_sub(shelves.bytes + kept_bytes),
            active_peak_bytes: core.flow.taken_peak_bytes,
            retired_bytes: totals.retired_bytes + kept_bytes,
            cached_bytes: totals.cached_bytes() + shelves.bytes,
            pageable_bytes: pageable.map(Slab::bytes).sum(),
            adopted_bytes: core.adopted_bytes,
            slabs: slabs().count() as u64,
            allocations: core.flow.taken + shelves.taken,
            frees: core.flow.returned + shelves.put - shelves.turned_out,
            slab_allocations: core.flow.taking,
            slab_frees: core.flow.giving,
        }
    }

    /// Proves the books.
    pub(super) fn check(self: &Arc<Self>) -> Result<(), String> {
        let core = self.enter();
        core.ledger.check()?;
        for (_, segment) in core.ledger.segments() {
            let slab = core.slabs.get(&segment.address);
            if slab.is_none_or(|slab| slab.bytes() != segment.bytes) {
                return Err(format!("the segment at {:#x} is no slab", segment.address));
            }
        }
        let slabs_bytes: u64 = core.slabs.values().map(Slab::bytes).sum();
        let reserved_bytes = core.ledger.totals().reserved_bytes;
        if slabs_bytes != reserved_bytes {
            return Err(format!("slabs have {slabs_bytes} bytes, the ledger {reserved_bytes}"));
        }
        let outgoing_bytes: u64 = core.outgoing.iter().map(Slab::bytes).sum();
        if outgoing_bytes + core.in_release_bytes != core.releasing_bytes {
            return Err(format!("{outgoing_bytes} bytes wait to be given back and are miscounted"));
        }
        if core.held_bytes() > self.budget.bytes {
            return Err(format!("{} bytes held of {}", core.held_bytes(), self.budget.bytes));
        }
        let shelved_bytes = self.shelves.totals().bytes + self.captures.kept_bytes();
        if shelved_bytes > core.ledger.totals().active_bytes {
            return Err(format!("{shelved_bytes} bytes at hand are not out of the ledger"));
        }
        Ok(())
    }
}

impl PinnedPool {
    /// What `torch.cuda.host_memory_stats()` of PyTorch 2.15 gives, flattened and sorted as
    /// there. Sizes in bytes, times in microseconds. `allocations` and `allocated_bytes` are of
    /// slabs, which are what PyTorch's blocks are; its `active_` figures are of what is handed
    /// out. Peaks are upper estimates, as there.
    ///
    /// ```
    /// # use riverbed::{device::Device, pinned::PinnedPool};
    /// let device = Device::open("host:vram=2MiB")?;
    /// let pool = PinnedPool::new(&device, &"pinned_limit_mb:16".parse()?);
    /// let block = pool.alloc(5000)?;
    /// assert_eq!(pool.pytorch_stats()["active_bytes.current"], 8192);
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    #[must_use]
    pub fn pytorch_stats(&self) -> BTreeMap<String, i64> {
        let stats = self.stats();
        let flow = lock(&self.shared().core).flow;
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut flat = BTreeMap::new();
        let mut stat = |name: &str, current: u64, peak: u64, allocated: u64| {
            let freed = allocated.saturating_sub(current);
            for (part, number) in
                [("current", current), ("peak", peak), ("allocated", allocated), ("freed", freed)]
            {
                flat.insert(format!("{name}.{part}"), whole(number));
            }
        };
        stat("allocations", stats.slabs, flow.slabs_peak, stats.slab_allocations.count);
        stat("allocated_bytes", stats.reserved_bytes, stats.reserved_peak_bytes, flow.slab_bytes);
        let active = stats.allocations.saturating_sub(stats.frees);
        stat("active_requests", active, flow.out_peak, stats.allocations);
        let handed_bytes = flow.taken_bytes + self.shared().shelves.totals().taken_bytes;
        stat("active_bytes", stats.active_bytes, stats.active_peak_bytes, handed_bytes);
        for (name, times) in
            [("host_alloc_time", stats.slab_allocations), ("host_free_time", stats.slab_frees)]
        {
            let mean = times.total_ns.checked_div(times.count).unwrap_or(0);
            for (part, number) in [
                ("total", times.total_ns / 1000),
                ("max", times.max_ns / 1000),
                ("min", times.min_ns / 1000),
                ("count", times.count),
                ("avg", mean / 1000),
            ] {
                flat.insert(format!("{name}.{part}"), whole(number));
            }
        }
        flat.insert("num_host_alloc".into(), whole(stats.slab_allocations.count));
        flat.insert("num_host_free".into(), whole(stats.slab_frees.count));
        flat
    }
}
