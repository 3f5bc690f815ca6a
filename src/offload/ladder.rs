//! Down and up: memory is given back when it is short, rung by rung, and taken again between
//! passes when there is room.

use super::fit::Fit;
use super::state::{Bound, State};
use super::streaming::Supplies;
use crate::base::{Error, OutOfMemory, Result, format_bytes};
use crate::pool::Shortage;

/// What was done for a request.
#[derive(Debug, Default)]
pub(super) struct Steps(Vec<String>);

impl Steps {
    pub(super) fn of(step: &str) -> Self {
        Self(vec![step.into()])
    }

    pub(super) fn text(&self) -> String {
        format!("the weights' ladder: {}", self.0.join(", "))
    }
}

impl State {
    /// Memory in use that is neither residents nor ring: what the caller has, not what is cached.
    pub(super) fn live_bytes(&self, supplies: &Supplies) -> u64 {
        let allocated = supplies.allocator.stats().allocated_bytes.all.current;
        let own = if super::space::is_paged(&supplies.allocator) {
            self.ring_reserved_bytes()
        } else {
            self.managed_bytes()
        };
        allocated.saturating_sub(own)
    }

    /// What limit and device still give.
    fn free_bytes(&self, supplies: &Supplies) -> u64 {
        let held = supplies.allocator.stats().reserved_bytes.all.current;
        let within = self.room.limit_bytes.saturating_sub(held);
        let device = supplies.allocator.device().memory();
        within.min(device.map_or(u64::MAX, |memory| memory.free_bytes))
    }

    /// Sees to it that limit and device still give `bytes`; false, and then as little as can be
    /// was given up for it, if even the last rung does not do. Blocks for what has to leave.
    pub(super) fn make_room(
        &mut self,
        supplies: &Supplies,
        bytes: u64,
        steps: &mut Steps,
    ) -> Result<bool> {
        if self.free_bytes(supplies) >= bytes {
            return Ok(true);
        }
        let trimmed = supplies.allocator.trim();
        supplies.allocator.settle()?;
        steps.0.push(format!("gave {} of cache back", format_bytes(trimmed)));
        self.stats.cache_trims += u64::from(trimmed > 0);
        let free = self.free_bytes(supplies);
        let Some(missing) = bytes.checked_sub(free).filter(|&missing| missing > 0) else {
            return Ok(true);
        };
        let managed = self.managed_bytes();
        let fitting = managed.checked_sub(missing).and_then(|room| self.fit(room));
        let Some(fit) = fitting else {
            self.stats.refusals += 1;
            steps.0.push(format!(
                "weights keep {}, of which {} cannot be given up now{}",
                format_bytes(managed),
                format_bytes(missing),
                if self.is_in_use() { " while units are leased" } else { "" }
            ));
            return Ok(false);
        };
        self.step_down(supplies, &fit, steps)?;
        Ok(self.free_bytes(supplies) >= bytes)
    }

    fn step_down(&mut self, supplies: &Supplies, fit: &Fit, steps: &mut Steps) -> Result<()> {
        let before = (self.ring_reserved_bytes(), self.stats);
        self.apply(supplies, fit, Bound::Down)?;
        supplies.allocator.settle()?;
        let dropped = self.stats.residents_dropped - before.1.residents_dropped;
        if self.ring_reserved_bytes() < before.0 {
            let (from, to) = (format_bytes(before.0), format_bytes(self.ring_reserved_bytes()));
            steps.0.push(format!("made the ring smaller, {from} to {to}"));
        }
        if dropped > 0 {
            let bytes = format_bytes(self.stats.dropped_bytes - before.1.dropped_bytes);
            steps.0.push(format!("let {dropped} resident piece(s) of {bytes} go"));
        }
        tracing::info!(steps = %steps.text(), "memory is short");
        Ok(())
    }

    /// A request of the allocator found no memory: gives up what it takes. True if that was
    /// enough.
    pub(super) fn relieve(&mut self, supplies: &Supplies, shortage: &Shortage) -> bool {
        let mut steps = Steps::default();
        let wanted = self.live_bytes(supplies).saturating_add(shortage.segment_bytes);
        let made = self.make_room(supplies, shortage.segment_bytes, &mut steps);
        if let Err(error) = &made {
            steps.0.push(format!("and then {error}"));
        }
        supplies.allocator.explain_failure(steps.text());
        let made = made.unwrap_or(false);
        if made {
            self.room.short(wanted);
        }
        made
    }

