//! Chains: free handles mapped behind one another, and the bound on how many views there are.

use std::sync::Arc;

use super::climb::Climb;
use super::driver::{Fresh, map};
use super::grow::{came, cuts};
use super::members::at_once_but;
use super::{Book, Doomed};
use crate::base::Result;
use crate::device::{Event, PageId};
use crate::policy::expandable::{HandleId, Placed, Plan, RangeId, chain};
use crate::pool::shared::Shared;

impl Climb<'_> {
    /// Maps free handles, and new ones where these are too few, behind one another. `None` if
    /// limit or device have no room for what is new.
    pub(super) fn chain(&mut self) -> Result<Option<Placed>> {
        let (shared, arena) = (self.shared, self.arena);
        let bytes = self.request.block_bytes;
        let (pages, apart) = (&self.book.pages, self.book.sharing.apart());
        let may_wait = !shared.captures.any();
        let plan = at_once_but(&self.heaps, apart, |all| {
            all.bring_up_to_date(shared);
            chain(pages, all, arena, bytes, may_wait)
        })?;
        let (reserved, capacity) = (pages.reserved_bytes, self.capacity_bytes());
        if reserved + plan.create_bytes > capacity {
            return Ok(None);
        }
        let sizes = cuts(plan.create_bytes, reserved, capacity, false);
        let Some(fresh) = self.book.create(shared, &sizes)? else { return Ok(None) };
        let range = match plan.range {
            Some(range) => Ok(range),
            None => {
                let mapped_bytes = plan.mapped_bytes(&self.book.pages);
                self.book.make_run(shared, self.heap, arena, mapped_bytes.max(bytes))
            }
        };
        let mapped = range.and_then(|range| {
            let mapped = self.book.map_chain(shared, &plan, range, &fresh);
            if mapped.is_err() && plan.range.is_none() {
                self.book.unmake_run(&mut *self.heap.enter()?, range);
            }
            mapped.map(|()| range)
        });
        let range = match mapped {
            Ok(range) => range,
            Err(error) => {
                self.book.take_back(shared, fresh, plan.create_bytes);
                return Err(error);
            }
        };
        Ok(Some(self.enter_chain(&plan, range, &fresh)?))
    }

    /// Notes what [`Book::map_chain`] mapped; gives where the request goes.
    fn enter_chain(&mut self, plan: &Plan, range: RangeId, fresh: &[Fresh]) -> Result<Placed> {
        let (shared, arena) = (self.shared, self.arena);
        let book = &mut *self.book;
        let start = book.pages.ranges[range].end;
        let bytes = self.request.block_bytes;
        let address = start - plan.prefix_bytes + plan.skip_bytes;
        let mut at = start;
        for &handle in &plan.maps {
            at = book.enter_view(shared, arena, at, range, handle);
        }
        for fresh in fresh {
            book.enter(shared, arena, at, range, fresh);
            at += fresh.bytes;
        }
        let mut claims = vec![(address, bytes)];
        if plan.create_bytes > 0 {
            came(shared, book.pool, plan.create_bytes, fresh.len());
            if at > address + bytes {
                // All of what is new, so that its rest is of use.
                claims.push((address + bytes, at - address - bytes));
            }
        }
        if let Some(handle) = plan.last {
            book.enter_view(shared, arena, at, range, handle);
        }
        Ok(Placed::new(&book.pages, claims, address))
    }

    /// Where there are too many views, drops the oldest that own nothing.
    pub(super) fn drop_views(&mut self) {
        let (shared, book) = (self.shared, &mut *self.book);
        if book.pages.views.len() <= book.most_views || shared.captures.any() {
            return;
        }
        // What each stream was given by now: one event serves all its views.
        let mut marks: Vec<(u32, Arc<Event>)> = Vec::new();
        for _ in 0..book.by_age.len() {
            if book.pages.views.len() <= book.most_views / 8 * 7 {
                break;
            }
            let Some(address) = book.by_age.pop_front() else { break };
            let Some(&view) = book.pages.views.get(&address) else { continue };
            let handle = &book.pages.handles[view.handle];
            let arena = &book.pages.arenas[book.pages.ranges[view.range].arena as usize];
            let marked = if handle.owns_any(address) || handle.home == address {
                None
            } else {
                book.mark(shared, arena.stream, &mut marks)
            };
            let Some(after) = marked else {
                book.by_age.push_back(address);
                continue;
            };
            let doomed = Doomed { address, bytes: handle.bytes, after };
            book.note_unmapped(shared, view.handle, address);
            book.doomed.push(doomed);
        }
        book.spare_ranges();
    }
}

impl Book {
    /// An event behind all that a stream was given by now; recorded once.
    fn mark(
        &self,
        shared: &Shared,
        stream: u32,
        marks: &mut Vec<(u32, Arc<Event>)>,
    ) -> Option<Arc<Event>> {
        if let Some((_, known)) = marks.iter().find(|&&(of, _)| of == stream) {
            return Some(Arc::clone(known));
        }
        let of = self.streams.get(stream as usize).and_then(Option::as_ref)?;
        let event = Arc::new(shared.events.record(of).ok()?);
        marks.push((stream, Arc::clone(&event)));
        Some(event)
    }

    /// Maps what a plan says at the end of a range. A failure leaves nothing mapped.
    fn map_chain(
        &mut self,
        shared: &Shared,
        plan: &Plan,
        range: RangeId,
        fresh: &[Fresh],
    ) -> Result<()> {
        let named = |id: &HandleId| self.physical.get(id).copied();
        let mut pages: Vec<PageId> = plan.maps.iter().filter_map(named).collect();
        pages.extend(fresh.iter().map(|fresh| fresh.page));
        pages.extend(plan.last.iter().filter_map(named));
        map(shared, self.pages.ranges[range].end, &pages)
    }

    /// Enters another view of a handle; gives the address behind it.
    pub(super) fn enter_view(
        &mut self,
        shared: &Shared,
        arena: u32,
        at: u64,
        range: RangeId,
        handle: HandleId,
    ) -> u64 {
        let bytes = self.pages.handles[handle].bytes;
        self.pages.map(at, handle, range);
        shared.enter_addresses(at, bytes, self.members[arena as usize].number);
        shared.count(|stats| {
            stats.mappings += 1;
            stats.remapped_bytes += bytes;
        });
        self.by_age.push_back(at);
        self.note_mapped(shared, arena, at, bytes);
        at + bytes
    }
}
