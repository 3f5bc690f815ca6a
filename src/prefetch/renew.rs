//! Weights that are on the device as they should no longer be: out of the ring with them, and the
//! loader for those beside it.

use super::prefetcher::Prefetcher;
use crate::base::Result;
use crate::transfer::Loader;

impl Prefetcher {
    /// Takes the units `which` names out of the ring, so that their next use loads them again: for
    /// a transform that does something else from now on. `which` is given the number of each unit
    /// in the ring. Gives how many were taken out, and how many it named that are leased, which
    /// stay as they are until their leases are gone and they are forgotten again. What comes next
    /// in the order is loaded ahead anew. Never blocks.
    ///
    /// # Errors
    /// What the driver says.
    pub fn forget(&self, which: impl Fn(usize) -> bool) -> Result<Forgotten> {
        let mut ring = self.0.enter();
        let mut forgotten = Forgotten::default();
        for unit in 0..ring.units.len() {
            if ring.units[unit].entry.is_none() || !which(unit) {
                continue;
            }
            if ring.units[unit].leases() > 0 {
                forgotten.leased += 1;
                continue;
            }
            ring.space.free(unit);
            ring.retire(unit, &self.0.events)?;
            forgotten.units += 1;
        }
        ring.look_ahead_anew();
        ring.load_ahead(&self.0.events);
        Ok(forgotten)
    }

    /// Enqueues loads to places beside the ring, between those of units. `enqueue` is called under
    /// the ring's lock: it must not block.
    pub(crate) fn with_loader<R>(&self, enqueue: impl FnOnce(&mut Loader) -> R) -> R {
        enqueue(&mut self.0.enter().loader)
    }
}

/// What [`Prefetcher::forget`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// Units that are loaded again when they are next used.
    pub units: usize,
    /// Units that are leased, and stay.
    pub leased: usize,
}
