//! Address space: reserved in few large areas, handed to ranges from the front.

use super::Book;
use crate::base::{MIB, Result};
use crate::device::DevicePtr;
use crate::ledger::NewSegment;
use crate::policy::expandable::{CLASS, PAGE_BYTES, Pages, Range, RangeId};
use crate::pool::heap::{Heap, HeapState};
use crate::pool::shared::Shared;

/// Room of a range of chains beyond four times what is mapped there first.
const ROOM_BYTES: u64 = 512 * MIB;
/// An area for chains is so many times what a home range is.
const CHAINS_PART: u64 = 4;

/// Address space of one driver call.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) used_bytes: u64,
}

impl Book {
    /// Makes the home range of a heap: one area.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn make_home(&mut self, shared: &Shared, heap: &Heap, arena: u32) -> Result<()> {
        let total_bytes = shared.device.info().total_bytes;
        let bytes = shared.conf.expandable_segments_reserve.bytes_of(total_bytes);
        let bytes = bytes.max(PAGE_BYTES).next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        let DevicePtr(at) = shared.device.driver().reserve(bytes)?;
        self.areas.push(Area { at, bytes, used_bytes: bytes });
        let range = self.add_range(shared, heap, arena, (at, bytes))?;
        let arena = &mut self.pages.arenas[arena as usize];
        (arena.home, arena.brk) = (Some(range), at);
        Ok(())
    }

    /// Makes a range for chains, of which the first maps `bytes`.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn make_run(
        &mut self,
        shared: &Shared,
        heap: &Heap,
        arena: u32,
        bytes: u64,
    ) -> Result<RangeId> {
        if let Some(range) = self.take_spare(arena, bytes) {
            self.pages.arenas[arena as usize].runs.push(range);
            return Ok(range);
        }
        let room = bytes.next_multiple_of(PAGE_BYTES).saturating_mul(4).saturating_add(ROOM_BYTES);
        let has_room = |area: &&mut Area| area.bytes - area.used_bytes >= room;
        let at = match self.areas.iter_mut().find(has_room) {
            Some(area) => {
                area.used_bytes += room;
                area.at + area.used_bytes - room
            }
            None => {
                let total_bytes = shared.device.info().total_bytes.next_multiple_of(PAGE_BYTES);
                let bytes = room.max(total_bytes.saturating_mul(CHAINS_PART));
                let DevicePtr(at) = shared.device.driver().reserve(bytes)?;
                self.areas.push(Area { at, bytes, used_bytes: room });
                at
            }
        };
        let range = self.add_range(shared, heap, arena, (at, room))?;
        self.pages.arenas[arena as usize].runs.push(range);
        Ok(range)
    }

    /// The smallest spare range with room for `bytes` twice, empty.
    fn take_spare(&mut self, arena: u32, bytes: u64) -> Option<RangeId> {
        let least = bytes.saturating_mul(2).saturating_add(PAGE_BYTES);
        let room = |id: RangeId| {
            let Range { start, limit, .. } = self.pages.ranges[id];
            let is_unmapped =
                !self.doomed.iter().any(|view| (start..limit).contains(&view.address));
            (is_unmapped && limit - start >= least).then_some(limit - start)
        };
        let spare = self.pages.arenas[arena as usize].spare.iter().enumerate();
        let fits = spare.filter_map(|(at, &id)| Some((room(id)?, at)));
        let (_, at) = fits.min()?;
        let id = self.pages.arenas[arena as usize].spare.swap_remove(at);
        let range = &mut self.pages.ranges[id];
        range.end = range.start;
        Some(id)
    }

    /// Sets ranges of chains aside that nothing is mapped in any more, for other chains.
    pub(super) fn spare_ranges(&mut self) {
        let Pages { arenas, ranges, views, .. } = &mut self.pages;
        for arena in arenas {
            let spare = &mut arena.spare;
            arena.runs.retain(|&id| {
                let Range { start, limit, .. } = ranges[id];
                let is_mapped = views.range(start..limit).next().is_some();
                if !is_mapped {
                    spare.push(id);
                }
                is_mapped
            });
        }
    }

    /// Takes back what [`make_run`](Self::make_run) made last and nothing is mapped in.
    pub(super) fn unmake_run(&mut self, state: &mut HeapState, id: RangeId) {
        let Range { arena, segment, start, limit, .. } = self.pages.ranges[id];
        let own = &mut self.pages.arenas[arena as usize];
        own.runs.retain(|&run| run != id);
        let last = |area: &&mut Area| area.at + area.used_bytes == limit && area.at <= start;
        match self.areas.iter_mut().find(last) {
            Some(area) if state.ledger.remove_range(segment).is_some() => {
                area.used_bytes -= limit - start;
                self.pages.ranges.remove(id);
            }
            _ => own.spare.push(id),
        }
    }

    fn add_range(
        &mut self,
        shared: &Shared,
        heap: &Heap,
        arena: u32,
        (at, bytes): (u64, u64),
    ) -> Result<RangeId> {
        let mut state = heap.enter()?;
        let (stream, serial) = (state.key, shared.next_serial());
        let new = NewSegment { address: at, bytes, class: CLASS, stream, serial };
        let segment = state.ledger.add_range(new);
        let (start, limit) = (at, at + bytes);
        Ok(self.pages.ranges.insert(Range { arena, segment, start, end: start, limit }))
    }
}
