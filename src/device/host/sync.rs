//! Events and gates of the host device: marks that are reached, numbers that rise, and threads
//! that wait for them.
//!
//! Both carry device time. Device time is what the device would show: an
//! operation begins when its stream and what it waits for are done, not when the operating
//! system got round to it, so a late wake-up does not add up. It never runs ahead of the
//! wall clock when something becomes visible.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::base::{lock, wait};

/// A mark in a stream: reached once, at a device time.
#[derive(Debug, Default)]
pub(super) struct Mark {
    reached_at: Mutex<Option<Instant>>,
    reached: Condvar,
}

impl Mark {
    pub(super) fn reach(&self, at: Instant) {
        *lock(&self.reached_at) = Some(at);
        self.reached.notify_all();
    }

    /// Blocks until the mark was reached; gives when.
    pub(super) fn wait(&self) -> Instant {
        let mut reached_at = lock(&self.reached_at);
        loop {
            if let Some(at) = *reached_at {
                return at;
            }
            reached_at = wait(&self.reached, reached_at);
        }
    }

    pub(super) fn reached_at(&self) -> Option<Instant> {
        *lock(&self.reached_at)
    }
}

/// An event: its latest mark. Every recording makes a mark of its own, so that a wait keeps the
/// one it was enqueued with, whichever is reached first.
#[derive(Debug)]
pub(super) struct EventState {
    pub(super) timing: bool,
    latest: Mutex<Option<Arc<Mark>>>,
}

impl EventState {
    pub(super) fn new(timing: bool) -> Self {
        Self { timing, latest: Mutex::new(None) }
    }

    /// Moves the mark: calls `enqueue` with the new one, while no other recording can come
    /// between.
    pub(super) fn record(&self, enqueue: impl FnOnce(Arc<Mark>)) {
        let mut latest = lock(&self.latest);
        let mark = Arc::new(Mark::default());
        *latest = Some(Arc::clone(&mark));
        enqueue(mark);
    }

    /// The latest mark; `None` before any.
    pub(super) fn latest(&self) -> Option<Arc<Mark>> {
        lock(&self.latest).clone()
    }
}

/// A gate: a number that only rises, with the device time of its last rise.
#[derive(Debug)]
pub(in crate::device) struct GateState {
    state: Mutex<(u64, Instant)>,
    risen: Condvar,
}

impl GateState {
    pub(in crate::device) fn new() -> Self {
        Self { state: Mutex::new((0, Instant::now())), risen: Condvar::new() }
    }

    pub(in crate::device) fn open(&self, value: u64) {
        let mut state = lock(&self.state);
        if value > state.0 {
            *state = (value, Instant::now());
            self.risen.notify_all();
        }
    }

    /// Blocks until the number is at `value`; gives the device time of its last rise.
    pub(in crate::device) fn wait(&self, value: u64) -> Instant {
        let mut state = lock(&self.state);
        while state.0 < value {
            state = wait(&self.risen, state);
        }
        state.1
    }
}
