//! How a unit gets into the ring: its place, the waits for what was there, its bytes, its
//! transform, and the mark that it is there.
//!
//! Bytes are copied as room frees: the copy stream waits for each unit in the way only before the
//! first byte that lies over it. Where a lease is alive in the way nothing can be waited for yet:
//! the unit is loaded up to there, and is a **half** until the lease has come back.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::ring::Ring;
use super::unit::{Entry, Hold, RingUnit};
use crate::base::{Error, Result};
use crate::device::{DevicePtr, Event, Stream};
use crate::fence::EventPool;
use crate::transfer::{LoadInParts, Urgency};

/// What came of an attempt to load a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    /// All of it is enqueued.
    Whole,
    /// It is a half.
    Half,
    /// There is no room for it now.
    NoRoom,
}

/// Bytes of a unit that are enqueued together.
#[derive(Debug)]
struct Part {
    /// Where the unit lies.
    place: DevicePtr,
    /// From its start.
    bytes: Range<u64>,
    /// For how many of the evicted entries the copy stream waits before them, the first in the way
    /// first.
    waits: usize,
    /// Whether the transform and the mark that the unit is there come behind them.
    is_last: bool,
}

impl Ring {
    /// Loads a unit into a place where only entries that `may_evict` allows are in the way; with
    /// `halves`, also into one that is free of others only in its first part.
    pub(super) fn load(
        &mut self,
        unit: usize,
        urgency: Urgency,
        events: &EventPool,
        halves: bool,
        may_evict: impl Fn(&RingUnit) -> bool,
    ) -> Result<Loaded> {
        let units = &self.units;
        let may_evict = |other: usize| may_evict(&units[other]);
        let plan = &units[unit].plan;
        let bytes = plan.place_bytes();
        let fixed = self.fixed.as_ref().map(|places| places[unit]);
        let whole = match fixed {
            Some(at) => Some(at).filter(|&at| self.space.room(at, bytes, may_evict) == bytes),
            None => self.space.find(bytes, may_evict),
        };
        let next = || fixed.or_else(|| self.space.next_start(bytes)).filter(|_| halves);
        let place = match whole {
            Some(offset) => Some((offset, bytes)),
            None => next().map(|at| (at, plan.first_part(self.space.room(at, bytes, may_evict)))),
        };
        let Some((offset, taken)) = place.filter(|&(_, taken)| taken > 0) else {
            return Ok(Loaded::NoRoom);
        };
        self.space.take(unit, offset, (taken, bytes), &mut self.evicted);
        self.begin(unit, offset, urgency, events)?;
        self.go_on(unit, taken, events)
    }

    /// Loads the rest of a half, as far as only entries that `may_evict` allows are in the way.
    pub(super) fn load_rest(
        &mut self,
        unit: usize,
        events: &EventPool,
        may_evict: impl Fn(&RingUnit) -> bool,
    ) -> Result<Loaded> {
        let units = &self.units;
        let RingUnit { plan, entry, .. } = &units[unit];
        let Some(entry) = entry.as_ref().filter(|entry| entry.rest.is_some()) else {
            return Ok(Loaded::Whole);
        };
        let may_evict = |other: usize| other == unit || may_evict(&units[other]);
        let room = self.space.room(entry.offset, plan.place_bytes(), may_evict);
        let taken = plan.first_part(room);
        if taken <= entry.taken_bytes {
            return Ok(Loaded::Half);
        }
        self.space.grow(unit, taken, &mut self.evicted);
        self.go_on(unit, taken, events)
    }

    /// Gives a half up.
    pub(super) fn drop_half(&mut self, unit: usize, events: &EventPool) -> Result<()> {
        self.space.free(unit);
        self.retire(unit, events)
    }

