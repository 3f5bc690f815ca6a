//! How long the steps of a load took: what a wait for it was a wait for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Times of a load's steps, added up over its parts, which may overlap. In nanoseconds.
#[derive(Debug, Default)]
pub struct Steps {
    pub(super) window_ns: AtomicU64,
    pub(super) disk_ns: AtomicU64,
    pub(super) link_ns: AtomicU64,
}

impl Steps {
    /// Host time for which reads waited for a slot of the window.
    #[must_use]
    pub fn window_ns(&self) -> u64 {
        self.window_ns.load(Ordering::Relaxed)
    }

    /// Host time for which its files were read.
    #[must_use]
    pub fn disk_ns(&self) -> u64 {
        self.disk_ns.load(Ordering::Relaxed)
    }

    /// Device time of its copies that are known to be done.
    #[must_use]
    pub fn link_ns(&self) -> u64 {
        self.link_ns.load(Ordering::Relaxed)
    }

    /// Adds how long `work` takes to a step.
    pub(super) fn time<T>(&self, step: &AtomicU64, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        let taken = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        step.fetch_add(taken, Ordering::Relaxed);
        result
    }
}
