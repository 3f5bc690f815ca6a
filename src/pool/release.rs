//! Giving segments back to the driver. A free block may still be in use by the work its stream
//! was given before it was freed, so the stream is waited for first: without the lock, so that
//! nobody else waits, and by the reaper thread where a `Drop` began it.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::driver_pool::DriverPool;
use super::expandable::Release;
use super::heap::{DEDICATED_CLASS, Heap, HeapState, KEPT_CLASS};
use super::live::report_leaks;
use super::shared::Shared;
use crate::device::{DevicePtr, Event, Stream, reap};
use crate::event::TraceEvent;
use crate::fence::StreamKey;
use crate::ledger::{NewSegment, Segment, SegmentId};

/// A segment that left its heap on its way back to the driver.
#[derive(Debug)]
pub(super) struct Detached {
    ptr: DevicePtr,
    bytes: u64,
    class: u8,
    stream: Stream,
    /// Its private pool's id, or 0.
    pool: u64,
}

impl Heap {
    /// Takes a wholly free segment out, if it is still the one of that serial. It stays
    /// reserved until [`give_back`](Self::give_back).
    pub(super) fn detach(
        &self,
        state: &mut HeapState,
        id: SegmentId,
        serial: u32,
    ) -> Option<Detached> {
        state.settle_pending(&self.shared);
        let stream = state.stream.clone()?;
        state.ledger.segment(id).filter(|segment| segment.serial == serial)?;
        let Segment { address, bytes, class, .. } = state.ledger.remove_segment(id)?;
        self.shared.leaving();
        let pool = state.pool_id();
        Some(Detached { ptr: DevicePtr(address), bytes, class, stream, pool })
    }

    /// Gives detached segments back to the driver, waiting for their streams. What the driver
    /// refuses stays in the ledger, reserved but out of use.
    pub(super) fn give_back(&self, detached: Vec<Detached>) {
        let mut waited: Vec<Stream> = Vec::new();
        let (quiet, busy) = detached.into_iter().partition(|segment| {
            if waited.contains(&segment.stream) {
                return true;
            }
            let reached = segment.stream.synchronize();
            if let Err(error) = &reached {
                let what = "a stream cannot be waited for: its memory is kept";
                self.shared.memory_stays(error, what);
            } else {
                waited.push(segment.stream.clone());
            }
            reached.is_ok()
        });
        self.free_detached(quiet, busy);
    }

    /// Gives segments that are not cached and out of use to the reaper, or back to the driver's
    /// pool they came from. Never blocks.
    pub(super) fn reap_finished(self: &Arc<Self>, state: &mut HeapState) {
        if self.shared.captures.any() {
            return;
        }
        state.finished = false;
        if let Some(pool) = &self.shared.driver_pool {
            return self.give_to_pool(pool, state);
        }
        let mut finished = state.releasable();
        finished.retain(|(_, _, id)| state.ledger[*id].class >= state.uncached_from);
        let detached: Vec<_> = finished
            .into_iter()
            .filter_map(|(segment, serial, _)| self.detach(state, segment, serial))
            .collect();
        if state.uncached_from == 0 {
            self.reap_retired(state);
            self.reap_handles(state);
        }
        if detached.is_empty() {
            return;
        }
        let (after, marked, unmarked) = mark_ends(&self.shared, detached);
        for segment in unmarked {
            self.keep(state, segment);
        }
        let heap = Arc::clone(self);
        reap(after, move |reached| match reached {
            Ok(()) => heap.free_detached(marked, Vec::new()),
            Err(_) => heap.free_detached(Vec::new(), marked),
        });
    }

    /// Has the reaper give back the handles of a closed pool that are out of use.
    fn reap_handles(self: &Arc<Self>, state: &HeapState) {
        if let Some(expandable) = state.expandable(&self.shared) {
            let shared = Arc::clone(&self.shared);
            reap(Vec::new(), move |_| {
                expandable.release(&shared, Release::Free);
            });
        }
    }

    /// Has the reaper come again when what other streams still use is out of use.
    fn reap_retired(self: &Arc<Self>, state: &HeapState) {
        let pending = state.retired.pending();
        if pending.is_empty() {
            return;
        }
        let heap = Arc::clone(self);
        reap(pending, move |reached| {
            let Ok(mut state) = heap.enter() else { return };
            if reached.is_ok() {
                state.poll(&heap.shared);
                if state.finished {
                    heap.reap_finished(&mut state);
                }
            }
        });
    }

    /// Frees blocks that are out of use at the present point of their stream.
    fn give_to_pool(&self, pool: &DriverPool, state: &mut HeapState) {
        loop {
            let finished = state.ledger.releasable(DEDICATED_CLASS).next();
            let Some(id) = finished.map(|id| state.ledger[id].segment) else { return };
            let Some(serial) = state.ledger.segment(id).map(|segment| segment.serial) else {
                return;
            };
            let Some(segment) = self.detach(state, id, serial) else { return };
            self.part_with(&segment);
            let Detached { ptr, stream, .. } = &segment;
            // SAFETY: the block came from the pool on this stream and left its ledger free: its
            // owner has enqueued all of its work, and other streams' uses are over.
            let freed = unsafe { self.shared.device.driver().pool_free(*ptr, stream.id()) };
            match freed {
                Ok(()) => {
                    pool.note_freed_on(self.number);
                    self.shared.back(segment.pool, segment.class, segment.bytes);
                }
                Err(error) => {
                    tracing::warn!(%error, "the driver's pool did not take a block back");
                    self.stay_with(&segment);
                    self.keep(state, segment);
                }
            }
        }
    }

