//! Giving memory back to the system. As where it is taken, no lock is held meanwhile, and what is
//! on its way out counts against the budget until it is gone.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::shared::{Core, Shared};
use super::slab::{Kind, Slab};
use crate::base::{format_bytes, lock};
use crate::device::Device;
use crate::ledger::Block;

impl Shared {
    /// Takes free slabs out of the ledger; gives how many.
    pub(super) fn detach(&self, core: &mut Core, chosen: impl Fn(&Block, &Slab) -> bool) -> usize {
        let ledger = &core.ledger;
        let whole = ledger.free_classes().flat_map(|class| ledger.releasable(class));
        let chosen: Vec<_> = whole
            .map(|id| &ledger[id])
            .filter(|block| core.slabs.get(&block.address).is_some_and(|slab| chosen(block, slab)))
            .map(|block| block.segment)
            .collect();
        let before = core.outgoing.len();
        for segment in chosen {
            let Some(segment) = core.ledger.remove_segment(segment) else { continue };
            core.releasing_bytes += segment.bytes;
            core.outgoing.extend(core.slabs.remove(&segment.address));
        }
        core.outgoing.len() - before
    }

    /// Gives what was detached to the system, and what the driver refused to take before; gives
    /// how many bytes that was. The driver may take a while.
    pub(super) fn release_outgoing(&self) -> u64 {
        let mut core = lock(&self.core);
        let slabs = std::mem::take(&mut core.outgoing);
        if slabs.is_empty() {
            return 0;
        }
        let bytes = slabs.iter().map(Slab::bytes).sum::<u64>();
        core.in_release_bytes += bytes;
        drop(core);

        let any_pinned = slabs.iter().any(|slab| slab.kind != Kind::Pageable);
        let (begun, count) = (Instant::now(), slabs.len());
        // SAFETY: these were wholly free when they left the ledger: every block of them was
        // dropped, and every copy that used one is done.
        let refused = unsafe { release(&self.device, slabs) };

        let given = bytes - refused.iter().map(Slab::bytes).sum::<u64>();
        let mut core = lock(&self.core);
        core.flow.giving.add_many(begun.elapsed(), count - refused.len());
        core.in_release_bytes -= bytes;
        core.releasing_bytes -= given;
        core.outgoing.extend(refused);
        if given > 0 && any_pinned {
            self.refused_bytes.store(u64::MAX, Ordering::Relaxed);
        }
        drop(core);
        self.released.notify_all();
        given
    }

    /// Gives every free slab to the system; gives how many bytes. Does nothing during a capture.
    pub(super) fn release_free(self: &Arc<Self>) -> u64 {
        self.release_chosen(|_, _| true)
    }

    /// Gives free slabs to the system that are unused for long, or all if memory is short.
    pub(super) fn release_stale(self: &Arc<Self>) -> u64 {
        let is_real = !self.device.info().simulated;
        if let Some(why) = is_real.then(|| self.pressure.look()).flatten() {
            let bytes = self.release_free();
            if bytes > 0 {
                tracing::debug!("{why}: {} of free pinned memory given up", format_bytes(bytes));
            }
            return bytes;
        }
        let Some(idle) = self.options.idle_trim else { return 0 };
        let oldest = self.clock().checked_sub(idle.as_secs());
        self.release_chosen(|block, slab| {
            !slab.is_reserve && oldest.is_some_and(|then| u64::from(block.freed_at) <= then)
        })
    }

    /// Gives the chosen of the free slabs to the system; gives how many bytes.
    pub(super) fn release_chosen(self: &Arc<Self>, chosen: impl Fn(&Block, &Slab) -> bool) -> u64 {
        if self.captures.any() {
            return 0;
        }
        let mut core = self.enter();
        self.detach(&mut core, chosen);
        drop(core);
        self.release_outgoing()
    }

    /// Unpins slices of a caller's memory that nothing uses any more.
    pub(super) fn release_adopted(&self, slices: Vec<Slab>) {
        let mut core = lock(&self.core);
        let bytes = slices.iter().map(Slab::bytes).sum::<u64>();
        core.adopted_bytes -= bytes;
        core.releasing_bytes += bytes;
        core.outgoing.extend(slices);
        drop(core);
        self.release_outgoing();
    }
}

/// Gives slabs to the system; gives those that the driver does not take back.
///
/// # Safety
/// They are of `device`, and nothing uses them any more.
pub(super) unsafe fn release(device: &Device, slabs: Vec<Slab>) -> Vec<Slab> {
    // SAFETY: by this function's own contract.
    slabs.into_iter().filter_map(|slab| unsafe { slab.give_back(device) }.err()).collect()
}
