//! Things that were freed while streams still use them, until the last use is over.
//!
//! One queue for each stream: a stream reaches its marks in order, so only its oldest is
//! looked at, and a slow stream holds up nobody else's things.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::events::EventPool;
use super::stream_key::StreamKey;
use crate::base::Result;
use crate::device::{Event, Stream};

/// Retired things of type `T`, each with the events it waits for. Not thread-safe: its owner's
/// lock guards it.
#[derive(Debug)]
pub struct RetireQueue<T> {
    /// What waits, and for how many events yet.
    waiting: Slab<(T, usize)>,
    /// Arcs, so that the last rung of the ladder can wait without its owner's lock.
    marks: BTreeMap<StreamKey, VecDeque<(Arc<Event>, usize)>>,
    /// Things whose end of use cannot be known, because the driver failed: never used again.
    stranded: Vec<T>,
}

impl<T> Default for RetireQueue<T> {
    fn default() -> Self {
        Self { waiting: Slab::new(), marks: BTreeMap::new(), stranded: Vec::new() }
    }
}

impl<T> RetireQueue<T> {
    /// Retires `thing` until everything now enqueued on `uses` has run. Where an event cannot be
    /// recorded the thing is stranded: it is never given out again, and the error is logged.
    /// Never blocks.
    pub fn retire<'a>(
        &mut self,
        thing: T,
        uses: impl IntoIterator<Item = &'a Stream>,
        events: &EventPool,
    ) {
        let recorded: Result<Vec<_>> = uses
            .into_iter()
            .map(|stream| Ok((StreamKey::of(stream), Arc::new(events.record(stream)?))))
            .collect();
        match recorded {
            Ok(marks) => {
                let slot = self.waiting.insert((thing, marks.len()));
                for (key, event) in marks {
                    self.marks.entry(key).or_default().push_back((event, slot));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell when freed memory is out of use: it is set aside");
                self.stranded.push(thing);
            }
        }
    }

    /// Gives every thing whose uses are over to `done`. Asks the driver once for each stream
    /// that has something waiting, and once more for each mark reached. Never blocks.
    pub fn poll(&mut self, events: &EventPool, mut done: impl FnMut(T)) {
        self.marks.retain(|_, marks| {
            while let Some((event, slot)) = marks.pop_front() {
                // A driver that cannot answer any more has not said that the use is over.
                if !event.query().unwrap_or(false) {
                    marks.push_front((event, slot));
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
            !marks.is_empty()
        });
    }

    /// The latest mark of each stream: once these are reached, [`poll`](Self::poll) gives back
    /// everything waiting now.
    #[must_use]
    pub fn pending(&self) -> Vec<Arc<Event>> {
        self.marks.values().filter_map(|marks| Some(Arc::clone(&marks.back()?.0))).collect()
    }

    /// How many things wait.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// How many things were set aside for good.
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
