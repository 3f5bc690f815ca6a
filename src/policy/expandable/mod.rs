//! The expandable policy: physical memory in handles of 2 MiB and more, mapped into reserved
//! address space, so that free bytes are used again wherever they lie. Free handles are mapped
//! behind one another before new ones are made.
//!
//! This is the deciding half, without a device: [`Pages`] says which address owns which bytes,
//! `run` and `place` where a request goes that no free block fits, `growth` how much more to take,
//! [`Memo`] repeats what was decided before in the same state, [`Sharing`] keeps threads at work
//! out of each other's free memory. `pool::expandable` asks the driver.
//! `docs/expandable.md` tells the whole.

mod growth;
mod memo;
mod pages;
mod place;
mod run;
mod sharing;
#[cfg(test)]
mod tests;

pub(crate) use growth::{FINE_BELOW_BYTES, budget, cut, growth_bytes};
pub(crate) use memo::{Memo, Moment, Placed, after, key_of, live_hash};
pub(crate) use pages::{Arena, HandleId, Ledgers, Pages, Range, RangeId, Site};
pub(crate) use place::{Plan, chain, cover};
pub(crate) use run::shortest_run;
pub(crate) use sharing::{Seen, Share, Sharing};

use super::contract::{Fit, Policy, Request};
use crate::base::MIB;
use crate::conf::{Conf, RoundupDivisions};
use crate::ledger::Ledger;

/// Physical memory comes in multiples of this.
pub(crate) const PAGE_BYTES: u64 = 2 * MIB;
/// All blocks are of one class: bytes of any request may serve any other.
pub(crate) const CLASS: u8 = 1;
/// What is larger is nonsense, as under the caching policy.
const SANITY_LIMIT_BYTES: u64 = 1 << 60;

/// Best fit over one stream's address ranges, split to the byte.
#[derive(Debug)]
pub struct Expandable {
    roundup: RoundupDivisions,
}

impl Expandable {
    /// The policy with the settings of `conf`.
    #[must_use]
    pub fn new(conf: &Conf) -> Self {
        Self { roundup: conf.roundup_power2_divisions.clone() }
    }
}

impl Policy for Expandable {
    #[inline]
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        if requested_bytes > SANITY_LIMIT_BYTES {
            return None;
        }
        let block_bytes = self.roundup.round(requested_bytes);
        Some(Request { requested_bytes, block_bytes, class: CLASS })
    }

    #[inline]
    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        let block = ledger.best_fit(CLASS, request.block_bytes)?;
        Some(Fit { block, take_bytes: request.block_bytes })
    }

    /// What an allocator with nothing cached would take.
    fn segment_bytes(&self, request: &Request) -> u64 {
        request.block_bytes.next_multiple_of(PAGE_BYTES)
    }

    fn take_of_segment(&self, _segment_bytes: u64, request: &Request) -> u64 {
        request.block_bytes
    }

    fn repeats(&self) -> bool {
        true
    }
}
