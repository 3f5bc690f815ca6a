//! From phase to phase, and from plan to plan.

use super::fit::Fit;
use super::ladder::Steps;
use super::pieces::Pieces;
use super::room::Room;
use super::state::{Bound, State};
use super::streaming::Supplies;
use crate::base::{Error, Result};
use crate::plan::{Plan, Retention};

/// How often entering a phase looks again for what fits.
const TRIES: usize = 4;

impl State {
    /// Refuses what would pull weights away under a lease.
    ///
    /// # Errors
    /// A unit is leased: which.
    pub(super) fn refuse_leases(&self, what: &str) -> Result<()> {
        let leased = (0..self.pieces.units.len()).find(|&unit| self.is_leased(unit));
        leased.map_or(Ok(()), |unit| {
            let name = &self.pieces.units[unit].name;
            Err(Error::invalid("lease", name, format!("{what} needs all leases dropped")))
        })
    }

    /// Enters a phase, with `working_bytes` for the caller.
    ///
    /// # Errors
    /// Not even the least fits, with what was tried; files; the driver.
    pub(super) fn enter(
        &mut self,
        supplies: &Supplies,
        phase: usize,
        working_bytes: u64,
    ) -> Result<()> {
        (self.phase, self.passes) = (phase, 0);
        self.announced = false;
        let mut room = self.room.for_weights(working_bytes, self.live_bytes(supplies));
        for attempt in 0..TRIES {
            let Some(fit) = self.fit(room) else { break };
            if self.apply(supplies, &fit, Bound::Phase)? {
                return self.set_wraps(true);
            }
            if attempt == 0 {
                supplies.allocator.trim();
                supplies.allocator.settle()?;
                self.stats.cache_trims += 1;
                continue;
            }
            // The device has less than the limit allows: another process has the rest.
            room = self.managed_bytes();
            self.note_short(&fit);
        }
        let steps = Steps::of(
            "gave cached memory back, made the ring as small as it can be, and let residents go",
        );
        self.stats.refusals += 1;
        Err(self.out_of_memory(supplies, self.pieces.phases[phase].ring_bytes, steps))
    }

    /// Counts what a phase could not have.
    fn note_short(&mut self, fit: &Fit) {
        let there = self.space.there();
        let missing: Vec<usize> =
            (0..there.len()).filter(|&at| fit.keep[at] && !there[at]).collect();
        self.stats.residents_dropped += missing.len() as u64;
        self.stats.dropped_bytes +=
            missing.iter().map(|&at| self.pieces.pieces[at].bytes).sum::<u64>();
    }

    /// Leaves the phase.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn leave(&mut self, supplies: &Supplies) -> Result<()> {
        self.streaming = None;
        if matches!(self.retention(), Retention::OneComponent | Retention::None) {
            let there = self.space.there();
            let all: Vec<usize> = (0..there.len()).filter(|&at| there[at]).collect();
            self.give(&all)?;
        }
        supplies.allocator.settle()?;
        self.note_sizes();
        Ok(())
    }

    /// A pass ended.
    pub(super) fn end_pass(&mut self, supplies: &Supplies) {
        self.passes = self.passes.saturating_add(1);
        self.announced = false;
        self.stats.passes += 1;
        let live = self.live_bytes(supplies);
        self.room.end_pass(&supplies.allocator, live);
    }

    /// In the last pass of a phase: what the next one streams first is loaded ahead, if its ring
    /// is this one.
    pub(super) fn announce(&mut self) -> Result<()> {
        let phases = &self.pieces.phases;
        if self.announced || phases.len() < 2 || self.passes + 1 < phases[self.phase].passes {
            return Ok(());
        }
        self.announced = true;
        let next = &phases[(self.phase + 1) % phases.len()];
        let Some(streaming) = &self.streaming else { return Ok(()) };
        let fits = next.ring_bytes == phases[self.phase].ring_bytes
            && next.units.clone().all(|unit| streaming.unit(unit).is_some());
        if !fits {
            return self.set_wraps(false);
        }
        let order = streaming.order(&self.pieces, next.units.clone(), self.space.there());
        if order.is_empty() { Ok(()) } else { streaming.prefetcher.expect_pass(&order) }
    }

    fn set_wraps(&self, wraps: bool) -> Result<()> {
        if let Some(streaming) = &self.streaming {
            streaming.prefetcher.set_wraps(wraps);
        }
        Ok(())
    }

    /// Goes on by another plan. True if that changes what is where.
    ///
    /// # Errors
    /// What the driver says; a phase that cannot be entered anew.
    pub(super) fn replace(
        &mut self,
        supplies: &Supplies,
        plan: Plan,
        pieces: Pieces,
    ) -> Result<bool> {
        let same = pieces.is_like(&self.pieces);
        self.plan = plan;
        if same {
            return Ok(false);
        }
        let room = Room::new(self.room.limit_bytes, self.room.page_bytes);
        let (phase, passes, stats) = (self.phase, self.passes, self.stats);
        // The old pages first: there is no room for both.
        self.streaming = None;
        let there = self.space.there();
        let all: Vec<usize> = (0..there.len()).filter(|&at| there[at]).collect();
        self.give(&all)?;
        supplies.allocator.settle()?;
        let plan = self.plan.clone();
        *self = Self::new(supplies, plan, pieces, room)?;
        self.stats = stats;
        let working = self.pieces.phases[phase].working_bytes;
        self.enter(supplies, phase, working)?;
        self.passes = passes;
        Ok(true)
    }

    /// What is wrong with the books; nothing ever should be.
    pub(super) fn check(&self) -> Result<(), String> {
        let managed = self.managed_bytes();
        if managed > self.room.limit_bytes {
            return Err(format!("weights take {managed} of {} bytes", self.room.limit_bytes));
        }
        let there = self.space.there();
        if let Some(at) = (0..there.len()).find(|&at| there[at] != self.is_resident(at)) {
            return Err(format!("piece {at} has a place and is not there, or the other way round"));
        }
        match &self.streaming {
            Some(streaming) => streaming.prefetcher.check(),
            None => Ok(()),
        }
    }
}
