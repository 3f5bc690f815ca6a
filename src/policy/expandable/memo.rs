//! What was decided before. The same requests since beginning anew, or the same blocks live and
//! the same request: the same place, if its bytes are free. Programs that repeat themselves find
//! all their places here, and what is found needs no driver call.

use std::collections::HashMap;
use std::sync::Arc;

use super::pages::{Pages, Site};
use crate::ledger::{Ledger, State};

/// Decisions kept; when there are more, all are forgotten and the next round learns them anew.
const MOST: usize = 1 << 14;
/// Parts of views named in them: 10 MiB.
const MOST_PARTS: usize = 1 << 18;

/// Where a request went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// First byte and size of what was claimed for it.
    pub(crate) claims: Vec<(u64, u64)>,
    /// Where that lies.
    sites: Vec<Site>,
    /// Its first byte.
    pub(crate) address: u64,
}

impl Placed {
    /// A place that is mapped; all of `claims` is to be claimed for it.
    pub(crate) fn new(pages: &Pages, claims: Vec<(u64, u64)>, address: u64) -> Self {
        let sites = claims.iter().filter_map(|&bytes| pages.site(bytes)).collect();
        Self { claims, sites, address }
    }

    /// Where its claims lie, if that is still so.
    pub(crate) fn sites(&self, pages: &Pages) -> Option<&[Site]> {
        let current = self.sites.len() == self.claims.len()
            && self.sites.iter().all(|site| pages.is_current(site));
        current.then_some(&self.sites)
    }
}

/// Places by a name of the moment they were chosen at: [`after`] the misses before it, which is
/// cheap and enough for a program that begins anew, and by [`key_of`] the state.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    by_misses: HashMap<u64, Arc<Placed>>,
    by_state: HashMap<u64, Arc<Placed>>,
    /// Parts in what was inserted since all was forgotten.
    parts: usize,
}

/// A moment's two names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    pub(crate) misses: u64,
    pub(crate) state: u64,
}

impl Memo {
    pub(crate) fn by_misses(&self, misses: u64) -> Option<&Arc<Placed>> {
        self.by_misses.get(&misses)
    }

    pub(crate) fn by_state(&self, state: u64) -> Option<&Arc<Placed>> {
        self.by_state.get(&state)
    }

    pub(crate) fn insert(&mut self, at: Moment, placed: Arc<Placed>) {
        let parts: usize = placed.sites.iter().map(Site::part_count).sum();
        if self.by_state.len().max(self.by_misses.len()) >= MOST || self.parts + parts > MOST_PARTS
        {
            self.clear();
        }
        self.parts += parts;
        self.by_misses.insert(at.misses, Arc::clone(&placed));
        self.by_state.insert(at.state, placed);
    }

    pub(crate) fn clear(&mut self) {
        self.by_misses.clear();
        self.by_state.clear();
        self.parts = 0;
    }
}

/// The name of a miss of `bytes` after those named by `before`, of the same arena.
pub(crate) fn after(before: u64, arena: u32, bytes: u64) -> u64 {
    mix(mix(before, u64::from(arena)), bytes)
}

/// A number for the set of blocks a ledger has in use, whatever their order.
pub(crate) fn live_hash(ledger: &Ledger) -> u64 {
    let live = ledger.blocks().filter(|block| block.state == State::Active);
    live.fold(0, |sum: u64, block| sum.wrapping_add(mix(block.address, block.bytes)))
}

/// The key of a request for `bytes` by `arena` where [`live_hash`] sums up to `live`.
pub(crate) fn key_of(live: u64, arena: u32, bytes: u64) -> u64 {
    mix(live ^ u64::from(arena), bytes)
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}
