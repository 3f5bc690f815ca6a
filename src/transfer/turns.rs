//! Whose turn it is with a landing: the reader's or the copy stream's.
//!
//! Turn `n` (from 1): a reader waits until turn `n - 1` is over, fills, and says so; the stream,
//! let through by a gate, copies, and a host function says that turn `n` is drained. A turn is
//! over when it is both filled and drained: one that could not be enqueued is drained before it
//! is filled. `tests/loom_turns.rs` runs this file through its interleavings.

use crate::base::sync::{Condvar, Mutex, lock, wait};

/// The last turns that were filled and drained.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: Mutex<Last>,
    risen: Condvar,
}

#[derive(Debug, Default)]
struct Last {
    filled: u64,
    drained: u64,
}

impl Turns {
    /// Blocks until `turn` may be filled. Only reader threads call this.
    pub(super) fn wait_for(&self, turn: u64) {
        let mut last = lock(&self.last);
        while last.filled.min(last.drained) + 1 < turn {
            last = wait(&self.risen, last);
        }
    }

    /// Notes that `turn` was filled, or will never be.
    pub(super) fn set_filled(&self, turn: u64) {
        lock(&self.last).filled = turn;
        self.risen.notify_all();
    }

    /// Notes that `turn` was copied, or will never be.
    pub(super) fn set_drained(&self, turn: u64) {
        lock(&self.last).drained = turn;
        self.risen.notify_all();
    }
}
