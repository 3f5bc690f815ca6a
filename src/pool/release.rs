//! Giving segments back to the driver. A free block may still be in use by the work its stream
//! was given before it was freed, so the stream is waited for first: without the lock, so that
//! nobody else waits, and by the reaper thread where a `Drop` began it.
#![allow(unsafe_code)]

use std::sync::{Arc, MutexGuard};

use super::allocator::Shared;
use super::core::{Core, Detached};
use crate::base::lock;
use crate::device::{Device, Event, Stream, reap};
use crate::ledger::SegmentId;

impl Shared {
    /// Gives segments back to the driver, waiting for their streams with the lock released.
    /// What the driver refuses to take back stays in the ledger, reserved but out of use.
    pub(super) fn release<'a>(
        self: &'a Arc<Self>,
        mut core: MutexGuard<'a, Core>,
        segments: Vec<SegmentId>,
    ) -> MutexGuard<'a, Core> {
        let detached = core.detach(segments);
        if detached.is_empty() {
            return core;
        }
        drop(core);
        let mut waited: Vec<Stream> = Vec::new();
        let (quiet, busy) = detached.into_iter().partition(|segment| {
            if waited.contains(&segment.stream) {
                return true;
            }
            let reached = segment.stream.synchronize();
            if let Err(error) = &reached {
                tracing::warn!(%error, "a stream cannot be waited for: its memory is kept");
            } else {
                waited.push(segment.stream.clone());
            }
            reached.is_ok()
        });
        self.free_detached(quiet, busy);
        self.enter()
    }

    /// Gives dedicated segments that are out of use to the reaper. Never blocks.
    pub(super) fn reap_dedicated(self: &Arc<Self>, core: &mut Core) {
        let detached = core.detach(core.finished_dedicated());
        if detached.is_empty() {
            return;
        }
        let (after, marked, unmarked) = self.mark_ends(detached);
        for segment in unmarked {
            core.keep(segment);
        }
        let shared = Arc::clone(self);
        reap(after, move |reached| match reached {
            Ok(()) => shared.free_detached(marked, Vec::new()),
            Err(_) => shared.free_detached(Vec::new(), marked),
        });
    }

    /// Marks the present end of each segment's stream: the marks, the segments they are of, and
    /// those of streams that could not be marked.
    fn mark_ends(
        &self,
        detached: Vec<Detached>,
    ) -> (Vec<Arc<Event>>, Vec<Detached>, Vec<Detached>) {
        let mut ends: Vec<(Stream, Arc<Event>)> = Vec::new();
        let (marked, unmarked) = detached.into_iter().partition(|segment| {
            if ends.iter().any(|(stream, _)| *stream == segment.stream) {
                return true;
            }
            let end = self.events.record(&segment.stream);
            match end {
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

    /// Frees segments nobody uses any more; what is `kept`, or refused by the driver, goes back
    /// to the ledger.
    fn free_detached(&self, detached: Vec<Detached>, kept: Vec<Detached>) {
        let outcomes = free_segments(&self.device, detached);
        let mut core = lock(&self.core);
        for (segment, freed) in outcomes {
            if freed {
                core.released(&segment);
            } else {
                core.keep(segment);
            }
        }
        for segment in kept {
            core.keep(segment);
        }
        self.released.notify_all();
    }
}

/// Frees segments nobody uses any more; tells of each whether the driver took it.
fn free_segments(device: &Device, detached: Vec<Detached>) -> Vec<(Detached, bool)> {
    let free = |segment: Detached| {
        // SAFETY: the segment came from `alloc`, left the ledger as one free block, and the
        // stream it belongs to has run everything it was given by then; other streams' uses
        // ended before the block became free.
        let freed = unsafe { device.driver().free(segment.ptr) };
        if let Err(error) = &freed {
            tracing::warn!(%error, "the driver did not take a segment back");
        }
        (segment, freed.is_ok())
    };
    detached.into_iter().map(free).collect()
}

impl Drop for Shared {
    /// Hands everything to the reaper; never blocks. Raw blocks that were never freed keep their
    /// segments: somebody may still use them.
    fn drop(&mut self) {
        let mut core = lock(&self.core);
        self.drain_mailbox(&mut core);
        core.poll(&self.events);
        let pending = core.settle_retired();
        if core.stats.allocation.current > 0 {
            tracing::warn!(
                device = %self.device.info().name,
                blocks = core.stats.allocation.current,
                bytes = core.stats.requested_bytes.current,
                "raw blocks were never freed: their segments are leaked"
            );
        }
        let releasable = core.releasable();
        let detached = core.detach(releasable);
        drop(core);
        // Nobody will ask again, so what is refused here is tried once more at once.
        let (ends, mut marked, unmarked) = self.mark_ends(detached);
        let (more_ends, more, _) = self.mark_ends(unmarked);
        marked.extend(more);
        let after = pending.into_iter().chain(ends).chain(more_ends).collect();
        let device = self.device.clone();
        reap(after, move |reached| {
            if reached.is_ok() {
                let outcomes = free_segments(&device, marked);
                let refused = outcomes.into_iter().filter(|(_, freed)| !freed);
                free_segments(&device, refused.map(|(segment, _)| segment).collect());
            }
        });
    }
}
