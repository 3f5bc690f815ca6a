//! What happens to a request and a free while nothing is asked of the driver.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use super::super::shared::Shared;
use super::super::tally::{Counted, Tally};
use super::{DEDICATED_CLASS, Freed, HeapState, LastTaken, Taken, Which};
use crate::device::{DevicePtr, Stream};
use crate::event::TraceEvent;
use crate::ledger::{Block, BlockId, Ledger, SplitChange, State};
use crate::policy::{Chosen, Fit, Policy, Request};

impl HeapState {
    /// Serves `request` from what is cached.
    #[inline]
    pub(in crate::pool) fn reuse(&mut self, shared: &Shared, request: &Request) -> Option<Taken> {
        if self.pending {
            if self.last.block_bytes == request.block_bytes
                && self.last.class == u64::from(request.class)
            {
                return self.take_again(shared, request);
            }
            self.settle_pending(shared);
        }
        let fit = match &mut self.policy {
            Chosen::Caching(caching) => {
                if caching.ages(request) {
                    shared.searches.fetch_add(1, Ordering::Relaxed);
                }
                caching.fit(&self.ledger, request)?
            }
            Chosen::Expandable(expandable) => {
                if self.ledger.totals().active_bytes == 0 && self.ledger.version() >= self.anew_from
                {
                    return None;
                }
                expandable.fit(&self.ledger, request)?
            }
            Chosen::Planned(planned) => {
                if self.ledger.totals().active_bytes == 0 && self.ledger.version() >= self.anew_from
                {
                    return None;
                }
                planned.fit(&self.ledger, request)?
            }
            Chosen::Registered(policy) => {
                checked_fit(&mut **policy, shared, &self.ledger, request)?
            }
        };
        Some(self.hand_out(shared, fit.block, fit.take_bytes, request))
    }

    /// Hands a free block out, or its front part.
    #[inline]
    pub(in crate::pool) fn hand_out(
        &mut self,
        shared: &Shared,
        id: BlockId,
        take_bytes: u64,
        request: &Request,
    ) -> Taken {
        let split = self.ledger.take(id, take_bytes, request.requested_bytes);
        let block = &self.ledger[id];
        let (class, address) = (block.class, block.address);
        let counted = Counted::new(class, take_bytes, request.requested_bytes);
        self.last = LastTaken {
            block: Some(id),
            version: self.ledger.version(),
            address,
            block_bytes: request.block_bytes,
            class: u64::from(request.class),
            split,
            counted,
        };
        self.count_taken(shared, counted, split, address);
        Taken { id, ptr: DevicePtr(address) }
    }

    /// Counts a change of free blocks without a block taken or given back.
    pub(in crate::pool) fn note_moved(&self, class: u8, split: SplitChange) {
        self.count(|tally| tally.moved(class, split));
    }

    /// Lets the next free of the block handed out last be written into the ledger at once.
    pub(in crate::pool) fn forget_last(&mut self) {
        self.last.block = None;
    }

    /// The block freed last, for a request like the one that got it.
    #[inline]
    fn take_again(&mut self, shared: &Shared, request: &Request) -> Option<Taken> {
        self.pending = false;
        let id = self.last.block?;
        let requested_bytes = request.requested_bytes;
        self.last.counted.requested_bytes = requested_bytes;
        self.ledger.set_requested(id, requested_bytes);
        self.count_taken(shared, self.last.counted, self.last.split, self.last.address);
        Some(Taken { id, ptr: DevicePtr(self.last.address) })
    }

    /// Counts something in the tally of the thread that is inside.
    #[inline]
    pub(super) fn count(&self, count: impl FnOnce(&mut Tally)) {
        // SAFETY: whoever gets at a heap's state is inside it, and on arrival the tally of its
        // thread was put in place. The counting functions call nobody.
        unsafe { self.tally.count(count) };
    }

    #[inline(always)]
    pub(super) fn count_taken(
        &self,
        shared: &Shared,
        counted: Counted,
        split: SplitChange,
        address: u64,
    ) {
        let Counted { bytes, requested_bytes, .. } = counted;
        self.count(|tally| tally.taken(counted, split));
        if shared.is_oversize(bytes) {
            self.count(Tally::oversize_taken);
        }
        let stream = self.key;
        shared.note(|| TraceEvent::Alloc { address, bytes, requested_bytes, stream });
    }

