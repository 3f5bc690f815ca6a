//! What is loaded before anybody asks: the order's next units, nearest first, as far as depth
//! and room allow.

use super::loading::Loaded;
use super::order::Moved;
use super::ring::Ring;
use super::unit::{Hold, NEVER, RingUnit};
use crate::base::Result;
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
        if let Err(error) = self.drop_spent_half(events) {
            tracing::warn!(%error, "a unit that was half loaded cannot make room");
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
            if unit.plan.place_bytes() == 0 {
                continue;
            }
            if let Some(entry) = &mut unit.entry {
                if entry.hold == Hold::Spent {
                    entry.hold = Hold::Ahead;
                }
                if entry.rest.is_none() {
                    continue;
                }
            }
            let may_evict = |other: &RingUnit| other.yields_to(use_at);
            let loaded = match self.half {
                Some(half) if half == number => self.load_rest(number, events, may_evict),
                half => self.load(number, Urgency::Ahead, events, half.is_none(), may_evict),
            };
            match loaded {
                Ok(Loaded::Whole) => {}
                // What comes behind it follows when it is whole.
                Ok(Loaded::Half | Loaded::NoRoom) => return,
                Err(error) => {
                    // Whoever asks for the unit tries again and is told.
                    let unit = &self.units[number].plan.name;
                    tracing::warn!(%error, %unit, "loading ahead failed");
                    return;
                }
            }
        }
    }

    /// Gives up a half that nobody is known to want.
    fn drop_spent_half(&mut self, events: &EventPool) -> Result<()> {
        let is_spent = |unit: &usize| {
            let entry = self.units[*unit].entry.as_ref();
            entry.is_none_or(|entry| entry.hold == Hold::Spent)
        };
        match self.half.filter(is_spent) {
            Some(half) => self.drop_half(half, events),
            None => Ok(()),
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
