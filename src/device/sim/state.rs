//! Everything of a simulated device that calls change, under the driver's one lock.

use std::sync::Arc;

use super::backing::NoBytes;
use super::timeline::{Gate, Mark, StreamKey, Timeline};
use crate::base::DeviceError;
use crate::device::arena::{Arena, Status};
use crate::device::contract::{DevicePtr, StreamId};
use crate::device::mempool::Pools;
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
    pub(super) pools: Pools<Arc<Mark>>,
    /// Threads that sleep until something gets its time.
    pub(super) waiting: usize,
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
            pools: Pools::default(),
            waiting: 0,
        }
    }

    /// When the event's latest mark was reached, both known and past, with timing.
    pub(super) fn timed(&self, event: u64) -> Result<u64, Status> {
        let event = self.events.get(event)?;
        let latest = event.latest.as_ref().filter(|_| event.timing);
        let at = latest.and_then(|mark| mark.at_ns()).filter(|&at| at <= self.time.now_ns);
        at.ok_or(DeviceError::INVALID_VALUE)
    }

    /// True when work enqueued on `stream` may touch `bytes` from `at`.
    pub(super) fn holds(&mut self, stream: StreamId, at: DevicePtr, bytes: u64) -> bool {
        let now_ns = self.time.now_ns;
        self.arena.is_mapped(at.0, bytes)
            && self.pools.may_use(stream.raw(), at.0, bytes, |mark| mark.is_reached(now_ns))
    }

    /// Frees memory of `alloc`, or of a pool.
    pub(super) fn free(&mut self, at: u64) -> Result<(), Status> {
        if self.pools.owns(at) { self.pools.free_now(at) } else { self.arena.free(at) }
    }

    /// The memory, with that of pools that were given up in it as far as it is out of use.
    pub(super) fn settled_arena(&mut self) -> &mut Arena<NoBytes> {
        let now_ns = self.time.now_ns;
        self.pools.release_destroyed(&mut self.arena, |mark| mark.is_reached(now_ns));
        &mut self.arena
    }

    /// Gives back what pools hold without need, after the host has waited.
    pub(super) fn release_pools(&mut self) {
        let now_ns = self.time.now_ns;
        self.pools.release(&mut self.arena, |mark| mark.is_reached(now_ns));
    }
}
