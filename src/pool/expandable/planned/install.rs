//! A plan comes into force: its handles, a range of each stream over them, and back to the driver
//! with what is free beside.

use std::collections::HashSet;
use std::sync::Arc;

use super::InForce;
use crate::base::Result;
use crate::device::{DevicePtr, PageId};
use crate::ledger::{NewSegment, PLACES};
use crate::policy::Planned;
use crate::policy::expandable::{CLASS, HandleId, PAGE_BYTES, Range, RangeId, cover};
use crate::policy::planned::{Cursor, Following, Table};
use crate::pool::expandable::address::Area;
use crate::pool::expandable::driver::{Fresh, map};
use crate::pool::expandable::grow::{came, cuts};
use crate::pool::expandable::members::at_once;
use crate::pool::expandable::{Book, Doomed};
use crate::pool::heap::Heap;
use crate::pool::shared::Shared;

impl Book {
    /// Brings a plan into force in place of the one before. False, and none is in force, if limit
    /// or device have no room for it.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn install(
        &mut self,
        shared: &Shared,
        heaps: &[Arc<Heap>],
        table: &Arc<Table>,
    ) -> Result<bool> {
        self.abandon(shared, heaps)?;
        let bytes = table.height_bytes.next_multiple_of(PAGE_BYTES);
        let pages = &self.pages;
        let (mut handles, create_bytes) = at_once(heaps, |all| cover(pages, all, bytes))?;
        let reserved = self.pages.reserved_bytes;
        let capacity = shared.most_bytes() / PAGE_BYTES * PAGE_BYTES;
        let sizes = cuts(create_bytes, reserved, capacity, false);
        let room = reserved + create_bytes <= capacity;
        let fresh = if room { self.create(shared, &sizes)? } else { None };
        let Some(fresh) = fresh else {
            tracing::debug!(bytes, "no room for a plan");
            return Ok(false);
        };
        let outcome = self.map_plan(shared, heaps, table, &mut handles, fresh);
        let ranges = match outcome {
            Ok(ranges) => ranges,
            Err(error) => {
                self.abandon(shared, heaps)?;
                return Err(error);
            }
        };
        let handles: HashSet<HandleId> = handles.into_iter().collect();
        self.planner.force = Some(InForce { table: Arc::clone(table), ranges, handles });
        self.gather(shared, heaps)?;
        self.follow(heaps, table)?;
        self.release_beside(shared, heaps)?;
        tracing::debug!(bytes, created = create_bytes, "a plan is in force");
        Ok(true)
    }

    /// Maps the handles of a plan in a range of every stream that has places in it. What is new is
    /// entered with the first of them.
    fn map_plan(
        &mut self,
        shared: &Shared,
        heaps: &[Arc<Heap>],
        table: &Table,
        handles: &mut Vec<HandleId>,
        mut fresh: Vec<Fresh>,
    ) -> Result<Vec<(u32, RangeId, u64)>> {
        let mut parts: Vec<(u64, u32)> =
            (0..).zip(&table.parts).map(|(arena, part)| (part.peak_bytes, arena)).collect();
        parts.retain(|&(peak_bytes, _)| peak_bytes > 0);
        // The first one owns all to begin with.
        parts.sort_unstable_by(|a, b| b.cmp(a));
        let mut ranges = Vec::new();
        for (_, arena) in parts {
            let mut pages: Vec<PageId> =
                handles.iter().filter_map(|id| self.physical.get(id).copied()).collect();
            pages.extend(fresh.iter().map(|fresh| fresh.page));
            let new_bytes = fresh.iter().map(|fresh| fresh.bytes).sum();
            let bytes = handles.iter().map(|&id| self.pages.handles[id].bytes).sum::<u64>();
            let made = self.make_places(shared, &heaps[arena as usize], arena, bytes + new_bytes);
            let made =
                made.and_then(|(range, start)| map(shared, start, &pages).map(|()| (range, start)));
            let (range, start) = match made {
                Ok(made) => made,
                Err(error) => {
                    self.take_back(shared, fresh, new_bytes);
                    return Err(error);
                }
            };
            let mut at = start;
            for &id in handles.iter() {
                at = self.enter_plan_view(shared, arena, at, range, id);
            }
            if new_bytes > 0 {
                came(shared, self.pool, new_bytes, fresh.len());
            }
            for fresh in std::mem::take(&mut fresh) {
                handles.push(self.enter(shared, arena, at, range, &fresh));
                at += fresh.bytes;
            }
            ranges.push((arena, range, start));
        }
        Ok(ranges)
    }

    /// Address space for the places of an arena, of the size of its plan.
    fn make_places(
        &mut self,
        shared: &Shared,
        heap: &Heap,
        arena: u32,
        bytes: u64,
    ) -> Result<(RangeId, u64)> {
        // The last page stays absent: no free block is ever a whole range.
        let bytes = bytes + PAGE_BYTES;
        let DevicePtr(start) = shared.device.driver().reserve(bytes)?;
        self.areas.push(Area { at: start, bytes, used_bytes: bytes });
        let mut state = heap.enter()?;
        let (stream, serial) = (state.key, shared.next_serial());
        let new = NewSegment { address: start, bytes, class: PLACES, stream, serial };
        let segment = state.ledger.add_range(new);
        let limit = start + bytes;
        let range = self.pages.ranges.insert(Range { arena, segment, start, end: start, limit });
        self.pages.arenas[arena as usize].runs.push(range);
        Ok((range, start))
    }

    /// Lets the streams follow their parts of a plan whose ranges are there.
    fn follow(&mut self, heaps: &[Arc<Heap>], table: &Table) -> Result<()> {
        let Some(force) = &self.planner.force else { return Ok(()) };
        let pages = &self.pages;
        at_once(heaps, |all| {
            for &(arena, range, start) in &force.ranges {
                let part = &table.parts[arena as usize];
                let state = all.state(arena);
                state.ledger.keep_names(part.names);
                let cursor = Cursor::new(Arc::clone(&part.rows));
                let range = pages.ranges[range].segment;
                if let Some(planned) = state.planned() {
                    planned.follow(Some(Following { cursor, start, range }));
                }
            }
        })
    }

    /// Takes the plan out of force. Blocks that are live at their places stay there; all else of
    /// its memory is free for anything.
    pub(super) fn abandon(&mut self, shared: &Shared, heaps: &[Arc<Heap>]) -> Result<()> {
        let Some(force) = self.planner.force.take() else { return Ok(()) };
        let pages = &mut self.pages;
        let within: Vec<(u32, u64)> = force
            .ranges
            .iter()
            .flat_map(|&(arena, id, _)| {
                let Range { start, limit, .. } = pages.ranges[id];
                pages.views.range(start..limit).map(move |(&view, _)| (arena, view))
            })
            .collect();
        at_once(heaps, |all| {
            within.iter().for_each(|&(_, view)| pages.let_go(all, view));
            for state in all.states() {
                if let Some(planned) = state.planned() {
                    planned.follow(None);
                }
            }
        })?;
        for (arena, view) in within {
            self.doom(shared, arena, view);
        }
        Ok(())
    }

    /// Takes the plan out of force in the midst of an iteration: its memory is memory like any
    /// other from now on, where it is.
    pub(super) fn give_up(&mut self, heaps: &[Arc<Heap>]) -> Result<()> {
        let Some(force) = self.planner.force.take() else { return Ok(()) };
        // Not all that is free lies together at home.
        self.paces.iter_mut().for_each(|pace| pace.misses += 1);
        let pages = &self.pages;
        at_once(heaps, |all| {
            for &(arena, range, _) in &force.ranges {
                let range = pages.ranges[range].segment;
                all.state(arena).ledger.dissolve_places(range, CLASS);
            }
            for state in all.states() {
                state.anew_from = state.ledger.version();
                state.planned().into_iter().for_each(Planned::give_up);
            }
        })
    }

    /// Takes the plan out of force until the next iteration begins.
    pub(in crate::pool::expandable) fn set_aside(
        &mut self,
        shared: &Shared,
        heaps: &[Arc<Heap>],
    ) -> Result<()> {
        let table = self.planner.force.as_ref().map(|force| Arc::clone(&force.table));
        self.abandon(shared, heaps)?;
        if let Some(table) = table {
            self.planner.ready.get_or_insert(table);
        }
        Ok(())
    }

    /// Has a view unmapped once its stream is done with it, unless it owns anything, or is the
    /// home of its handle.
    fn doom(&mut self, shared: &Shared, arena: u32, address: u64) {
        let Some(&view) = self.pages.views.get(&address) else { return };
        let handle = &self.pages.handles[view.handle];
        let bytes = handle.bytes;
        if handle.owns_any(address) || handle.home == address {
            return;
        }
        let number = self.pages.arenas[arena as usize].stream;
        let stream = self.streams.get(number as usize).and_then(Option::as_ref);
        let Some(after) = stream.and_then(|stream| shared.events.record(stream).ok()) else {
            return;
        };
        self.note_unmapped(shared, view.handle, address);
        self.doomed.push(Doomed { address, bytes, after: Arc::new(after) });
    }

    /// Gives the plan all bytes of its handles that are free: in its first range, from where the
    /// other streams take them as they need them.
    pub(super) fn gather(&mut self, shared: &Shared, heaps: &[Arc<Heap>]) -> Result<()> {
        let Some(force) = &self.planner.force else { return Ok(()) };
        let Some(&(arena, range, _)) = force.ranges.first() else { return Ok(()) };
        let Range { start, limit, .. } = self.pages.ranges[range];
        let views: Vec<_> =
            self.pages.views.range(start..limit).map(|(&at, v)| (at, v.handle)).collect();
        at_once(heaps, |all| {
            all.bring_up_to_date(shared);
            for (view, handle) in views {
                for (from, to) in self.pages.free_runs(all, handle) {
                    self.claim_bytes(shared, all, arena, (view + from, to - from))?;
                }
            }
            Ok(())
        })?
    }

    /// Gives handles without a byte in use that are not the plan's back to the driver, once their
    /// streams are done with them.
    fn release_beside(&mut self, shared: &Shared, heaps: &[Arc<Heap>]) -> Result<()> {
        let Some(force) = &self.planner.force else { return Ok(()) };
        let (pages, planned) = (&mut self.pages, &force.handles);
        let free = at_once(heaps, |all| {
            let beside = pages.ids().into_iter().filter(|id| !planned.contains(id));
            let free: Vec<HandleId> = beside
                .filter(|&id| pages.free_runs(all, id) == [(0, pages.handles[id].bytes)])
                .collect();
            for &id in &free {
                pages.disown(all, id);
                // Nothing is served from it on its way.
                pages.keep(id);
            }
            free
        })?;
        self.memo.clear();
        for id in free {
            let used = self.pages.handles[id].idle_of.clone();
            let streams = used.iter().filter_map(|&at| self.streams.get(at as usize)?.as_ref());
            let marks: Result<Vec<_>> =
                streams.map(|stream| Ok(Arc::new(shared.events.record(stream)?))).collect();
            // What cannot be marked stays, until it is trimmed.
            if let Ok(marks) = marks {
                self.planner.leaving.push((id, marks));
            }
        }
        self.see_off(shared);
        at_once(heaps, |all| {
            (0..).zip(all.states()).for_each(|(arena, state)| self.drop_ranges(state, arena));
        })?;
        self.drop_areas();
        Ok(())
    }

    /// Gives back what is leaving and no stream uses any more.
    pub(super) fn see_off(&mut self, shared: &Shared) {
        if self.planner.leaving.is_empty() || shared.captures.any() {
            return;
        }
        let leaving = std::mem::take(&mut self.planner.leaving);
        for (id, marks) in leaving {
            let is_known = self.pages.handles.get(id).is_some_and(|handle| handle.is_kept);
            if is_known && !marks.iter().all(|mark| mark.query().unwrap_or(false)) {
                self.planner.leaving.push((id, marks));
            } else if is_known {
                self.give_back(shared, id);
            }
        }
        self.pages.settle_homes();
    }

    /// Enters a view of a plan, which stays as long as the plan does.
    fn enter_plan_view(
        &mut self,
        shared: &Shared,
        arena: u32,
        at: u64,
        range: RangeId,
        handle: HandleId,
    ) -> u64 {
        let end = self.enter_view(shared, arena, at, range, handle);
        self.by_age.pop_back();
        end
    }
}
