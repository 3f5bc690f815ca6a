//! How long the steps of a load took: what a wait for it was a wait for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Times of a load's steps, added up over its parts, which may overlap. In nanoseconds.
#[derive(Debug, Default)]
pub struct Steps {
    window_ns: AtomicU64,
    disk_ns: AtomicU64,
    link_ns: AtomicU64,
}

impl Steps {
    /// Host time for which reads waited for a slot of the window.
    #[must_use]
    pub fn window_ns(&self) -> u64 {
        self.window_ns.load(Ordering::Relaxed)
    }

    /// Host time from when its files began to be read to when they were.
    #[must_use]
    pub fn disk_ns(&self) -> u64 {
        self.disk_ns.load(Ordering::Relaxed)
    }

    /// Device time of its copies that are known to be done.
    #[must_use]
    pub fn link_ns(&self) -> u64 {
        self.link_ns.load(Ordering::Relaxed)
    }

    /// A slot of the window was waited for since then, and is there.
    pub(super) fn add_window(&self, since: Instant) {
        add(&self.window_ns, since);
    }

    /// A part was read since then, and is there.
    pub(super) fn add_disk(&self, since: Instant) {
        add(&self.disk_ns, since);
    }

    /// A copy took so long.
    pub(super) fn add_link(&self, ns: u64) {
        self.link_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

fn add(step: &AtomicU64, since: Instant) {
    let ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
    step.fetch_add(ns, Ordering::Relaxed);
}
