//! Events and gates of the host device: numbers that only rise, and threads that wait for them.
//!
//! Both carry device time beside the number. Device time is what the device would show: an
//! operation begins when its stream and what it waits for are done, not when the operating
//! system got round to it, so a late wake-up does not add up. It never runs ahead of the
//! wall clock when something becomes visible.

use std::sync::{Condvar, Mutex};
use std::time::Instant;

use crate::base::lock;

/// A number that only rises, with the device time of its last rise.
#[derive(Debug)]
pub(super) struct Counter {
    state: Mutex<(u64, Instant)>,
    risen: Condvar,
}

impl Counter {
    fn new() -> Self {
        Self { state: Mutex::new((0, Instant::now())), risen: Condvar::new() }
    }

    pub(super) fn raise(&self, value: u64, at: Instant) {
        let mut state = lock(&self.state);
        if value > state.0 {
            *state = (value, at.max(state.1));
            self.risen.notify_all();
        }
    }

    /// Blocks until the number is at `value`; gives the device time of its last rise.
    pub(super) fn wait(&self, value: u64) -> Instant {
        let mut state = lock(&self.state);
        while state.0 < value {
            state = self.risen.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.1
    }

    pub(super) fn get(&self) -> (u64, Instant) {
        *lock(&self.state)
    }
}

/// An event: how often it was recorded, and up to which recording it was reached.
#[derive(Debug)]
pub(super) struct EventState {
    pub(super) timing: bool,
    recorded: Mutex<u64>,
    reached: Counter,
}

impl EventState {
    pub(super) fn new(timing: bool) -> Self {
        Self { timing, recorded: Mutex::new(0), reached: Counter::new() }
    }

    /// Counts a recording and calls `enqueue` with its number, while no other recording can
    /// come between: numbers reach the queues in the order they were given.
    pub(super) fn record(&self, enqueue: impl FnOnce(u64)) {
        let mut recorded = lock(&self.recorded);
        *recorded += 1;
        enqueue(*recorded);
    }

    /// The number of the latest recording; 0 before any.
    pub(super) fn latest(&self) -> u64 {
        *lock(&self.recorded)
    }

    pub(super) fn reach(&self, recording: u64, at: Instant) {
        self.reached.raise(recording, at);
    }

    pub(super) fn wait(&self, recording: u64) -> Instant {
        self.reached.wait(recording)
    }

    /// The device time of the latest mark, if it was reached.
    pub(super) fn reached_at(&self) -> Option<Instant> {
        let (reached, at) = self.reached.get();
        (reached >= self.latest()).then_some(at)
    }
}

/// A gate: a counter that the host raises.
#[derive(Debug)]
pub(super) struct GateState(Counter);

impl GateState {
    pub(super) fn new() -> Self {
        Self(Counter::new())
    }

    pub(super) fn open(&self, value: u64) {
        self.0.raise(value, Instant::now());
    }

    pub(super) fn wait(&self, value: u64) -> Instant {
        self.0.wait(value)
    }
}
