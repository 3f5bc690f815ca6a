//! Streams on the virtual clock: when each operation runs, given its stream, what it waits for
//! and the engine it needs.
//!
//! An operation gets its times as soon as they are known: at once, or when the gate opens that
//! its stream stands at. So host functions run as early as their order allows, although the
//! virtual time of their end may still be to come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::engine::{Engines, duration_ns};
use crate::base::lock;
use crate::device::contract::HostFn;

/// Key of a stream on the timeline.
pub(super) type StreamKey = usize;

/// A mark in a stream, touched under the driver's lock alone. It has its time once that is known, which may be ahead of the host.
#[derive(Debug)]
pub(super) struct Mark {
    /// [`UNKNOWN`] until that is known.
    at_ns: AtomicU64,
    waiting: Mutex<Vec<StreamKey>>,
}

/// No time a mark is given: it would be after 584 years.
const UNKNOWN: u64 = u64::MAX;

impl Default for Mark {
    fn default() -> Self {
        Self { at_ns: AtomicU64::new(UNKNOWN), waiting: Mutex::default() }
    }
}

impl Mark {
    fn set(&self, at_ns: u64) {
        self.at_ns.store(at_ns.min(UNKNOWN - 1), Ordering::Relaxed);
    }

    /// When it is reached, if that is known yet.
    pub(super) fn at_ns(&self) -> Option<u64> {
        Some(self.at_ns.load(Ordering::Relaxed)).filter(|&at_ns| at_ns != UNKNOWN)
    }

    /// True when host time has come to it.
    pub(super) fn is_reached(&self, now_ns: u64) -> bool {
        self.at_ns().is_some_and(|at_ns| at_ns <= now_ns)
    }
}

/// A gate: a number that only rises.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    value: u64,
    risen_ns: u64,
    waiting: Vec<StreamKey>,
}

/// A thing a stream does.
pub(super) enum Op {
    Record(Arc<Mark>),
    WaitMark(Arc<Mark>),
    WaitGate(Arc<Gate>, u64),
    Host(HostFn),
    ToDevice(u64),
    ToHost(u64),
    /// Work of so many nanoseconds that needs no engine.
    Work(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// Nothing to do, or about to do it.
    Ready,
    /// At a closed gate, or a mark without a time.
    Blocked,
    /// In a host function.
    Calling,
}

struct Lane {
    queue: VecDeque<(Op, u64)>,
    end_ns: u64,
    stands: Stands,
    given_up: bool,
}

/// All streams of a device, and the host's clock.
pub(super) struct Timeline {
    pub(super) now_ns: u64,
    lanes: slab::Slab<Lane>,
    /// Streams to look at, in the order in which they became ready.
    runnable: VecDeque<StreamKey>,
    h2d: Engines,
    d2h: Engines,
    /// From issue to start of work on an idle device.
    start_ns: u64,
    /// End of everything whose time is known.
    last_end_ns: u64,
}

impl Timeline {
    pub(super) fn new(h2d: Engines, d2h: Engines, start_ns: u64) -> Self {
        Self {
            now_ns: 0,
            lanes: slab::Slab::new(),
            runnable: VecDeque::new(),
            h2d,
            d2h,
            start_ns,
            last_end_ns: 0,
        }
    }

    pub(super) fn pass(&mut self, ns: u64) {
        self.now_ns = self.now_ns.saturating_add(ns);
    }

    pub(super) fn pass_until(&mut self, ns: u64) {
        self.now_ns = self.now_ns.max(ns);
    }

    /// Waits for all work whose end is known.
    pub(super) fn wait_for_device(&mut self) {
        self.pass_until(self.last_end_ns);
    }

    pub(super) fn add_stream(&mut self) -> StreamKey {
        self.lanes.insert(Lane {
            queue: VecDeque::new(),
            end_ns: self.now_ns,
            stands: Stands::Ready,
            given_up: false,
        })
    }

    /// Gives a stream up; it goes when its queue is done.
    pub(super) fn give_up(&mut self, stream: StreamKey) {
        self.lanes[stream].given_up = true;
        self.runnable.push_back(stream);
    }

    /// Enqueues `op` from now.
    pub(super) fn push(&mut self, stream: StreamKey, op: Op) {
        let lane = &mut self.lanes[stream];
        lane.queue.push_back((op, self.now_ns));
        if lane.stands == Stands::Ready && lane.queue.len() == 1 {
            self.runnable.push_back(stream);
        }
    }

