//! How a unit gets into the ring: its place, the waits for what was there, its bytes, its
//! transform, and the mark that it is there.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::ring::Ring;
use super::timing::LoadMarks;
use super::unit::{Entry, Hold, RingUnit};
use crate::base::{Error, Result};
use crate::device::{Event, Stream};
use crate::fence::EventPool;
use crate::transfer::{LoadStatus, Urgency};

impl Ring {
    /// Loads a unit into a place where only entries that `may_evict` allows are in the way;
    /// false if there is no such place.
    pub(super) fn load(
        &mut self,
        unit: usize,
        urgency: Urgency,
        events: &EventPool,
        may_evict: impl Fn(&RingUnit) -> bool,
    ) -> Result<bool> {
        let (units, evicted) = (&self.units, &mut self.evicted);
        let may_evict = |other: usize| may_evict(&units[other]);
        let bytes = units[unit].plan.place_bytes();
        let place = match &self.fixed {
            Some(places) => self.space.take_at(places[unit], unit, bytes, may_evict, evicted),
            None => self.space.take(unit, bytes, may_evict, evicted),
        };
        let Some(offset) = place else { return Ok(false) };
        let filled = self.fill(unit, offset, urgency, events);
        if let Err(error) = &filled {
            self.space.free(unit);
            self.end_failed(urgency, error);
        }
        filled.map(|()| true)
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

    /// Loads a unit to its place, once the copy stream has it for itself.
    fn fill(
        &mut self,
        unit: usize,
        offset: u64,
        urgency: Urgency,
        events: &EventPool,
    ) -> Result<()> {
        // A mark that the driver refuses leaves the load untimed, and nothing else: from here on
        // what was evicted has no place any more.
        let copies = self.loader.stream_for(urgency).clone();
        let marks = self.timing.as_mut().and_then(|timing| timing.enter_load(&copies).ok());
        while let Some(other) = self.evicted.pop() {
            self.retire(other, events)?;
        }
        let marks = marks.filter(|marks| marks.roomed(&copies).is_ok());
        self.find_home(unit);
        let (status, failed) = self.enqueue(unit, offset, urgency)?;
        // Before the mark that leases wait for, so that who was let through finds it reached.
        let marks = marks.filter(|marks| marks.loaded(&copies).is_ok());
        self.units[unit].ready.record(&copies)?;
        let load = self.note_load(unit, marks, &status, urgency);
        let hold = Hold::Ahead;
        self.units[unit].entry = Some(Entry { offset, status, failed, hold, urgency, load });
        self.stats.loads += 1;
        let RingUnit { plan, .. } = &self.units[unit];
        tracing::debug!(unit = %plan.name, offset, bytes = plan.place_bytes(), "loading");
        Ok(())
    }

    /// Enqueues the copies of a unit and its transform. An error of the transform alone is told
    /// to whoever asks for the unit.
    fn enqueue(
        &mut self,
        unit: usize,
        offset: u64,
        urgency: Urgency,
    ) -> Result<(Arc<LoadStatus>, Option<Error>)> {
        let RingUnit { plan, home, .. } = &self.units[unit];
        let place = self.base.offset(offset);
        // Loads with a transform follow each other on one stream, and so do uses of the staging
        // part.
        let staged = plan.staging_bytes() > 0;
        let raw = if staged { self.base.offset(self.ring_bytes) } else { place };
        // SAFETY: the place lies in the ring, and the staging part behind it holds the largest
        // unit that needs it; both outlive the loader's streams by recorded uses. The stream was
        // made to wait for every earlier use of the place (invariant 2 of the ring).
        let status = unsafe { self.loader.load(raw, &plan.load, home.as_ref(), urgency) }?;
        let Some(transform) = &plan.transform else { return Ok((status, None)) };
        let stream = self.loader.stream();
        // SAFETY: as above, and the raw bytes were loaded on this stream just now.
        let changed = unsafe { transform.enqueue(&self.model, stream, raw, &plan.content, place) };
        Ok((status, changed.err()))
    }

    /// Takes the marks of an enqueued load in; gives the load's number.
    fn note_load(
        &mut self,
        unit: usize,
        marks: Option<LoadMarks>,
        status: &Arc<LoadStatus>,
        urgency: Urgency,
    ) -> u64 {
        let unit = &mut self.units[unit];
        let from_home = unit.home.as_ref().is_some_and(|home| home.is_source_of(status));
        let only_link = from_home && std::mem::replace(&mut unit.home_filled, true);
        match (&mut self.timing, marks) {
            (Some(timing), Some(marks)) => timing.loaded(marks, status, only_link, urgency),
            _ => 0,
        }
    }

    /// Takes a unit's entry out; the copy streams are made to wait for its load and its uses.
    pub(super) fn retire(&mut self, unit: usize, events: &EventPool) -> Result<()> {
        let unit = &mut self.units[unit];
        let (ahead, demand) = (self.loader.stream(), self.loader.stream_for(Urgency::Demand));
        let other = match unit.entry.take().map(|entry| entry.urgency) {
            _ if ahead == demand => None,
            Some(Urgency::Demand) => Some(ahead),
            Some(Urgency::Ahead) => Some(demand),
            None => None,
        };
        let mut ordered = other.map_or(Ok(()), |other| order(&unit.ready, &[other]));
        while let Some(used) = unit.uses.pop() {
            let both = if ahead == demand { &[ahead][..] } else { &[ahead, demand] };
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
