//! Growing at home: the end of a stream's home range moves up, over idle handles and new ones.

use super::Book;
use super::climb::Climb;
use super::driver::map;
use super::members::One;
use crate::base::Result;
use crate::device::PageId;
use crate::policy::expandable::{PAGE_BYTES, Range, RangeId, budget, cut, growth_bytes};
use crate::pool::heap::{HeapState, Taken};
use crate::pool::shared::Shared;

impl Climb<'_> {
    /// Moves the end of the home range up until the request fits below it: first over idle
    /// handles, then, if `fresh` and within the budget, over new ones.
    pub(super) fn extend(&mut self, fresh: bool) -> Result<Option<Taken>> {
        let (shared, number) = (self.shared, self.arena as usize);
        let bytes = self.request.block_bytes;
        let mut begun = false;
        loop {
            let book = &mut *self.book;
            let Some(home) = book.pages.arenas[number].home else {
                if !fresh {
                    return Ok(None);
                }
                book.make_home(shared, self.heap, self.arena)?;
                continue;
            };
            let mut state = self.heap.enter()?;
            state.settle_pending(shared);
            let (segment, brk) = (book.pages.ranges[home].segment, book.pages.arenas[number].brk);
            let below = brk.checked_sub(1).filter(|&last| last >= book.pages.ranges[home].start);
            let top = below.and_then(|last| state.ledger.free_at(segment, last));
            let missing = match top {
                Some((at, free_bytes)) if free_bytes >= bytes => {
                    let block = state.ledger.block_at(segment, at);
                    return Ok(Some(state.hand_out(shared, block, bytes, &self.request)));
                }
                top => (bytes - top.map_or(0, |(_, bytes)| bytes)).next_multiple_of(PAGE_BYTES),
            };
            let idle =
                book.pages.arenas[number].home_used < book.pages.arenas[number].home_handles.len();
            let budget = budget(self.share.peak).min(self.capacity_bytes());
            let book = &mut *self.book;
            if !begun {
                let used_bytes = match book.sharing.apart() {
                    [] => book.pages.used_bytes,
                    _ => self.share.held,
                };
                let over = used_bytes + missing > budget;
                if if fresh { over } else { !idle } {
                    return Ok(None);
                }
                book.paces[number].extends += 1;
                begun = true;
            }
            if idle {
                if !book.pages.take_up(&mut One(&mut state), self.arena, missing) {
                    book.take_up_next(shared, &mut state, number)?;
                }
                continue;
            }
            drop(state);
            if !fresh || !self.grow_home(home, missing, budget)? {
                return Ok(None);
            }
        }
    }

    /// Takes new handles at the end of the home range; false if there is no room for them.
    fn grow_home(&mut self, home: RangeId, missing: u64, budget: u64) -> Result<bool> {
        let (shared, capacity) = (self.shared, self.capacity_bytes());
        let Range { end, limit, .. } = self.book.pages.ranges[home];
        let reserved = self.book.pages.reserved_bytes;
        // The last page stays absent: no free block is ever a whole range.
        let room = (limit - end - PAGE_BYTES).min(capacity.saturating_sub(reserved));
        // Whose handles bytes lie in says nothing where threads took some of each other's.
        let sharing_bytes = match self.book.sharing.apart() {
            [] => reserved,
            _ => self.share.held,
        };
        if missing > room || sharing_bytes + missing > budget {
            return Ok(false);
        }
        let loading = self.loads;
        let wanted = growth_bytes(missing, sharing_bytes, budget, loading).min(room);
        let mut fresh = self.book.create(shared, &cuts(wanted, reserved, capacity, loading))?;
        if fresh.is_none() && wanted > missing {
            fresh = self.book.create(shared, &cuts(missing, reserved, capacity, loading))?;
        }
        let Some(fresh) = fresh else { return Ok(false) };
        let bytes = fresh.iter().map(|fresh| fresh.bytes).sum();
        let pages: Vec<PageId> = fresh.iter().map(|fresh| fresh.page).collect();
        if let Err(error) = map(shared, end, &pages) {
            self.book.take_back(shared, fresh, bytes);
            return Err(error);
        }
        let mut state = self.heap.enter()?;
        state.settle_pending(shared);
        let (book, arena) = (&mut *self.book, self.arena);
        let mut at = end;
        for fresh in &fresh {
            let handle = book.enter(shared, arena, at, home, fresh);
            let own = &mut book.pages.arenas[arena as usize];
            own.home_handles.push(handle);
            own.home_used += 1;
            book.claim_bytes(shared, &mut One(&mut state), arena, (at, fresh.bytes))?;
            at += fresh.bytes;
        }
        book.pages.arenas[arena as usize].brk = at;
        came(shared, book.pool, bytes, fresh.len());
        Ok(true)
    }
}

impl Book {
    /// Moves the end of a home range up over the next handle and claims what is idle of it.
    fn take_up_next(
        &mut self,
        shared: &Shared,
        state: &mut HeapState,
        number: usize,
    ) -> Result<()> {
        let arena = &self.pages.arenas[number];
        let id = arena.home_handles[arena.home_used];
        let handle = &self.pages.handles[id];
        let (home, bytes) = (handle.home, handle.bytes);
        let idle = if handle.is_kept { Vec::new() } else { handle.idle_parts() };
        for (start, end) in idle {
            // During a capture some is passed over; it is had by other ways.
            let part = (home + start, end - start);
            self.claim_bytes(shared, &mut One(state), number as u32, part)?;
        }
        let arena = &mut self.pages.arenas[number];
        arena.home_used += 1;
        arena.brk = home + bytes;
        Ok(())
    }
}

/// Counts new physical memory.
pub(super) fn came(shared: &Shared, pool: u64, bytes: u64, handles: usize) {
    shared.handles_came(pool, bytes);
    shared.count(|stats| stats.mappings += handles as u64);
    tracing::debug!(bytes, handles, pool, "took physical memory");
}

/// The sizes of the handles that make up `bytes`.
pub(super) fn cuts(bytes: u64, mut reserved: u64, capacity: u64, loading: bool) -> Vec<u64> {
    let (mut left, mut sizes) = (bytes, Vec::new());
    while left > 0 {
        let size = cut(left, reserved, capacity, loading);
        sizes.push(size);
        (left, reserved) = (left - size, reserved + size);
    }
    sizes
}
