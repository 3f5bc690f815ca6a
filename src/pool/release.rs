//! Giving segments back to the driver. A free block may still be in use by the work its stream
//! was given before it was freed, so the stream is waited for first: without the lock, so that
//! nobody else waits, and on the reaper thread where a `Drop` began it.
#![allow(unsafe_code)]

use std::sync::{Arc, MutexGuard};

use super::allocator::Shared;
use super::core::{Core, Detached};
use crate::base::lock;
use crate::device::{Device, Stream, reap};
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
        self.free_detached(detached);
        self.enter()
    }

    /// Gives dedicated segments that are out of use to the reaper. Never blocks.
    pub(super) fn reap_dedicated(self: &Arc<Self>, core: &mut Core) {
        let detached = core.detach(core.finished_dedicated());
        if !detached.is_empty() {
            let shared = Arc::clone(self);
            reap(move || shared.free_detached(detached));
        }
    }

    fn free_detached(&self, detached: Vec<Detached>) {
        let outcomes = free_after_streams(&self.device, detached);
        let mut core = lock(&self.core);
        for (segment, freed) in outcomes {
            if freed {
                core.released(&segment);
            } else {
                core.keep(segment);
            }
        }
        self.released.notify_all();
    }
}

/// Waits for the segments' streams and frees the segments; tells of each whether it was freed.
fn free_after_streams(device: &Device, detached: Vec<Detached>) -> Vec<(Detached, bool)> {
    let mut waited: Vec<Stream> = Vec::new();
    let free = |segment: Detached| {
        if !waited.contains(&segment.stream) {
            if let Err(error) = segment.stream.synchronize() {
                tracing::warn!(%error, "a stream cannot be waited for: its memory is kept");
                return (segment, false);
            }
            waited.push(segment.stream.clone());
        }
        // SAFETY: the segment came from `alloc`, left the ledger as one free block, and the
        // stream it belongs to has run everything; other streams' uses ended before the block
        // became free.
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
        if !detached.is_empty() {
            let device = self.device.clone();
            reap(move || match pending.iter().try_for_each(|event| event.synchronize()) {
                Ok(()) => drop(free_after_streams(&device, detached)),
                Err(error) => {
                    tracing::warn!(%error, "streams cannot be waited for: their memory is kept");
                }
            });
        }
    }
}
