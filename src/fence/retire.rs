//! Things that were freed while streams still use them, until the last use is over.
//!
//! One queue for each stream: a stream reaches its marks in order, so only its oldest is
//! looked at, and a slow stream holds up nobody else's things.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::events::EventPool;
use super::stream_key::StreamKey;
use crate::base::{Error, Result};
use crate::device::{Event, Stream};

/// Retired things of type `T`, each with the events it waits for. Not thread-safe: its owner's
/// lock guards it.
#[derive(Debug)]
pub struct RetireQueue<T> {
    /// What waits, and for how many events yet.
    waiting: Slab<(T, usize)>,
    marks: BTreeMap<StreamKey, Marks>,
    /// Things whose end of use cannot be known, because the driver failed: asked about again
    /// at every poll.
    stranded: Vec<(T, Vec<Stream>)>,
    /// Things whose streams are not marked yet, because they must not be for now.
    put_off: Vec<(T, Vec<Stream>)>,
}

/// What a stream has yet to reach, oldest first.
#[derive(Debug)]
struct Marks {
    /// Kept alive, so that its handle names no other stream while marks are waited for.
    _stream: Stream,
    /// Arcs, so that the last rung of the ladder can wait without its owner's lock.
    queue: VecDeque<(Arc<Event>, usize)>,
}

impl<T> Default for RetireQueue<T> {
    fn default() -> Self {
        Self {
            waiting: Slab::new(),
            marks: BTreeMap::new(),
            stranded: Vec::new(),
            put_off: Vec::new(),
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
        uses: impl IntoIterator<Item = &'a Stream>,
        events: &EventPool,
    ) {
        let uses = uses.into_iter().cloned().collect();
        if let Err((thing, uses, error)) = self.mark(thing, uses, events) {
            tracing::warn!(%error, "cannot tell when freed memory is out of use: it is set aside");
            self.stranded.push((thing, uses));
        }
    }

    /// Retires `thing` until everything enqueued on `uses` by the next [`poll`](Self::poll) has
    /// run, and asks nothing of the driver meanwhile.
    pub fn put_off<'a>(&mut self, thing: T, uses: impl IntoIterator<Item = &'a Stream>) {
        self.put_off.push((thing, uses.into_iter().cloned().collect()));
    }

    /// Lets `thing` wait for what is now enqueued on `uses`, or gives it back.
    fn mark(
        &mut self,
        thing: T,
        uses: Vec<Stream>,
        events: &EventPool,
    ) -> Result<(), (T, Vec<Stream>, Error)> {
        let recorded: Result<Vec<_>> = uses.iter().map(|stream| events.record(stream)).collect();
        let recorded = match recorded {
            Ok(recorded) => recorded,
            Err(error) => return Err((thing, uses, error)),
        };
        let slot = self.waiting.insert((thing, recorded.len()));
        for (stream, event) in uses.into_iter().zip(recorded) {
            let marks = self.marks.entry(StreamKey::of(&stream));
            let marks = marks.or_insert(Marks { _stream: stream, queue: VecDeque::new() });
            marks.queue.push_back((Arc::new(event), slot));
        }
        Ok(())
    }

    /// Gives every thing whose uses are over to `done`. Asks the driver once for each stream
    /// that has something waiting, and once more for each mark reached. Never blocks.
    pub fn poll(&mut self, events: &EventPool, mut done: impl FnMut(T)) {
        for (thing, uses) in std::mem::take(&mut self.put_off) {
            self.retire(thing, &uses, events);
        }
        for (thing, uses) in std::mem::take(&mut self.stranded) {
            // A later mark is reached after the one that could not be recorded would have been.
            if let Err((thing, uses, _)) = self.mark(thing, uses, events) {
                self.stranded.push((thing, uses));
            }
        }
        self.marks.retain(|_, marks| {
            while let Some((event, slot)) = marks.queue.pop_front() {
                // A driver that cannot answer any more has not said that the use is over.
                if !event.query().unwrap_or(false) {
                    marks.queue.push_front((event, slot));
                    break;
                }
                if let Ok(event) = Arc::try_unwrap(event) {
                    events.give_back(event);
                }
                let left = &mut self.waiting[slot].1;
                *left -= 1;
                if *left == 0 {
                    done(self.waiting.remove(slot).0);
                }
            }
            !marks.queue.is_empty()
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
        let latest = self.marks.values().filter_map(|marks| marks.queue.back());
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
