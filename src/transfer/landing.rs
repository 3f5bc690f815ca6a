//! Where reads land: pinned memory that a reader thread fills and a copy stream drains, turn by
//! turn.
//!
//! Turn `n` (from 1): the reader waits until turn `n - 1` is drained, fills, opens the gate to
//! `n`; the stream waits for the gate at `n`, copies, and a host function notes turn `n` as
//! drained. So neither side ever touches the memory in the other's half of a turn, and the
//! thread that enqueues waits for neither. A turn is enqueued after the turns before it, on one
//! stream, which is why nobody can wait for a turn behind their own.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::base::{Result, lock};
use crate::device::{Device, Gate, Stream};
use crate::pinned::PinnedBlock;

/// Pinned memory with its turns.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) block: PinnedBlock,
    gate: Gate,
    /// Shared with the stream's host functions, which must not hold on to the block: giving
    /// it back calls the driver.
    turns: Arc<Turns>,
}

/// The last turns that were filled and drained. A turn that could not be enqueued may be
/// drained before it is filled, so a reader waits for both.
#[derive(Debug, Default)]
struct Turns {
    last: Mutex<Last>,
    risen: Condvar,
}

#[derive(Debug, Default)]
struct Last {
    filled: u64,
    drained: u64,
}

impl Turns {
    fn note(&self, change: impl FnOnce(&mut Last)) {
        change(&mut lock(&self.last));
        self.risen.notify_all();
    }
}

impl Landing {
    pub(super) fn new(device: &Device, block: PinnedBlock, stream: &Stream) -> Result<Self> {
        block.record_use(stream)?;
        Ok(Self { block, gate: Gate::new(device)?, turns: Arc::default() })
    }

    /// Blocks until `turn` may be filled.
    pub(super) fn wait_drained(&self, turn: u64) {
        let mut last = lock(&self.turns.last);
        while last.filled.min(last.drained) + 1 < turn {
            last = self.turns.risen.wait(last).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the stream have `turn`, filled or failed.
    pub(super) fn open(&self, turn: u64) {
        self.turns.note(|last| last.filled = turn);
        // Once more if refused: a gate that stays shut would hold the copy stream for ever.
        if let Err(error) = self.gate.open(turn).or_else(|_| self.gate.open(turn)) {
            tracing::error!(%error, "a gate did not open: the copy stream is stuck");
        }
    }

    /// Makes later work of `stream` wait until `turn` is filled.
    pub(super) fn wait_filled(&self, stream: &Stream, turn: u64) -> Result<()> {
        stream.wait_gate(&self.gate, turn)
    }

    /// Enqueues on `stream` that `turn` is drained.
    pub(super) fn note_drained(&self, stream: &Stream, turn: u64) -> Result<()> {
        let turns = Arc::clone(&self.turns);
        stream.launch_host(Box::new(move || turns.note(|last| last.drained = turn)))
    }

    /// Notes that `turn` will not be copied, or was.
    pub(super) fn set_drained(&self, turn: u64) {
        self.turns.note(|last| last.drained = turn);
    }
}
