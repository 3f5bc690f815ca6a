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
    /// Serves a request for `bytes` (above 0) from what is cached, by the way that
    /// [`rate`](Self::rate) allows; none if nothing fits, or somebody else's policy decides.
    #[inline(never)]
    pub(super) fn take_fitting(&mut self, bytes: u64) -> Taken {
        let request = match &self.policy {
            Chosen::Caching(caching) => caching.request(bytes),
            Chosen::Expandable(expandable) => expandable.request(bytes),
            Chosen::Planned(_) => {
                return self.follow(bytes).unwrap_or_else(|| self.take_unplanned(bytes));
            }
            Chosen::Registered(_) => None,
        };
        let Some(request) = request else { return Taken::NONE };
        if self.again_bytes != 0 {
            if self.is_like_last(&request) {
                return self.take_again_for(bytes);
            }
            self.settle(0);
        }
        let fit = match &mut self.policy {
            Chosen::Caching(caching) => caching.fit(&self.ledger, &request),
            Chosen::Expandable(expandable) if !may_begin_anew(&self.ledger, self.anew_from) => {
                expandable.fit(&self.ledger, &request)
            }
            Chosen::Expandable(_) | Chosen::Planned(_) | Chosen::Registered(_) => None,
        };
        let Some(Fit { block, take_bytes }) = fit else { return Taken::NONE };
        self.place(block, take_bytes, &request)
    }

    /// Serves `request` from what is cached.
    pub(in crate::pool) fn reuse(&mut self, shared: &Shared, request: &Request) -> Option<Taken> {
        if self.again_bytes != 0 {
            if self.is_like_last(request) {
                let taken = self.take_again_for(request.requested_bytes);
                self.note_taken(shared, taken, request, self.ledger[taken.id].bytes);
                return Some(taken);
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
                if may_begin_anew(&self.ledger, self.anew_from) {
                    return None;
                }
                expandable.fit(&self.ledger, request)?
            }
            Chosen::Planned(planned) => {
                if self.ledger.totals().active_bytes == 0 && self.ledger.version() >= self.anew_from
                {
                    return None;
                }
                let (block, address) = planned.spare(&self.ledger, request)?;
                let block = self.part_at(block, address);
                return Some(self.hand_out(shared, block, request.block_bytes, request));
            }
            Chosen::Registered(policy) => {
                checked_fit(&mut **policy, shared, &self.ledger, request)?
            }
        };
        Some(self.hand_out(shared, fit.block, fit.take_bytes, request))
    }

    /// Hands a free block out, or its front part.
    pub(in crate::pool) fn hand_out(
        &mut self,
        shared: &Shared,
        id: BlockId,
        take_bytes: u64,
        request: &Request,
    ) -> Taken {
        let taken = self.place(id, take_bytes, request);
        self.note_taken(shared, taken, request, take_bytes);
        taken
    }

    #[inline(always)]
    pub(super) fn place(&mut self, id: BlockId, take_bytes: u64, request: &Request) -> Taken {
        let split = self.ledger.take(id, take_bytes, request.requested_bytes);
        let Block { class, address, .. } = self.ledger[id];
        let counted = Counted::new(class, take_bytes, request.requested_bytes);
        self.last.block = id;
        self.last.version = self.ledger.version();
        self.last.block_bytes = request.block_bytes;
        self.last.class = u64::from(request.class);
        self.last.split = split;
        self.count(|tally| tally.taken(counted, split));
        if take_bytes >= self.oversize_from {
            self.count(Tally::oversize_taken);
        }
        Taken { id, ptr: DevicePtr(address) }
    }

    /// Counts a change of free blocks without a block taken or given back.
    pub(in crate::pool) fn note_moved(&self, class: u8, split: SplitChange) {
        self.count(|tally| tally.moved(class, split));
    }

    pub(in crate::pool) fn note_taken(
        &self,
        shared: &Shared,
        taken: Taken,
        request: &Request,
        bytes: u64,
    ) {
        let (address, requested_bytes) = (taken.ptr.0, request.requested_bytes);
        let stream = self.key;
        shared.note(|| TraceEvent::Alloc { address, bytes, requested_bytes, stream });
    }

    /// Lets the next free of the block handed out last be written into the ledger at once.
    pub(in crate::pool) fn forget_last(&mut self) {
        self.last.block = BlockId::NONE;
    }

    /// True for the block handed out last, while nothing else has changed since.
    #[inline(always)]
    pub(super) fn is_last(&self, id: BlockId) -> bool {
        self.last.block == id && self.last.version == self.ledger.version()
    }

    /// True when `request` would get what the block handed out last is.
    #[inline(always)]
    fn is_like_last(&self, request: &Request) -> bool {
        self.last.block_bytes == request.block_bytes && self.last.class == u64::from(request.class)
    }

    /// Takes the block handed out last back, for the next request like it. What that changes is
    /// the opposite of what taking it did, and is counted now; the ledger hears of it when
    /// something else is asked for. True, always.
    #[inline(never)]
    pub(super) fn put_off(&mut self) -> bool {
        let LastTaken { block, split: SplitChange { blocks, bytes }, .. } = self.last;
        let (_, counted) = self.counted(block);
        self.again_bytes = counted.requested_bytes;
        let split = SplitChange { blocks: -blocks, bytes: -bytes };
        self.count(|tally| tally.given_back(counted, split));
        if counted.bytes >= self.oversize_from {
            self.count(Tally::oversize_given_up);
        }
        true
    }

    /// The block freed last, for the same request as before.
    #[inline(never)]
    pub(super) fn take_again(&mut self) -> Taken {
        let LastTaken { block, split, .. } = self.last;
        let (address, counted) = self.counted(block);
        self.again_bytes = 0;
        self.count(|tally| tally.taken(counted, split));
        if counted.bytes >= self.oversize_from {
            self.count(Tally::oversize_taken);
        }
        Taken { id: block, ptr: DevicePtr(address) }
    }

    /// As [`take_again`](Self::take_again), for a request of another size that gets the same.
    fn take_again_for(&mut self, requested_bytes: u64) -> Taken {
        self.ledger.set_requested(self.last.block, requested_bytes);
        self.take_again()
    }

    /// Counts something in the tally of the thread that is inside.
    #[inline]
    pub(super) fn count(&self, count: impl FnOnce(&mut Tally)) {
        // SAFETY: whoever gets at a heap's state is inside it, and on arrival the tally of its
        // thread was put in place. The counting functions call nobody.
        unsafe { self.tally.count(count) };
    }

    /// Takes back a block that only its own stream used, by the way that [`rate`](Self::rate)
    /// allows. False, with nothing done, if there is more to know of it or it is not cached.
    #[inline(never)]
    pub(super) fn free_own(&mut self, id: BlockId) -> bool {
        let Block { bytes, requested_bytes, class, marked, .. } = self.ledger[id];
        if class == DEDICATED_CLASS || marked && !self.free_recorded(id) {
            return false;
        }
        if self.again_bytes != 0 {
            self.settle(0);
        }
        let counted = Counted::new(class, bytes, requested_bytes);
        let split = self.ledger.give_back(id, 0);
        self.count(|tally| tally.given_back(counted, split));
        if bytes >= self.oversize_from {
            self.count(Tally::oversize_given_up);
        }
        true
    }

    /// As [`free_own`](Self::free_own), by address; also false if it is no live block.
    #[inline]
    pub(super) fn free_own_address(&mut self, address: u64) -> bool {
        let Some(id) = self.raw.remove(address) else { return false };
        let freed = if self.is_last(id) { self.put_off() } else { self.free_own(id) };
        if !freed {
            self.raw.insert(address, id);
        }
        freed
    }

    /// Takes a block back from its owner: free at once if only its own stream used it, else
    /// once the other streams are done. False if it is no live block.
    #[inline]
    pub(in crate::pool) fn free(&mut self, shared: &Shared, freed: Freed) -> bool {
        let id = match freed.block {
            Which::Id(id) => id,
            Which::Address(address) => match self.raw.remove(address) {
                Some(id) => id,
                None => return false,
            },
        };
        self.free_id(shared, id, &freed.uses);
        true
    }

    /// Takes a live block back, with what is noted of it.
    fn free_id(&mut self, shared: &Shared, id: BlockId, uses: &[Stream]) {
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
        if bytes >= self.oversize_from {
            self.count(Tally::oversize_given_up);
        }
        self.retire(shared, id, counted, &uses);
    }

    /// Makes a block free that only its own stream used.
    fn give_up(&mut self, shared: &Shared, id: BlockId) {
        let (address, counted) = self.counted(id);
        let (bytes, stream, class) = (counted.bytes, self.key, self.ledger[id].class);
        debug_assert!(self.ledger[id].state == State::Active);
        shared.note(|| TraceEvent::FreeRequested { address, bytes, stream });
        if self.repeats && class != DEDICATED_CLASS && self.is_last(id) {
            self.put_off();
        } else {
            self.settle_pending(shared);
            let split = self.ledger.give_back(id, shared.searches.load(Ordering::Relaxed));
            self.count(|tally| tally.given_back(counted, split));
            if bytes >= self.oversize_from {
                self.count(Tally::oversize_given_up);
            }
            self.finished |= class >= self.uncached_from;
        }
        shared.note(|| TraceEvent::FreeCompleted { address, bytes, stream });
    }

    #[inline(always)]
    pub(super) fn counted(&self, id: BlockId) -> (u64, Counted) {
        let Block { address, bytes, requested_bytes, class, .. } = self.ledger[id];
        (address, Counted::new(class, bytes, requested_bytes))
    }

    /// Writes into the ledger what was put off because the same request might come again.
    #[inline]
    pub(in crate::pool) fn settle_pending(&mut self, shared: &Shared) {
        if self.again_bytes != 0 {
            self.settle(shared.searches.load(Ordering::Relaxed));
        }
    }

    /// Writes into the ledger that the block of `last` is free, as of `now` on the policy's
    /// clock.
    #[inline(never)]
    fn settle(&mut self, now: u64) {
        self.again_bytes = 0;
        let id = std::mem::take(&mut self.last.block);
        // Counted when it was freed, as the opposite of what taking it did.
        let split = self.ledger.give_back(id, now);
        debug_assert_eq!(split.bytes, -self.last.split.bytes);
    }
}

/// True when the expandable policy should look whether it is time to begin anew.
#[inline(always)]
fn may_begin_anew(ledger: &Ledger, anew_from: u64) -> bool {
    ledger.totals().active_bytes == 0 && ledger.version() >= anew_from
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