    /// Makes an entry of a unit that has a place, with nothing of it enqueued yet.
    fn begin(
        &mut self,
        unit: usize,
        offset: u64,
        urgency: Urgency,
        events: &EventPool,
    ) -> Result<()> {
        self.find_home(unit);
        let RingUnit { plan, home, home_filled, entry, .. } = &mut self.units[unit];
        let rest = match self.loader.begin(&plan.load, home.as_ref(), urgency) {
            Ok(rest) => rest,
            Err(error) => {
                self.space.free(unit);
                self.retire_evicted(events)?;
                return Err(error);
            }
        };
        let status = Arc::clone(rest.status());
        let from_home = home.as_ref().is_some_and(|home| home.is_source_of(&status));
        let only_link = from_home && std::mem::replace(home_filled, true);
        tracing::debug!(unit = %plan.name, offset, bytes = plan.place_bytes(), "loading");
        *entry = Some(Entry {
            offset,
            taken_bytes: 0,
            rest: Some(rest),
            status,
            only_link,
            failed: None,
            hold: Hold::Ahead,
            urgency,
            load: 0,
        });
        self.stats.loads += 1;
        Ok(())
    }

    /// Loads a unit up to byte `taken` of its place, which it has for itself but for the entries
    /// just evicted.
    fn go_on(&mut self, unit: usize, taken: u64, events: &EventPool) -> Result<Loaded> {
        let Some(entry) = &mut self.units[unit].entry else { return Ok(Loaded::NoRoom) };
        let from = std::mem::replace(&mut entry.taken_bytes, taken);
        let (urgency, rest) = (entry.urgency, entry.rest.take());
        let Some(mut rest) = rest else { return Ok(Loaded::Whole) };
        self.half.take_if(|half| *half == unit);
        if let Err(error) = self.enqueue(unit, &mut rest, (from, taken), events) {
            self.units[unit].entry = None;
            self.space.free(unit);
            self.loader.abandon(rest);
            self.end_failed(urgency, &error);
            self.retire_evicted(events)?;
            return Err(error);
        }
        if rest.is_whole() {
            return Ok(Loaded::Whole);
        }
        if let Some(entry) = &mut self.units[unit].entry {
            entry.rest = Some(rest);
        }
        self.half = Some(unit);
        Ok(Loaded::Half)
    }

    /// Sees to it that nothing of a load that was not enqueued whole writes its place any more:
    /// the other stream knows nothing of it. Blocks, but the driver is failing.
    fn end_failed(&mut self, urgency: Urgency, error: &Error) {
        // Nothing was enqueued for a loader that was cancelled.
        let is_over = matches!(error, Error::Cancelled)
            || self.loader.stream_for(urgency).synchronize().is_ok();
        if !is_over {
            self.broken.get_or_insert_with(|| error.clone());
        }
    }

    /// Enqueues the copies of a unit's bytes in `from..to` of its place, each behind the waits
    /// for what was evicted there.
    fn enqueue(
        &mut self,
        unit: usize,
        rest: &mut LoadInParts,
        (from, to): (u64, u64),
        events: &EventPool,
    ) -> Result<()> {
        let RingUnit { plan, entry, .. } = &self.units[unit];
        let Some(offset) = entry.as_ref().map(|entry| entry.offset) else { return Ok(()) };
        let is_whole = to == plan.place_bytes();
        if plan.staging_bytes() > 0 {
            // Loads with a transform follow each other on one stream, and so do uses of the
            // staging part: the raw bytes wait for no room.
            let (raw, bytes) = (self.at.staging, plan.layout.len_bytes);
            let load = Part { place: raw, bytes: 0..bytes, waits: 0, is_last: false };
            self.enqueue_part(unit, rest, load, events)?;
            let waits = self.evicted.len();
            let change = Part { place: raw, bytes: bytes..bytes, waits, is_last: true };
            return self.enqueue_part(unit, rest, change, events);
        }
        let place = self.at.base.offset(offset);
        let mut at = from;
        while at < to {
            let next = self.evicted.iter().rposition(|gone| gone.from > at);
            let until = next.map_or(to, |next| self.evicted[next].from);
            let waits = self.evicted.len() - next.map_or(0, |next| next + 1);
            let is_last = is_whole && until == to;
            self.enqueue_part(
                unit,
                rest,
                Part { place, bytes: at..until, waits, is_last },
                events,
            )?;
            at = until;
        }
        Ok(())
    }

