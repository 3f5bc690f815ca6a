//! Taking free bytes, whoever owns them.

use super::Book;
use super::members::All;
use crate::base::Result;
use crate::ledger::SplitChange;
use crate::policy::Request;
use crate::policy::expandable::{Ledgers, Placed, Site};
use crate::pool::heap::Taken;
use crate::pool::shared::Shared;

impl Book {
    /// As [`claim`](Self::claim), for bytes (first and how many) that may not all be mapped.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn claim_bytes(
        &mut self,
        shared: &Shared,
        all: &mut dyn Ledgers,
        arena: u32,
        bytes: (u64, u64),
    ) -> Result<bool> {
        let Some(site) = self.pages.site(bytes) else { return Ok(false) };
        self.claim(shared, all, arena, &site)
    }

    /// Gives a site, which lies in a range of the arena, to that arena, if all of it is free,
    /// whoever owns it; false and nothing changed if not. Streams that used it are waited for
    /// first, on the device: one record and one wait for each. During a capture nothing may be
    /// recorded, so only bytes that take no wait are given.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn claim(
        &mut self,
        shared: &Shared,
        all: &mut dyn Ledgers,
        arena: u32,
        site: &Site,
    ) -> Result<bool> {
        let taker = self.pages.arenas[arena as usize].stream;
        let Some(parcel) = self.pages.parcel(all, site, taker) else { return Ok(false) };
        if !parcel.users.is_empty() && shared.captures.any() {
            return Ok(false);
        }
        self.order(shared, &parcel.users, taker)?;
        self.pages.claim(all, &parcel);
        Ok(true)
    }

    /// Claims a place and hands the request out there; `None` if not all of it is free.
    pub(super) fn take(
        &mut self,
        shared: &Shared,
        all: &mut All<'_>,
        arena: u32,
        request: &Request,
        placed: &Placed,
    ) -> Result<Option<Taken>> {
        let found;
        let sites = match placed.sites(&self.pages) {
            Some(sites) => sites,
            None => {
                let sites = placed.claims.iter().map(|&bytes| self.pages.site(bytes));
                let Some(sites) = sites.collect::<Option<Vec<Site>>>() else { return Ok(None) };
                found = sites;
                &found
            }
        };
        // All or none of them; one alone is looked at when it is claimed.
        let taker = self.pages.arenas[arena as usize].stream;
        if sites.len() > 1
            && !sites.iter().all(|site| self.pages.parcel(all, site, taker).is_some())
        {
            return Ok(None);
        }
        for site in sites {
            if !self.claim(shared, all, arena, site)? {
                return Ok(None);
            }
        }
        let Some((_, view)) = self.pages.views.range(..=placed.address).next_back() else {
            return Ok(None);
        };
        let segment = self.pages.ranges[view.range].segment;
        let free = all.of(arena).free_at(segment, placed.address);
        let end = placed.address + request.block_bytes;
        if free.is_none_or(|(at, bytes)| at + bytes < end) {
            return Ok(None);
        }
        let (block, split) = all.of(arena).part_at(segment, placed.address);
        all.changed(arena, split);
        let state = all.state(arena);
        let taken = state.hand_out(shared, block, request.block_bytes, request);
        if split != SplitChange::default() {
            // Giving it back undoes the cut too: that is no mere opposite of taking it.
            state.forget_last();
        }
        Ok(Some(taken))
    }

    /// Makes `taker` wait, on the device, for everything the streams of these numbers were given.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn order(&mut self, shared: &Shared, users: &[u32], taker: u32) -> Result<()> {
        for &user in users {
            let stream = |number: u32| self.streams.get(number as usize).and_then(Option::as_ref);
            if let (Some(before), Some(after)) = (stream(user), stream(taker)) {
                shared.events.order(before, after)?;
                shared.cross_stream_waits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            self.pages.note_order(user, taker);
        }
        Ok(())
    }
}
