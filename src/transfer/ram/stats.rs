//! What a cache counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a [`RamCache`](super::RamCache) since it was made; bytes unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RamStats {
    /// What it may hold.
    pub budget_bytes: u64,
    /// What it holds, memory included that is being given back.
    pub held_bytes: u64,
    /// The most it ever held.
    pub peak_bytes: u64,
    /// Units it has memory for.
    pub units: u64,
    /// Loads whose bytes were in RAM or on their way there.
    pub hits: u64,
    /// Bytes of these loads.
    pub hit_bytes: u64,
    /// Loads that had to read files.
    pub misses: u64,
    /// Bytes of these loads.
    pub miss_bytes: u64,
    /// Bytes of tensors that were read from files by all of its loaders.
    pub disk_bytes: u64,
    /// Homes that made room for others.
    pub evictions: u64,
    /// Bytes of these.
    pub evicted_bytes: u64,
    /// Homes that found no room.
    pub refusals: u64,
}

/// The counters that loaders count in without a lock.
#[derive(Debug, Default)]
pub(super) struct Meters {
    hits: AtomicU64,
    hit_bytes: AtomicU64,
    misses: AtomicU64,
    miss_bytes: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
    pub(super) refusals: AtomicU64,
}

/// Adds to a counter that nothing else depends on.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Meters {
    pub(super) fn note_load(&self, bytes: u64, is_hit: bool) {
        let (loads, loaded_bytes) = match is_hit {
            true => (&self.hits, &self.hit_bytes),
            false => (&self.misses, &self.miss_bytes),
        };
        add(loads, 1);
        add(loaded_bytes, bytes);
    }

    pub(super) fn stats(&self) -> RamStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RamStats {
            hits: read(&self.hits),
            hit_bytes: read(&self.hit_bytes),
            misses: read(&self.misses),
            miss_bytes: read(&self.miss_bytes),
            evictions: read(&self.evictions),
            evicted_bytes: read(&self.evicted_bytes),
            refusals: read(&self.refusals),
            ..RamStats::default()
        }
    }
}
