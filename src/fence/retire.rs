//! Things that were freed while streams still use them, until the last use is over.
//!
//! One queue for each stream: a stream reaches its marks in order, so only its oldest is
//! looked at, and a slow stream holds up nobody else's things.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::events::EventPool;
use super::stream_key::StreamKey;
use crate::base::{Error, Result};
use crate::device::{Event, Stream};

/// How many events a queue keeps for its next marks; more go back to their pool.
const KEPT_EVENTS: usize = 64;

/// Retired things of type `T`, each with the events it waits for. Not thread-safe: its owner's
/// lock guards it. Takes memory only while more waits than ever before.
#[derive(Debug)]
pub struct RetireQueue<T> {
    /// What waits, and for how many events yet.
    waiting: Slab<(T, usize)>,
    /// One for each stream that has something to reach.
    marks: Vec<Marks>,
    /// Things whose end of use cannot be known, because the driver failed: asked about again
    /// at every poll.
    stranded: Vec<(T, Vec<Stream>)>,
    /// Things whose streams are not marked yet, because they must not be for now.
    put_off: Vec<(T, Vec<Stream>)>,
    /// Events nobody waits for any more.
    idle: Vec<Arc<Event>>,
    /// Of streams that have reached everything.
    queues: Vec<Queue>,
}

/// Arcs, so that the last rung of the ladder can wait without its owner's lock.
type Queue = VecDeque<(Arc<Event>, usize)>;

/// What a stream has yet to reach, oldest first.
#[derive(Debug)]
struct Marks {
    key: StreamKey,
    /// Kept alive, so that its handle names no other stream while marks are waited for.
    _stream: Stream,
    queue: Queue,
}

impl<T> Default for RetireQueue<T> {
    fn default() -> Self {
        Self {
            waiting: Slab::new(),
            marks: Vec::new(),
            stranded: Vec::new(),
            put_off: Vec::new(),
            idle: Vec::new(),
            queues: Vec::new(),
        }
    }
}

impl<T> RetireQueue<T> {
    /// Retires `thing` until everything now enqueued on `uses` has run. Where an event cannot be
    /// recorded the error is logged and the thing is stranded: [`poll`](Self::poll) tries again.
    /// Never blocks.
    pub fn retire<'a>(
        &mut self,
        thing: T,
        uses: impl IntoIterator<Item = &'a Stream, IntoIter: Clone>,
        events: &EventPool,
    ) {
        let uses = uses.into_iter();
        if let Err((thing, error)) = self.mark(thing, uses.clone(), events) {
            tracing::warn!(%error, "cannot tell when freed memory is out of use: it is set aside");
            self.stranded.push((thing, uses.cloned().collect()));
        }
    }

    /// Retires `thing` until everything enqueued on `uses` by the next [`poll`](Self::poll) has
    /// run, and asks nothing of the driver meanwhile.
    pub fn put_off<'a>(&mut self, thing: T, uses: impl IntoIterator<Item = &'a Stream>) {
        self.put_off.push((thing, uses.into_iter().cloned().collect()));
    }

    /// Lets `thing` wait for what is now enqueued on `uses`, or gives it back.
    fn mark<'a>(
        &mut self,
        thing: T,
        uses: impl Iterator<Item = &'a Stream>,
        events: &EventPool,
    ) -> Result<(), (T, Error)> {
        let slot = self.waiting.insert((thing, 0));
        for stream in uses {
            if let Err(error) = self.mark_stream(slot, stream, events) {
                self.unmark(slot);
                return Err((self.waiting.remove(slot).0, error));
            }
            self.waiting[slot].1 += 1;
        }
        Ok(())
    }

    fn mark_stream(&mut self, slot: usize, stream: &Stream, events: &EventPool) -> Result<()> {
        let event = match self.idle.pop() {
            None => Arc::new(events.record(stream)?),
            Some(event) => {
                let recorded = event.record(stream);
                if let Err(error) = recorded {
                    self.idle.push(event);
                    return Err(error);
                }
                event
            }
        };
        let key = StreamKey::of(stream);
        match self.marks.iter_mut().find(|marks| marks.key == key) {
            Some(marks) => marks.queue.push_back((event, slot)),
            None => {
                let mut queue = self.queues.pop().unwrap_or_default();
                queue.push_back((event, slot));
                self.marks.push(Marks { key, _stream: stream.clone(), queue });
            }
        }
        Ok(())
    }

    /// Takes the marks of a thing out that was just being marked.
    fn unmark(&mut self, slot: usize) {
        for marks in &mut self.marks {
            while marks.queue.back().is_some_and(|(_, of)| *of == slot) {
                self.idle.extend(marks.queue.pop_back().map(|(event, _)| event));
            }
        }
    }

    /// Gives every thing whose uses are over to `done`. Asks the driver once for each stream
    /// that has something waiting, once more where that has reached all of it, and a logarithm
    /// of its marks where it has reached some. Never blocks.
    pub fn poll(&mut self, events: &EventPool, mut done: impl FnMut(T)) {
        for (thing, uses) in std::mem::take(&mut self.put_off) {
            self.retire(thing, &uses, events);
        }
        for (thing, uses) in std::mem::take(&mut self.stranded) {
            // A later mark is reached after the one that could not be recorded would have been.
            if let Err((thing, _)) = self.mark(thing, uses.iter(), events) {
                self.stranded.push((thing, uses));
            }
        }
        let Self { waiting, marks, idle, queues, .. } = self;
        marks.retain_mut(|marks| {
            let reached = reached_count(&marks.queue);
            for (event, slot) in marks.queue.drain(..reached) {
                let left = &mut waiting[slot].1;
                *left -= 1;
                if *left == 0 {
                    done(waiting.remove(slot).0);
                }
                keep(idle, event, events);
            }
            let goes_on = !marks.queue.is_empty();
            if !goes_on {
                queues.push(std::mem::take(&mut marks.queue));
            }
            goes_on
        });
    }

    /// Takes out everything that waits, with the events to wait for before any of it is used
    /// again. What is stranded stays.
    #[must_use]
    pub fn take_waiting(&mut self) -> (Vec<T>, Vec<Arc<Event>>) {
        let pending = self.pending();
        self.marks.clear();
        (self.waiting.drain().map(|(thing, _)| thing).collect(), pending)
    }

    /// The latest mark of each stream: once these are reached, [`poll`](Self::poll) gives back
    /// everything waiting now.
    #[must_use]
    pub fn pending(&self) -> Vec<Arc<Event>> {
        let latest = self.marks.iter().filter_map(|marks| marks.queue.back());
        latest.map(|(event, _)| Arc::clone(event)).collect()
    }

    /// True when nothing waits and nothing is set aside.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.stranded.is_empty() && self.put_off.is_empty()
    }

    /// How many things wait.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// How many things are set aside, because the driver would not mark the end of their use.
    #[must_use]
    pub fn stranded_count(&self) -> usize {
        self.stranded.len()
    }
}