    /// Marks the present end of a stream, in place of what was `latest`.
    pub(super) fn record(&mut self, stream: StreamKey, latest: &mut Option<Arc<Mark>>) {
        let lane = &self.lanes[stream];
        if lane.stands != Stands::Ready || !lane.queue.is_empty() {
            let mark = latest.insert(Arc::default());
            let op = Op::Record(Arc::clone(mark));
            return self.push(stream, op);
        }
        // Nothing is ahead of it, so its time is known.
        let at_ns = lane.end_ns.max(self.now_ns);
        self.reach(stream, at_ns);
        match latest.as_mut().and_then(Arc::get_mut) {
            // Nobody waits for it, for whoever does has it too.
            Some(unshared) => unshared.set(at_ns),
            None => latest.insert(Arc::default()).set(at_ns),
        }
    }

    /// Raises a gate, and lets streams look at it again.
    pub(super) fn open(&mut self, gate: &Gate, value: u64) {
        let mut state = lock(&gate.0);
        if value > state.value {
            (state.value, state.risen_ns) = (value, self.now_ns);
            for stream in std::mem::take(&mut state.waiting) {
                self.wake(stream);
            }
        }
    }

    /// Runs what can run, up to the first host function, which the caller calls and then
    /// reports by [`called`](Self::called).
    pub(super) fn run(&mut self) -> Option<(StreamKey, HostFn)> {
        while let Some(stream) = self.runnable.pop_front() {
            if let Some(function) = self.run_stream(stream) {
                return Some((stream, function));
            }
        }
        None
    }

    /// The host function of `stream` has returned.
    pub(super) fn called(&mut self, stream: StreamKey) {
        self.wake(stream);
    }

    fn wake(&mut self, stream: StreamKey) {
        self.lanes[stream].stands = Stands::Ready;
        self.runnable.push_back(stream);
    }

    fn run_stream(&mut self, stream: StreamKey) -> Option<HostFn> {
        if self.lanes.get(stream)?.stands != Stands::Ready {
            return None;
        }
        while let Some((op, issued_ns)) = self.lanes[stream].queue.pop_front() {
            let stream_end = self.lanes[stream].end_ns;
            let ready = stream_end.max(issued_ns);
            let started = stream_end.max(issued_ns.saturating_add(self.start_ns));
            let end = match op {
                Op::Record(mark) => {
                    mark.set(ready);
                    for waiting in std::mem::take(&mut *lock(&mark.waiting)) {
                        self.wake(waiting);
                    }
                    ready
                }
                Op::WaitMark(mark) => match mark.at_ns() {
                    Some(at) => ready.max(at),
                    None => {
                        lock(&mark.waiting).push(stream);
                        return self.block(stream, Op::WaitMark(Arc::clone(&mark)), issued_ns);
                    }
                },
                Op::WaitGate(gate, value) => {
                    let mut state = lock(&gate.0);
                    if state.value < value {
                        state.waiting.push(stream);
                        drop(state);
                        return self.block(stream, Op::WaitGate(gate, value), issued_ns);
                    }
                    ready.max(state.risen_ns)
                }
                Op::Host(function) => {
                    self.lanes[stream].stands = Stands::Calling;
                    self.reach(stream, ready);
                    return Some(function);
                }
                Op::ToDevice(bytes) => self.h2d.carry(bytes, started, self.now_ns),
                Op::ToHost(bytes) => self.d2h.carry(bytes, started, self.now_ns),
                Op::Work(ns) => started.saturating_add(ns),
            };
            self.reach(stream, end);
        }
        if self.lanes[stream].given_up {
            self.lanes.remove(stream);
        }
        None
    }

    /// Puts back an operation that cannot run yet.
    fn block(&mut self, stream: StreamKey, op: Op, issued_ns: u64) -> Option<HostFn> {
        let lane = &mut self.lanes[stream];
        lane.queue.push_front((op, issued_ns));
        lane.stands = Stands::Blocked;
        None
    }

    fn reach(&mut self, stream: StreamKey, end_ns: u64) {
        self.lanes[stream].end_ns = end_ns;
        self.last_end_ns = self.last_end_ns.max(end_ns);
    }

    /// How long so many bytes take, for work that needs no engine.
    pub(super) fn work(bytes: u64, bytes_per_second: f64) -> Op {
        Op::Work(duration_ns(bytes, bytes_per_second))
    }
}
