//! A ring that changes its size while it is used.
#![allow(unsafe_code)]

use super::memory::{Needs, Stretch};
use super::prefetcher::Prefetcher;
use super::ring::{Ring, fixed};
use super::unit::RingUnit;
use crate::base::{Error, Result, lock};
use crate::fence::EventPool;
use crate::transfer::Urgency;

impl Prefetcher {
    /// Gives the ring `ring_bytes` in all, with the raw bytes of transforms, rounded down to whole
    /// pages; what it gives up goes back to the device at once. Gives the bytes it has then: those
    /// it had, where limit or device have no room for more. At any time while nothing that goes is
    /// leased: what lies in the part that stays remains there, but with
    /// [`stable_addresses`](super::PrefetchOptions::stable_addresses), where all are new, and on
    /// devices that do not map memory, where the ring is made anew.
    ///
    /// Blocks until the copies that are under way are done, and with them the work of dropped
    /// leases that they wait for: between passes that is only what is loaded ahead.
    ///
    /// # Errors
    /// A ring made of a buffer; too little for the largest unit or for stable addresses; a live
    /// lease of what would go; what the driver says. It has the size it had then.
    pub fn resize(&self, ring_bytes: u64) -> Result<u64> {
        let shared = &self.0;
        let ring = &mut *shared.enter();
        ring.check_whole()?;
        let mut memory = lock(&shared.memory);
        let needs = Needs::of(ring.units.iter().map(|unit| &unit.plan))?;
        let Some(resize) = memory.prepare(ring_bytes, &needs)? else {
            return Ok(memory.len_bytes());
        };
        let places = fixed(&ring.sizes(), resize.ring_bytes(), &ring.options)?;
        let kept_bytes = match places {
            None if ring.at.goes_round => ring.at.ring_bytes.min(resize.ring_bytes()),
            _ => 0,
        };
        ring.vacate(kept_bytes, &shared.events)?;
        // SAFETY: the copy streams are done, with every load, and after every use, of what lies
        // behind the bytes kept; nothing is leased there.
        let resized = unsafe { memory.resize(resize) };
        if !memory.is_sound() {
            ring.broken = Some(resized.clone().err().unwrap_or(Error::Cancelled));
            return resized.map(|()| 0);
        }
        if let Err(error) = ring.move_to(memory.stretch(&needs)) {
            ring.broken = Some(error.clone());
            return Err(error);
        }
        for urgency in [Urgency::Ahead, Urgency::Demand] {
            memory.use_on(ring.loader.stream_for(urgency))?;
        }
        let len_bytes = memory.len_bytes();
        drop(memory);
        resized?;
        ring.load_ahead(&shared.events);
        Ok(len_bytes)
    }

    /// Bytes of device memory the ring has, with the raw bytes of transforms.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        lock(&self.0.memory).len_bytes()
    }
}

impl Ring {
    /// Bytes each unit takes.
    pub(super) fn sizes(&self) -> Vec<u64> {
        self.units.iter().map(|unit| unit.plan.place_bytes()).collect()
    }

    /// Refuses to change what the driver left in an unknown state.
    pub(super) fn check_whole(&self) -> Result<()> {
        self.broken.as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Goes on in a stretch in which all that is there lies too.
    fn move_to(&mut self, at: Result<Stretch>) -> Result<()> {
        let (at, sizes) = (at?, self.sizes());
        self.fixed = fixed(&sizes, at.ring_bytes, &self.options)?;
        self.space.resize(&at, sizes.into_iter());
        self.at = at;
        Ok(())
    }

    /// Takes out all entries that reach beyond the first `kept_bytes`, and waits until the copy
    /// streams are done with what they were given.
    fn vacate(&mut self, kept_bytes: u64, events: &EventPool) -> Result<()> {
        let goes = |unit: &RingUnit| {
            let entry = unit.entry.as_ref();
            entry.is_some_and(|entry| entry.offset + entry.taken_bytes > kept_bytes)
        };
        if let Some(held) = self.units.iter().find(|unit| unit.leases() > 0 && goes(unit)) {
            return Err(Error::invalid(
                "ring size",
                kept_bytes,
                format!("'{}' is leased beyond it: drop the lease first", held.plan.name),
            ));
        }
        for unit in 0..self.units.len() {
            if goes(&self.units[unit]) {
                self.space.free(unit);
                self.retire(unit, events)?;
            }
        }
        for urgency in [Urgency::Ahead, Urgency::Demand] {
            self.loader.stream_for(urgency).synchronize()?;
        }
        Ok(())
    }
}