    /// Takes back what was given up, as far as there is room now. For the time between passes.
    pub(super) fn climb(&mut self, supplies: &Supplies, working_bytes: u64) -> Result<()> {
        let live = self.live_bytes(supplies);
        let managed = self.managed_bytes();
        let device = supplies.allocator.device().memory()?.free_bytes;
        let room = self.room.for_weights(working_bytes, live).min(managed.saturating_add(device));
        let Some(mut fit) = self.fit(room) else { return Ok(()) };
        let (there, ring) = (self.space.there(), self.ring_reserved_bytes());
        let is_own = |at: usize| self.pieces.pieces[at].stays[self.phase];
        let gains = (0..there.len()).any(|at| fit.keep[at] && !there[at] && is_own(at));
        let loses = (0..there.len()).any(|at| !fit.keep[at] && there[at] && is_own(at));
        let wanted = self.pieces.phases[self.phase].ring_bytes;
        let grows = fit.ring_bytes > ring
            && (fit.ring_bytes >= wanted || fit.ring_bytes - ring >= ring / 8);
        // Up alone: what is there and does not fit waits until somebody wants its room.
        if loses || !(gains || grows) {
            return Ok(());
        }
        if fit.ring_bytes > ring && !grows {
            fit.ring_bytes = ring;
        }
        let grown = room.min(self.room.limit_bytes).saturating_sub(managed);
        if self.free_bytes(supplies) < grown {
            supplies.allocator.trim();
            supplies.allocator.settle()?;
        }
        if !self.apply(supplies, &fit, Bound::Up)? {
            tracing::debug!("there was less room to come back to than thought");
        }
        Ok(())
    }

    /// Loads a little of what the next phases' components keep, if there is room.
    pub(super) fn load_ahead(&mut self, supplies: &Supplies, working_bytes: u64) -> Result<()> {
        let live = self.live_bytes(supplies);
        let room = self.room.for_weights(working_bytes, live);
        let Some(fit) = self.fit(room) else { return Ok(()) };
        let there = self.space.there();
        let is_own = |at: usize| self.pieces.pieces[at].stays[self.phase];
        if (0..there.len()).any(|at| is_own(at) && there[at] != fit.keep[at]) {
            return Ok(());
        }
        let gone: Vec<usize> = (0..there.len()).filter(|&at| there[at] && !fit.keep[at]).collect();
        let mut comes: Vec<usize> =
            (0..there.len()).filter(|&at| fit.keep[at] && !there[at]).collect();
        if comes.is_empty() {
            return Ok(());
        }
        self.give(&gone)?;
        let next_use = |at: usize| self.pieces.next_use(self.pieces.pieces[at].unit, self.phase);
        comes.sort_by_key(|&at| next_use(at));
        let phase = &self.plan.phases[self.phase];
        let idle = phase.seconds_per_pass * self.plan.rates.link_bytes_per_second;
        let mut bytes = (idle as u64).saturating_sub(phase.plan.streamed_bytes);
        for at in comes {
            let piece = self.pieces.pieces[at].bytes;
            if !self.bring(supplies, at)? {
                break;
            }
            self.stats.loaded_ahead += 1;
            match bytes.checked_sub(piece) {
                Some(left) => bytes = left,
                None => break,
            }
        }
        self.note_sizes();
        Ok(())
    }

    /// The error for what cannot be met.
    pub(super) fn out_of_memory(&self, supplies: &Supplies, bytes: u64, steps: Steps) -> Error {
        let stats = supplies.allocator.stats();
        let device = supplies.allocator.device();
        Error::OutOfMemory(Box::new(OutOfMemory {
            device: device.info().name.clone(),
            requested_bytes: bytes,
            segment_bytes: bytes,
            limit_bytes: Some(self.room.limit_bytes),
            reserved_bytes: stats.reserved_bytes.all.current,
            active_bytes: self.live_bytes(supplies).saturating_add(self.managed_bytes()),
            retired_bytes: stats.retired_bytes,
            device_free_bytes: device.memory().map_or(0, |memory| memory.free_bytes),
            tried: steps.0,
            ..OutOfMemory::default()
        }))
    }
}
