//! Which units are kept in pinned memory: all, in the order they are used, as far as the pinned
//! budget goes.

use super::ring::Ring;

impl Ring {
    /// Asks for the homes of all units once, after the first load was enqueued: pinning must not
    /// hold it up. First those of units that are not loaded yet, which then are read once; the
    /// others were read through the window and are wanted in the next pass.
    pub(super) fn ask_for_homes(&mut self) {
        if !self.options.keep_in_ram || self.asks_for_homes {
            return;
        }
        self.asks_for_homes = true;
        for is_there in [false, true] {
            for steps in 1..=self.order.len() {
                let Some(unit) = self.order.upcoming(steps) else { break };
                if self.units[unit].entry.is_some() == is_there {
                    self.find_home(unit);
                }
            }
        }
    }

    /// Asks for a home for a unit, if it is to have one and has none.
    pub(super) fn find_home(&mut self, unit: usize) {
        if !self.options.keep_in_ram {
            return;
        }
        let unit = &mut self.units[unit];
        if !self.asks_for_homes {
            // A cache may have it.
            unit.home = unit.home.take().or_else(|| self.loader.cached_home(&unit.plan.load));
            return;
        }
        // A home that could not be read is of no use: it would fail every later load too.
        unit.home.take_if(|home| home.status().check().is_err());
        if unit.home.is_none() {
            unit.home_filled = false;
            unit.home = Some(self.loader.home(&unit.plan.load));
        }
    }
}
