//! Other units in the same ring: what stays on the device changes while a model runs.

use std::sync::Arc;

use super::memory::Needs;
use super::order::Order;
use super::prefetcher::{Prefetcher, Shared};
use super::ring::{Ring, fixed};
use super::timing::Timing;
use super::transform::Transform;
use super::unit::{Hold, RingUnit, UnitPlan};
use crate::base::{Error, Result, lock};
use crate::transfer::Urgency;
use crate::weights::Unit;

/// A unit of the new ones.
enum Next {
    /// One there was, by its number.
    Kept(usize),
    New(Box<RingUnit>),
}

impl Prefetcher {
    /// Streams other `units` of the model from now on, in this order. A unit of the name and the
    /// tensors that one had before keeps its home in pinned memory and its place in the ring; of
    /// the others nothing stays. Between passes, with no lease alive. Never blocks.
    ///
    /// # Errors
    /// A live lease; a ring too small for the largest unit, or for stable addresses; no units; what
    /// the driver says. The units are those there were then, but where the driver fails half-way:
    /// all leases are refused from there on.
    pub fn reconfigure(&self, units: &[Unit]) -> Result<()> {
        let shared = &self.0;
        let ring = &mut *shared.enter();
        ring.check_whole()?;
        if let Some(held) = ring.units.iter().find(|unit| unit.leases() > 0) {
            let reason = "no lease may be alive: drop it first";
            return Err(Error::invalid("leased unit", &held.plan.name, reason));
        }
        let next = ring.next_units(shared, units)?;
        let plans = || {
            next.iter().map(|next| match next {
                Next::Kept(number) => &ring.units[*number].plan,
                Next::New(unit) => &unit.plan,
            })
        };
        let needs = Needs::of(plans())?;
        let sizes: Vec<u64> = plans().map(UnitPlan::place_bytes).collect();
        let copies = plans().map(|plan| plan.load.copies()).sum();
        let mut memory = lock(&shared.memory);
        let staging = memory.prepare_staging(&needs)?;
        let at = memory.stretch_with(&needs, staging.as_ref())?;
        let places = fixed(&sizes, at.ring_bytes, &ring.options)?;
        let timing = match &ring.timing {
            Some(_) => Some(Timing::new(&shared.device, next.len())?),
            None => None,
        };
        shared.reserve(&mut ring.loader, next.len(), copies)?;
        memory.set_staging(staging);
        if ring.at.goes_round {
            ring.at = at; // Where it does not, the places are others too: once they are empty.
        }
        for urgency in [Urgency::Ahead, Urgency::Demand] {
            memory.use_on(ring.loader.stream_for(urgency))?;
        }
        drop(memory);
        // In a ring that does not go round, places are laid by the largest unit.
        let is_alike = ring.at.goes_round && ring.at.base == at.base;
        for number in 0..ring.units.len() {
            let kept = next.iter().position(|next| matches!(next, Next::Kept(of) if *of == number));
            let offset = ring.units[number].entry.as_ref().map(|entry| entry.offset);
            let stays = |new: usize| {
                is_alike && places.as_ref().is_none_or(|places| Some(places[new]) == offset)
            };
            if offset.is_some() && !kept.is_some_and(stays) {
                ring.space.free(number);
                ring.retire(number, &shared.events)?;
            }
        }
        (ring.at, ring.fixed, ring.timing) = (at, places, timing);
        ring.change_units(next);
        ring.space.resize(&at, sizes.into_iter());
        ring.look_ahead_anew();
        ring.load_ahead(&shared.events);
        Ok(())
    }
}

impl Ring {
    /// The units that are to come.
    fn next_units(&self, shared: &Shared, units: &[Unit]) -> Result<Vec<Next>> {
        let mut taken = vec![false; self.units.len()];
        let transform: Option<&Arc<dyn Transform>> = shared.transform.as_ref();
        let next = units.iter().map(|unit| {
            let is_same = |at: &usize| !taken[*at] && self.units[*at].plan.is_of(unit);
            if let Some(number) = (0..self.units.len()).find(is_same) {
                taken[number] = true;
                return Ok(Next::Kept(number));
            }
            let plan = UnitPlan::new(&self.model, unit, transform, &self.loader)?;
            Ok(Next::New(Box::new(RingUnit::new(plan, &shared.device)?)))
        });
        next.collect()
    }

    /// Puts other units in the place of those there are; entries are of units that stay.
    fn change_units(&mut self, next: Vec<Next>) {
        let count = next.len();
        let mut old: Vec<Option<RingUnit>> = self.units.drain(..).map(Some).collect();
        let mut number_of = vec![None; old.len()];
        for (number, next) in next.into_iter().enumerate() {
            let mut unit = match next {
                Next::New(unit) => *unit,
                Next::Kept(of) => {
                    number_of[of] = Some(number);
                    let Some(unit) = old[of].take() else { continue };
                    unit
                }
            };
            if let Some(entry) = &mut unit.entry {
                // The marks of its load are gone. What follows may make room for it.
                (entry.load, entry.hold) = (0, Hold::Spent);
            }
            self.units.push(unit);
        }
        for (of, status) in std::mem::take(&mut self.unsure) {
            match number_of.get(of).copied().flatten() {
                Some(number) => self.unsure.push((number, status)),
                None => self.tell_later(old.get(of).and_then(Option::as_ref), status),
            }
        }
        for mut unit in old.into_iter().flatten() {
            if let Some(status) = unit.leased.take() {
                self.tell_later(Some(&unit), status);
            }
        }
        self.space.rename(|of| number_of.get(of).copied().flatten());
        self.half = self.half.and_then(|half| number_of.get(half).copied().flatten());
        let wraps = self.order.wraps;
        self.order = Order::new(count);
        self.order.wraps = wraps;
        self.unsure.reserve(count);
        self.returning.reserve(count);
        self.evicted.reserve(count);
    }
}
