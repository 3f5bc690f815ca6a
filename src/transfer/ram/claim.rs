//! What a piece of memory counts against the budget, for as long as it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes that are taken of a budget. Given back from any thread, without a lock.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: AtomicU64,
    /// Rises when something changes that an admission depends on.
    changes: AtomicU64,
}

impl Held {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes bytes. The budget is the caller's to keep, under the lock of the books.
    pub(super) fn claim(self: &Arc<Self>, bytes: u64) -> Claim {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Claim { held: Arc::clone(self), bytes }
    }
}

/// Bytes of a budget. Dropped, they are free again.
#[derive(Debug)]
pub(in crate::transfer) struct Claim {
    held: Arc<Held>,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.held.note_change();
    }
}
