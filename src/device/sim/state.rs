//! Everything of a simulated device that calls change, under the driver's one lock.

use std::sync::Arc;

use super::backing::NoBytes;
use super::timeline::{Gate, Mark, StreamKey, Timeline};
use crate::base::DeviceError;
use crate::device::arena::{Arena, Status};
use crate::device::pinned::PinnedRanges;
use crate::device::table::Table;

/// The device.
pub(super) struct State {
    pub(super) time: Timeline,
    pub(super) arena: Arena<NoBytes>,
    pub(super) pinned: PinnedRanges,
    pub(super) streams: Table<StreamKey>,
    pub(super) events: Table<Event>,
    pub(super) gates: Table<Arc<Gate>>,
}

/// An event: its latest mark.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) timing: bool,
    pub(super) latest: Option<Arc<Mark>>,
}

impl State {
    pub(super) fn new(time: Timeline, arena: Arena<NoBytes>) -> Self {
        Self {
            time,
            arena,
            pinned: PinnedRanges::lazy(),
            streams: Table::default(),
            events: Table::default(),
            gates: Table::default(),
        }
    }

    /// When the event's latest mark was reached, both known and past, with timing.
    pub(super) fn timed(&self, event: u64) -> Result<u64, Status> {
        let event = self.events.get(event)?;
        let latest = event.latest.as_ref().filter(|_| event.timing);
        let at = latest.and_then(|mark| mark.at_ns()).filter(|&at| at <= self.time.now_ns);
        at.ok_or(DeviceError::INVALID_VALUE)
    }

    /// True when work may touch `bytes` from `at`.
    pub(super) fn holds(&self, at: u64, bytes: u64) -> bool {
        self.arena.is_mapped(at, bytes)
    }
}