    fn enqueue_part(
        &mut self,
        unit: usize,
        rest: &mut LoadInParts,
        part: Part,
        events: &EventPool,
    ) -> Result<()> {
        let Some(entry) = &self.units[unit].entry else { return Ok(()) };
        let (urgency, only_link) = (entry.urgency, entry.only_link);
        // A mark that the driver refuses leaves the load untimed, and nothing else.
        let copies = self.loader.stream_for(urgency).clone();
        let marks = self.timing.as_mut().and_then(|timing| timing.enter_load(&copies).ok());
        for _ in 0..part.waits {
            let Some(gone) = self.evicted.pop() else { break };
            self.retire(gone.key, events)?;
        }
        let marks = marks.filter(|marks| marks.roomed(&copies).is_ok());
        // SAFETY: the place lies in the ring, and the staging part beside it holds the largest
        // unit that needs it; both outlive the loader's streams by recorded uses. The stream was
        // made to wait for every earlier use of these bytes (invariant 2 of the ring).
        unsafe { self.loader.go_on(rest, part.place, part.bytes.end) }?;
        let failed = if part.is_last { self.transform(unit) } else { None };
        // Before the mark that leases wait for, so that who was let through finds it reached.
        let marks = marks.filter(|marks| marks.loaded(&copies).is_ok());
        if part.is_last {
            self.units[unit].ready.record(&copies)?;
        }
        let RingUnit { plan, entry, .. } = &mut self.units[unit];
        let Some(entry) = entry else { return Ok(()) };
        entry.failed = failed;
        if let (Some(timing), Some(marks)) = (&mut self.timing, marks) {
            let share = (part.bytes.end - part.bytes.start, plan.layout.len_bytes);
            entry.load = timing.loaded(marks, rest.status(), (only_link, share), urgency);
        }
        Ok(())
    }

    /// Enqueues the transform of a unit whose bytes are enqueued. Its error is told to whoever
    /// asks for the unit.
    fn transform(&self, unit: usize) -> Option<Error> {
        let RingUnit { plan, entry, .. } = &self.units[unit];
        let transform = plan.transform.as_ref()?;
        let place = self.at.base.offset(entry.as_ref()?.offset);
        let staged = plan.staging_bytes() > 0;
        let raw = if staged { self.at.staging } else { place };
        let stream = self.loader.stream();
        // SAFETY: as for the copies, and the raw bytes were loaded on this stream just now.
        let changed = unsafe { transform.enqueue(&self.model, stream, raw, &plan.content, place) };
        changed.err()
    }

    /// Retires what lost its place.
    fn retire_evicted(&mut self, events: &EventPool) -> Result<()> {
        let mut retired = Ok(());
        while let Some(gone) = self.evicted.pop() {
            retired = retired.and(self.retire(gone.key, events));
        }
        retired
    }

    /// Takes a unit's entry out; the copy streams are made to wait for its load and its uses.
    pub(super) fn retire(&mut self, unit: usize, events: &EventPool) -> Result<()> {
        let (ahead, demand) =
            (self.loader.stream().clone(), self.loader.stream_for(Urgency::Demand).clone());
        let Some(entry) = self.units[unit].entry.take() else { return Ok(()) };
        let mut ordered = Ok(());
        if let Some(rest) = entry.rest {
            self.half.take_if(|half| *half == unit);
            self.loader.abandon(rest);
            let copies = self.loader.stream_for(entry.urgency);
            ordered = self.units[unit].ready.record(copies).or_else(|_| copies.synchronize());
        }
        let unit = &mut self.units[unit];
        if ahead != demand {
            let other = if entry.urgency == Urgency::Demand { &ahead } else { &demand };
            ordered = ordered.and_then(|()| order(&unit.ready, &[other]));
        }
        while let Some(used) = unit.uses.pop() {
            let both = if ahead == demand { &[&ahead][..] } else { &[&ahead, &demand] };
            ordered = ordered.and_then(|()| order(&used, both));
            events.give_back(used);
        }
        if let Err(error) = &ordered {
            self.broken = Some(error.clone());
        }
        ordered
    }
}

/// Makes later work of `streams` wait for `event`, by waiting here where the driver refuses.
fn order(event: &Event, streams: &[&Stream]) -> Result<()> {
    let mut streams = streams.iter();
    streams.try_for_each(|stream| stream.wait(event)).or_else(|_| event.synchronize())
}