    /// Frees segments nobody uses any more; what is `kept`, or refused by the driver, goes back
    /// to the ledger.
    fn free_detached(&self, detached: Vec<Detached>, mut kept: Vec<Detached>) {
        // Before the driver has them: it may give the same addresses to another thread at once.
        detached.iter().for_each(|segment| self.part_with(segment));
        for (segment, freed) in free_segments(&self.shared, detached) {
            if freed {
                self.shared.back(segment.pool, segment.class, segment.bytes);
            } else {
                self.stay_with(&segment);
                kept.push(segment);
            }
        }
        if kept.is_empty() {
            return;
        }
        match self.enter() {
            Ok(mut state) => kept.into_iter().for_each(|segment| self.keep(&mut state, segment)),
            // Within a recorder's own call: the memory stays counted, and is never used again.
            Err(error) => tracing::error!(%error, "segments the driver kept are lost"),
        }
    }

    /// Its addresses mean nothing from here on.
    fn part_with(&self, segment: &Detached) {
        let Detached { ptr: DevicePtr(address), bytes, ref stream, .. } = *segment;
        let stream = StreamKey::of(stream).raw();
        self.shared.leave_addresses(address);
        tracing::debug!(bytes, stream, "gives a segment back");
        self.shared.note(|| TraceEvent::SegmentFree { address, bytes, stream });
    }

    /// The driver did not take it.
    fn stay_with(&self, segment: &Detached) {
        let Detached { ptr: DevicePtr(address), bytes, ref stream, .. } = *segment;
        let stream = StreamKey::of(stream).raw();
        self.shared.enter_addresses(address, bytes, self.number);
        self.shared.note(|| TraceEvent::SegmentAlloc { address, bytes, stream });
    }

    /// Enters a detached segment again, because the driver did not take it back. It serves
    /// nobody; giving everything cached back tries it again.
    fn keep(&self, state: &mut HeapState, segment: Detached) {
        let kept = NewSegment {
            address: segment.ptr.0,
            bytes: segment.bytes,
            class: KEPT_CLASS,
            stream: state.key,
            serial: self.shared.next_serial(),
        };
        state.ledger.add_segment(kept, 0);
        state.stream.get_or_insert(segment.stream.clone());
        self.shared.kept(segment.class, segment.bytes);
    }
}

/// Marks the present end of each segment's stream: the marks, the segments they are of, and
/// those of streams that could not be marked.
fn mark_ends(
    shared: &Shared,
    detached: Vec<Detached>,
) -> (Vec<Arc<Event>>, Vec<Detached>, Vec<Detached>) {
    let mut ends: Vec<(Stream, Arc<Event>)> = Vec::new();
    let (marked, unmarked) = detached.into_iter().partition(|segment| {
        if ends.iter().any(|(stream, _)| *stream == segment.stream) {
            return true;
        }
        match shared.events.record(&segment.stream) {
            Ok(end) => ends.push((segment.stream.clone(), Arc::new(end))),
            Err(error) => {
                tracing::warn!(%error, "a stream cannot be marked: its memory is kept");
                return false;
            }
        }
        true
    });
    (ends.into_iter().map(|(_, end)| end).collect(), marked, unmarked)
}

/// Frees segments nobody uses any more; tells of each whether the driver took it.
fn free_segments(shared: &Shared, detached: Vec<Detached>) -> Vec<(Detached, bool)> {
    let free = |segment: Detached| {
        // SAFETY: the segment came from `alloc`, left its ledger as one free block, and the
        // stream it belongs to has run everything it was given by then; other streams' uses
        // ended before the block became free.
        let freed = unsafe { shared.device.driver().free(segment.ptr) };
        if let Err(error) = &freed {
            shared.memory_stays(error, "the driver did not take a segment back");
        }
        (segment, freed.is_ok())
    };
    detached.into_iter().map(free).collect()
}

impl Drop for Heap {
    /// Hands everything to the reaper; never blocks. Raw blocks that were never freed keep their
    /// segments: somebody may still use them.
    fn drop(&mut self) {
        let Ok(mut state) = self.enter() else { return };
        state.poll(&self.shared);
        let pending = state.settle_retired(&self.shared);
        if let Some(expandable) = state.expandable(&self.shared) {
            expandable.bereave(&state, &pending);
        }
        report_leaks(&self.shared.device.info().name, state.live_blocks());
        let releasable = state.releasable();
        let detached: Vec<_> = releasable
            .into_iter()
            .filter_map(|(id, serial, _)| self.detach(&mut state, id, serial))
            .collect();
        drop(state);
        // Nobody will ask again, so what is refused here is tried once more at once.
        let (ends, mut marked, unmarked) = mark_ends(&self.shared, detached);
        let (more_ends, more, _) = mark_ends(&self.shared, unmarked);
        marked.extend(more);
        let after = pending.into_iter().chain(ends).chain(more_ends).collect();
        let shared = Arc::clone(&self.shared);
        reap(after, move |reached| {
            if reached.is_ok() {
                let refused = give_back_counted(&shared, marked);
                give_back_counted(&shared, refused);
            }
        });
    }
}

/// Frees segments of a heap that is gone; gives those the driver refused.
fn give_back_counted(shared: &Shared, detached: Vec<Detached>) -> Vec<Detached> {
    let mut refused = Vec::new();
    for (segment, freed) in free_segments(shared, detached) {
        if freed {
            shared.back(segment.pool, segment.class, segment.bytes);
        } else {
            refused.push(segment);
        }
    }
    refused
}
