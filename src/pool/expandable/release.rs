//! Giving physical memory back: on request, and at the end.

use std::sync::Arc;

use super::driver::{Remains, release};
use super::members::at_once;
use super::{Book, Expandable};
use crate::device::{Event, Stream, reap};
use crate::ledger::{PLACES, State};
use crate::policy::expandable::{CLASS, HandleId, Range, RangeId};
use crate::pool::heap::HeapState;
use crate::pool::shared::Shared;

/// Which handles are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Release {
    /// All without a byte in use.
    Free,
    /// Those the driver refused before.
    Refused,
}

impl Expandable {
    /// Gives every handle without a byte in use back to the driver, or only those that it once
    /// refused, after waiting for the streams. Misses of other streams wait meanwhile. Gives how
    /// many handles that were.
    pub(in crate::pool) fn release(&self, shared: &Shared, what: Release) -> usize {
        let Ok(mut book) = self.book() else { return 0 };
        let Ok(heaps) = book.heaps() else { return 0 };
        let book = &mut *book;
        book.retry_strays(shared);
        if what == Release::Free && book.set_aside(shared, &heaps).is_err() {
            return 0;
        }
        let pages = &mut book.pages;
        let free = at_once(&heaps, |all| {
            all.bring_up_to_date(shared);
            let whole = |id: &HandleId| {
                let handle = &pages.handles[*id];
                let free =
                    what == Release::Free && pages.free_runs(all, *id) == [(0, handle.bytes)];
                free || handle.is_kept
            };
            let free: Vec<HandleId> = pages.ids().into_iter().filter(whole).collect();
            free.iter().for_each(|&id| pages.disown(all, id));
            free
        });
        let Ok(free) = free else { return 0 };
        if free.is_empty() || !book.wait_for_streams() {
            return 0;
        }
        book.unmap_doomed(shared, true);
        book.memo.clear();
        let released = free.into_iter().filter(|&id| book.give_back(shared, id)).count();
        book.pages.settle_homes();
        // In case of an error within a heap the address space is tried again the next time.
        let _ = at_once(&heaps, |all| {
            (0..).zip(all.states()).for_each(|(arena, state)| book.drop_ranges(state, arena));
        });
        book.drop_areas();
        released
    }

    /// Lets go of streams that no heap is of any more and that used nothing that is held.
    pub(in crate::pool) fn let_streams_go(&self) {
        let Ok(mut book) = self.book() else { return };
        let Ok(heaps) = book.heaps() else { return };
        let mut used = book.pages.idle_users();
        let Book { pages, streams, .. } = &mut *book;
        let serving = at_once(&heaps, |all| {
            let arenas = pages.arenas.iter().zip(all.states());
            let serving = arenas.filter(|(_, state)| state.stream.is_some());
            serving.map(|(arena, _)| arena.stream).collect::<Vec<u32>>()
        });
        let Ok(serving) = serving else { return };
        used.extend(serving);
        for (number, stream) in (0..).zip(streams) {
            if !used.contains(&number) {
                *stream = None;
            }
        }
    }

    /// A heap is gone, whose retired blocks are in use until the `pending` events. Raw blocks in
    /// it that were never freed keep their memory: somebody may still use them.
    pub(in crate::pool) fn bereave(&self, state: &HeapState, pending: &[Arc<Event>]) {
        // Within a recorder's own call nothing is known of it: nothing then goes back.
        let Ok(mut book) = self.book() else { return };
        book.pending.extend_from_slice(pending);
        let live = state.ledger.blocks();
        for block in live
            .filter(|block| matches!(block.class, CLASS | PLACES) && block.state == State::Active)
        {
            let (from, to) = (block.address, block.address + block.bytes);
            let before = book.pages.views.range(..=from).next_back();
            let within = book.pages.views.range(from..to);
            let under: Vec<HandleId> =
                before.into_iter().chain(within).map(|(_, view)| view.handle).collect();
            book.leaked.extend(under);
        }
    }
}

impl Book {
    /// Blocks until all streams did what they were given. False if one cannot be waited for.
    fn wait_for_streams(&mut self) -> bool {
        for stream in self.streams.iter().flatten() {
            if let Err(error) = stream.synchronize() {
                tracing::warn!(%error, "a stream cannot be waited for: its memory is kept");
                return false;
            }
        }
        self.pages.forget_users();
        true
    }

    /// Takes ranges out that nothing is mapped in.
    pub(super) fn drop_ranges(&mut self, state: &mut HeapState, number: u32) {
        let ranges: Vec<RangeId> = self.pages.ranges.iter().map(|(id, _)| id).collect();
        for id in ranges {
            let Range { arena, segment, start, limit, .. } = self.pages.ranges[id];
            let mapped = self.pages.views.range(start..limit).next().is_some();
            let doomed = self.doomed.iter().any(|view| (start..limit).contains(&view.address));
            if arena != number || mapped || doomed || state.ledger.remove_range(segment).is_none() {
                continue;
            }
            self.pages.ranges.remove(id);
            let arena = &mut self.pages.arenas[number as usize];
            arena.runs.retain(|&run| run != id);
            arena.spare.retain(|&run| run != id);
            if arena.home == Some(id) {
                (arena.home, arena.brk, arena.home_used) = (None, 0, 0);
                arena.home_handles.clear();
            }
        }
    }

    /// Gives address space back that has no range any more.
    pub(super) fn drop_areas(&mut self) {
        let areas = std::mem::take(&mut self.areas);
        self.areas = areas
            .into_iter()
            .filter(|area| {
                let within = |range: &Range| (area.at..area.at + area.bytes).contains(&range.start);
                let used = self.pages.ranges.iter().any(|(_, range)| within(range));
                used || !release(&self.device, area.at, area.bytes)
            })
            .collect();
    }
}

impl Drop for Book {
    /// Hands everything to the reaper; never blocks.
    fn drop(&mut self) {
        if self.physical.is_empty() && self.areas.is_empty() && self.strays.is_empty() {
            return;
        }
        let mut after = std::mem::take(&mut self.pending);
        let mut unmarked = Vec::new();
        for stream in self.streams.drain(..).flatten() {
            match mark(&stream) {
                Ok(end) => after.push(Arc::new(end)),
                Err(error) => {
                    tracing::warn!(%error, "a stream cannot be marked: it is waited for");
                    unmarked.push(stream);
                }
            }
        }
        let remains = Remains {
            device: self.device.clone(),
            pages: std::mem::take(&mut self.pages),
            physical: std::mem::take(&mut self.physical),
            areas: std::mem::take(&mut self.areas),
            doomed: std::mem::take(&mut self.doomed),
            leaked: std::mem::take(&mut self.leaked),
            strays: std::mem::take(&mut self.strays),
        };
        reap(after, move |reached| {
            // Where even that fails twice the device counts as lost.
            let done =
                |stream: &Stream| stream.synchronize().or_else(|_| stream.synchronize()).is_ok();
            if reached.is_ok() && unmarked.iter().all(done) {
                remains.give_back();
            }
        });
    }
}

fn mark(stream: &Stream) -> crate::base::Result<Event> {
    let end = Event::new(stream.device())?;
    end.record(stream)?;
    Ok(end)
}
