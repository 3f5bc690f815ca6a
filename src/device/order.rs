//! What is ordered after what, as far as streams, events and the host's own waiting say: a
//! vector clock of each stream, kept once pools are in use.

use std::collections::{BTreeMap, HashMap};

/// Positions by stream serial.
pub(super) type Clock = BTreeMap<u64, u64>;

/// A place in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    serial: u64,
    position: u64,
}

#[derive(Debug, Default)]
struct Lane {
    /// Never used again, as a driver's handle may be.
    serial: u64,
    position: u64,
    knows: Clock,
    /// Stood at a gate, which orders it in ways that are not seen here.
    gated: bool,
}

/// The clocks.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// A point was asked for: there is something to know.
    in_use: bool,
    serials: u64,
    streams: HashMap<u64, Lane>,
    events: HashMap<u64, Clock>,
    /// What the host has waited for: known to everything enqueued from then on.
    host: Clock,
}

impl Order {
    fn lane(&mut self, stream: u64) -> &mut Lane {
        self.streams.entry(stream).or_insert_with(|| {
            self.serials += 1;
            Lane { serial: self.serials, ..Lane::default() }
        })
    }

    /// A new point at the stream's end.
    pub(super) fn point(&mut self, stream: u64) -> Point {
        self.in_use = true;
        let lane = self.lane(stream);
        lane.position += 1;
        Point { serial: lane.serial, position: lane.position }
    }

    /// True when what is enqueued on `stream` from now on runs after `point`.
    pub(super) fn is_after(&mut self, stream: u64, point: Point) -> bool {
        let lane = self.lane(stream);
        lane.serial == point.serial || knows(&lane.knows, point) || knows(&self.host, point)
    }

    /// True when `point` is in `stream` itself.
    pub(super) fn is_own(&mut self, stream: u64, point: Point) -> bool {
        self.lane(stream).serial == point.serial
    }

    /// The later of two points of one stream; `None` of two streams.
    pub(super) fn later(a: Point, b: Point) -> Option<Point> {
        let later = if a.position >= b.position { a } else { b };
        (a.serial == b.serial).then_some(later)
    }

    /// True when the host has waited for `point`.
    pub(super) fn is_seen(&self, point: Point) -> bool {
        knows(&self.host, point)
    }

    pub(super) fn is_gated(&mut self, stream: u64) -> bool {
        self.lane(stream).gated
    }

    pub(super) fn recorded(&mut self, event: u64, stream: u64) {
        if self.in_use {
            let clock = self.stream_clock(stream);
            self.events.insert(event, clock);
        }
    }

    pub(super) fn waited(&mut self, stream: u64, event: u64) {
        if let Some(clock) = self.events.get(&event).cloned() {
            merge(&mut self.lane(stream).knows, &clock);
        }
    }

    pub(super) fn waited_for_point(&mut self, stream: u64, point: Point) {
        let clock = Clock::from([(point.serial, point.position)]);
        merge(&mut self.lane(stream).knows, &clock);
    }

    pub(super) fn waited_at_gate(&mut self, stream: u64) {
        self.lane(stream).gated = true;
    }

    /// What whoever waits for the stream's present end waits for.
    pub(super) fn stream_clock(&mut self, stream: u64) -> Clock {
        if !self.in_use {
            return Clock::new();
        }
        let lane = self.lane(stream);
        let mut clock = lane.knows.clone();
        clock.insert(lane.serial, lane.position);
        merge(&mut clock, &self.host);
        clock
    }

    /// What whoever waits for the event's present mark waits for.
    pub(super) fn event_clock(&self, event: u64) -> Clock {
        self.events.get(&event).cloned().unwrap_or_default()
    }

    /// The host has waited for all of `clock`.
    pub(super) fn seen(&mut self, clock: &Clock) {
        merge(&mut self.host, clock);
    }

    /// The host has seen the event reached.
    pub(super) fn event_seen(&mut self, event: u64) {
        if self.in_use {
            let clock = self.event_clock(event);
            self.seen(&clock);
        }
    }

    pub(super) fn stream_gone(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    pub(super) fn event_gone(&mut self, event: u64) {
        self.events.remove(&event);
    }
}

fn knows(clock: &Clock, point: Point) -> bool {
    clock.get(&point.serial).is_some_and(|&position| position >= point.position)
}

fn merge(into: &mut Clock, from: &Clock) {
    for (&serial, &position) in from {
        let known = into.entry(serial).or_default();
        *known = position.max(*known);
    }
}