/// How many of its marks a stream has reached: the oldest ones.
fn reached_count(queue: &Queue) -> usize {
    // A driver that cannot answer any more has not said that the use is over.
    let is_reached = |at: usize| queue[at].0.query().unwrap_or(false);
    if queue.is_empty() || !is_reached(0) {
        return 0;
    }
    let last = queue.len() - 1;
    if last == 0 || is_reached(last) {
        return queue.len();
    }
    let (mut low, mut high) = (1, last);
    while low < high {
        let middle = low.midpoint(high);
        if is_reached(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Keeps an event for the next mark, unless somebody else still waits for it.
fn keep(idle: &mut Vec<Arc<Event>>, mut event: Arc<Event>, events: &EventPool) {
    if Arc::get_mut(&mut event).is_none() {
        return;
    }
    if idle.len() < KEPT_EVENTS {
        idle.push(event);
    } else if let Ok(event) = Arc::try_unwrap(event) {
        events.give_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, Gate, Priority};

    #[test]
    fn a_slow_stream_holds_up_only_its_own_things() {
        let device = Device::open("host:vram=2MiB").unwrap();
        let events = EventPool::new(&device);
        let slow = Stream::new(&device, Priority::Normal).unwrap();
        let fast = Stream::new(&device, Priority::Normal).unwrap();
        let gate = Gate::new(&device).unwrap();
        slow.wait_gate(&gate, 1).unwrap();

        let mut queue = RetireQueue::default();
        queue.retire("slow", [&slow], &events);
        queue.retire("both", [&slow, &fast], &events);
        queue.retire("fast", [&fast], &events);
        fast.synchronize().unwrap();
        let mut done = Vec::new();
        queue.poll(&events, |thing| done.push(thing));
        assert_eq!(done, ["fast"]);

        gate.open(1).unwrap();
        slow.synchronize().unwrap();
        queue.poll(&events, |thing| done.push(thing));
        assert_eq!(done, ["fast", "slow", "both"]);
        assert_eq!(queue.waiting_count(), 0);
    }

    #[test]
    fn a_stream_is_asked_for_few_of_its_marks() {
        // Where what nothing is in the way of has run when the call returns.
        let device = Device::open("sim").unwrap();
        let events = EventPool::new(&device);
        let stream = Stream::new(&device, Priority::Normal).unwrap();
        let gate = Gate::new(&device).unwrap();
        let mut queue = RetireQueue::default();
        let asked = || device.calls().get(crate::device::Call::QueryEvent);
        for reached in 0..=16 {
            for thing in 0..16 {
                if thing == reached {
                    stream.wait_gate(&gate, reached + 1).unwrap();
                }
                queue.retire(thing, [&stream], &events);
            }
            let before = asked();
            let mut done = Vec::new();
            queue.poll(&events, |thing| done.push(thing));
            assert_eq!(done, (0..reached).collect::<Vec<_>>());
            let most = match reached {
                0 => 1,
                16 => 2,
                _ => 2 + 4,
            };
            assert!(asked() - before <= most, "{reached} reached");
            gate.open(reached + 1).unwrap();
            queue.poll(&events, |thing| done.push(thing));
            assert_eq!(done, (0..16).collect::<Vec<_>>());
        }
    }

    #[test]
    fn events_are_used_again() {
        let device = Device::open("host:vram=2MiB").unwrap();
        let events = EventPool::new(&device);
        let stream = Stream::new(&device, Priority::Normal).unwrap();
        let mut queue = RetireQueue::default();
        for round in 0..10 {
            queue.retire(round, [&stream], &events);
            stream.synchronize().unwrap();
            queue.poll(&events, |_| {});
        }
        assert_eq!(device.calls().get(crate::device::Call::CreateEvent), 1);
    }
}