    /// Takes a block back from its owner: free at once if only its own stream used it, else
    /// once the other streams are done. False if it is no live block.
    #[inline]
    pub(in crate::pool) fn free(&mut self, shared: &Shared, freed: Freed) -> bool {
        let id = match freed.block {
            Which::Id(id) => id,
            Which::Address(address) => match self.raw.remove(&address) {
                Some(id) => id,
                None => return false,
            },
        };
        self.free_id(shared, id, freed.uses);
        true
    }

    /// Takes a live block back, with what is noted of it.
    #[inline]
    pub(super) fn free_id(&mut self, shared: &Shared, id: BlockId, uses: Vec<Stream>) {
        if !self.ledger[id].marked && uses.is_empty() {
            return self.give_up(shared, id);
        }
        self.record_freed(id);
        let uses = self.take_note(shared, id, uses);
        if uses.is_empty() {
            return self.give_up(shared, id);
        }
        let (address, counted) = self.counted(id);
        let (bytes, stream) = (counted.bytes, self.key);
        shared.note(|| TraceEvent::FreeRequested { address, bytes, stream });
        if shared.is_oversize(bytes) {
            self.count(Tally::oversize_given_up);
        }
        self.retire(shared, id, counted, &uses);
    }

    /// Makes a block free that only its own stream used.
    #[inline(always)]
    pub(super) fn give_up(&mut self, shared: &Shared, id: BlockId) {
        let (address, counted) = self.counted(id);
        let (bytes, stream, class) = (counted.bytes, self.key, self.ledger[id].class);
        debug_assert!(self.ledger[id].state == State::Active);
        shared.note(|| TraceEvent::FreeRequested { address, bytes, stream });
        if shared.is_oversize(bytes) {
            self.count(Tally::oversize_given_up);
        }
        let repeats = self.repeats
            && class != DEDICATED_CLASS
            && self.last.block == Some(id)
            && self.last.version == self.ledger.version();
        if repeats {
            self.pending = true;
            let SplitChange { blocks, bytes } = self.last.split;
            let split = SplitChange { blocks: -blocks, bytes: -bytes };
            self.count(|tally| tally.given_back(counted, split));
        } else {
            self.settle_pending(shared);
            let split = self.ledger.give_back(id, shared.searches.load(Ordering::Relaxed));
            self.count(|tally| tally.given_back(counted, split));
            self.finished |= class >= self.uncached_from;
        }
        shared.note(|| TraceEvent::FreeCompleted { address, bytes, stream });
    }

    #[inline]
    pub(super) fn counted(&self, id: BlockId) -> (u64, Counted) {
        let Block { address, bytes, requested_bytes, class, .. } = self.ledger[id];
        (address, Counted::new(class, bytes, requested_bytes))
    }

    /// True when the thread `me` may go ahead: its own tally is in place, and nothing freed
    /// waits for other streams or to be given back.
    #[inline]
    pub(super) fn is_quiet(&self, me: u64) -> bool {
        self.tally_of == me && self.retired.is_empty() && !self.finished
    }

    /// True when a block goes back to the cache, and not to the driver, once it is free.
    #[inline]
    pub(super) fn is_cached(&self, id: BlockId) -> bool {
        self.ledger[id].class < self.uncached_from
    }

    /// Writes into the ledger what was put off because the same request might come again.
    #[inline]
    pub(in crate::pool) fn settle_pending(&mut self, shared: &Shared) {
        if self.pending {
            self.pending = false;
            if let Some(id) = self.last.block.take() {
                let now = shared.searches.load(Ordering::Relaxed);
                // Counted when it was freed, as the opposite of what taking it did.
                let split = self.ledger.give_back(id, now);
                debug_assert_eq!(split.bytes, -self.last.split.bytes);
            }
        }
    }
}

/// What a policy says that may be anybody's: memory is never handed out twice on its word.
fn checked_fit(
    policy: &mut dyn Policy,
    shared: &Shared,
    ledger: &Ledger,
    request: &Request,
) -> Option<Fit> {
    if policy.ages(request) {
        shared.searches.fetch_add(1, Ordering::Relaxed);
    }
    let fit = policy.fit(ledger, request)?;
    let sound = ledger.get(fit.block).is_some_and(|block| {
        block.state == State::Free
            && block.class == request.class
            && (request.requested_bytes..=block.bytes).contains(&fit.take_bytes)
    });
    if !sound {
        tracing::error!(?fit, ?request, "the policy chose a block that does not fit");
        return None;
    }
    Some(fit)
}
