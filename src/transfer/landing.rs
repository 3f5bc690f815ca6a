//! Where reads land: pinned memory that a reader thread fills and a copy stream drains, turn by
//! turn (see `turns`), with a gate that lets the stream have each turn.
//!
//! Neither side ever touches the memory in the other's half of a turn, and the thread that
//! enqueues waits for neither. A turn is enqueued after the turns before it, on one stream, which
//! is why nobody can wait for a turn behind their own.

use std::sync::Arc;

use super::turns::Turns;
use crate::base::Result;
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

impl Landing {
    pub(super) fn new(device: &Device, block: PinnedBlock, stream: &Stream) -> Result<Self> {
        block.record_use(stream)?;
        Ok(Self { block, gate: Gate::new(device)?, turns: Arc::default() })
    }

    /// Blocks until `turn` may be filled.
    pub(super) fn wait_for(&self, turn: u64) {
        self.turns.wait_for(turn);
    }

    /// Lets the stream have `turn`, filled or failed.
    pub(super) fn open(&self, turn: u64) {
        self.turns.set_filled(turn);
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
        stream.launch_host(Box::new(move || turns.set_drained(turn)))
    }

    /// Notes that `turn` will not be copied, or was.
    pub(super) fn set_drained(&self, turn: u64) {
        self.turns.set_drained(turn);
    }
}
