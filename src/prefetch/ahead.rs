//! What is loaded before anybody asks: the order's next units, nearest first, as far as depth
//! and room allow.

use super::order::Moved;
use super::ring::Ring;
use super::unit::{Hold, NEVER};
use crate::fence::EventPool;
use crate::transfer::Urgency;

impl Ring {
    /// Moves on in the order to `unit`.
    pub(super) fn advance(&mut self, unit: usize) {
        match self.order.advance(unit) {
            Moved::Not => {}
            Moved::ToNext => self.step += 1,
            Moved::Elsewhere => {
                self.step += 1;
                self.stats.out_of_order += 1;
                self.look_ahead_anew();
            }
        }
    }

    /// Finds out when each unit is used next, after the order was not kept or was changed. What
    /// was loaded ahead and is not used within the depth makes room like what was used.
    pub(super) fn look_ahead_anew(&mut self) {
        for unit in &mut self.units {
            unit.next_use = NEVER;
        }
        for steps in (1..=self.horizon()).rev() {
            if let Some(unit) = self.order.upcoming(steps) {
                self.units[unit].next_use = self.step + steps as u64;
            }
        }
        for unit in self.units.iter_mut().filter(|unit| unit.next_use == NEVER) {
            if let Some(entry) = unit.entry.as_mut().filter(|entry| entry.hold == Hold::Ahead) {
                entry.hold = Hold::Spent;
            }
        }
    }

    /// How many steps are looked ahead.
    fn horizon(&self) -> usize {
        self.options.depth.min(self.order.len())
    }

    /// Loads what comes next, as far as depth and room allow.
    pub(super) fn load_ahead(&mut self, events: &EventPool) {
        if self.broken.is_some() {
            return;
        }
        for steps in 1..=self.horizon() {
            let Some(number) = self.order.upcoming(steps) else { return };
            let use_at = self.step + steps as u64;
            let unit = &mut self.units[number];
            // A unit that is used twice is wanted for the first time.
            if unit.next_use <= self.step || unit.next_use > use_at {
                unit.next_use = use_at;
            }
            if let Some(entry) = &mut unit.entry {
                if entry.hold == Hold::Spent {
                    entry.hold = Hold::Ahead;
                }
                continue;
            }
            match self.load(number, Urgency::Ahead, events, |other| other.yields_to(use_at)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // Whoever asks for the unit tries again and is told.
                    let unit = &self.units[number].plan.name;
                    tracing::warn!(%error, %unit, "loading ahead failed");
                    return;
                }
            }
        }
    }

    /// The pass is over: what follows is the start of the next one, if one follows.
    pub(super) fn end_pass(&mut self, events: &EventPool) {
        if self.order.end_pass() {
            self.look_ahead_anew();
            self.load_ahead(events);
        }
    }
}
