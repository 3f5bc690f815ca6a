//! Looking on while a packing is made, and ending it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared between who packs and who waits for it; all calls may come from any thread.
#[derive(Debug, Default)]
pub struct Watch {
    is_cancelled: AtomicBool,
    steps: AtomicU64,
    best_bytes: AtomicU64,
}

impl Watch {
    /// A watch for one packing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the packing soon. It then gives the best it has.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// True once [`cancel`](Self::cancel) was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    /// Steps of the budget used so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Height of the best packing so far, in bytes; 0 before the first.
    #[must_use]
    pub fn best_bytes(&self) -> u64 {
        self.best_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn report(&self, steps: u64, best_bytes: u64) {
        self.steps.store(steps, Ordering::Relaxed);
        self.best_bytes.store(best_bytes, Ordering::Relaxed);
    }
}
