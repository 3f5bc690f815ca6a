//! Where buffers are ordered behind while a copy of theirs is not with the device yet: a stream
//! that stands at a gate, which counts the copies that have ended, in order.

use std::sync::Arc;

use super::insist::REFUSALS;
use crate::base::Result;
use crate::device::{Device, Event, Gate, Priority, Stream};
use crate::fence::EventPool;

/// A tail.
#[derive(Debug)]
pub(super) struct Tail {
    stream: Stream,
    gate: Arc<Gate>,
    turns: u64,
}

/// A copy's place at the tail.
#[derive(Debug)]
pub(super) struct Place {
    /// Reached when what was enqueued on the buffer before has run; none where the tail's owner
    /// keeps that order anyway.
    pub(super) ready: Option<Event>,
    /// What the gate is opened to when the copy has ended.
    pub(super) turn: u64,
}

impl Tail {
    pub(super) fn new(device: &Device) -> Result<Self> {
        let stream = Stream::new(device, Priority::Normal)?;
        Ok(Self { stream, gate: Arc::new(Gate::new(device)?), turns: 0 })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Makes the tail stand until the next copy has ended, after what was last enqueued on
    /// `last`. A failed call changes nothing.
    pub(super) fn stand(&mut self, last: &Stream, events: &EventPool) -> Result<Place> {
        // What is behind the tail was asked of its owner before, who keeps order.
        let ready = if *last == self.stream { None } else { Some(events.record(last)?) };
        let turn = self.turns + 1;
        // The tail waits for the buffer's earlier work too: the gate also opens for a copy that
        // was cancelled or failed, whose chunks waited for nothing.
        let behind = ready.as_ref().map_or(Ok(()), |mark| self.stream.wait(mark));
        if let Err(error) = behind.and_then(|()| self.stream.wait_gate(&self.gate, turn)) {
            ready.into_iter().for_each(|mark| events.give_back(mark));
            return Err(error);
        }
        self.turns = turn;
        Ok(Place { ready, turn })
    }
}

/// Opens a gate, more than once if refused: one that stays shut would hold streams for ever.
pub(super) fn open(gate: &Gate, turn: u64) {
    let mut opened = gate.open(turn);
    for _ in 0..REFUSALS {
        if opened.is_ok() {
            return;
        }
        opened = gate.open(turn);
    }
    if let Err(error) = opened {
        tracing::error!(%error, "a gate did not open: streams behind a copy are stuck");
    }
}
