//! The quick way into a heap: for the thread that owns it, while nothing has to be done first.
//! Whether that is so is found out on the long way and kept as one word, which is all that is
//! looked at here.

use std::sync::Arc;

use super::super::shared::Shared;
use super::{DEDICATED_CLASS, Freed, Heap, HeapState, NOBODY, Taken, Which};
use crate::base::thread_token_if_any;
use crate::device::DevicePtr;
use crate::ledger::BlockId;
use crate::policy::Chosen;

impl Heap {
    /// A block for `bytes`, where that takes nothing but looking at what is free: the calling
    /// thread owns the heap, nothing waits to be done, and a free block fits. The heap must be
    /// that of the stream asked for.
    #[inline(always)]
    pub(in crate::pool) fn take_quickly(&self, bytes: u64) -> Option<Taken> {
        let me = thread_token_if_any();
        let mut state = self.state.as_owner(me)?;
        self.find(state.get(), me, bytes).some()
    }

    /// As [`take_quickly`](Self::take_quickly), if the heap is that of the stream of `key`.
    #[inline]
    pub(in crate::pool) fn take_quickly_for(&self, bytes: u64, key: u64) -> Option<Taken> {
        let me = thread_token_if_any();
        let mut state = self.state.as_owner(me)?;
        let state = state.get();
        if state.key != key {
            return None;
        }
        self.find(state, me, bytes).some()
    }

    /// As [`take_quickly_for`](Self::take_quickly_for), for frees by address.
    #[inline(always)]
    pub(in crate::pool) fn take_raw_quickly(&self, bytes: u64, key: u64) -> Option<DevicePtr> {
        let me = thread_token_if_any();
        let mut state = self.state.as_owner(me)?;
        let state = state.get();
        if state.key != key {
            return None;
        }
        let taken = self.find(state, me, bytes).some()?;
        state.note_raw(taken);
        Some(taken.ptr)
    }

    #[inline(always)]
    fn find(&self, state: &mut HeapState, me: u64, bytes: u64) -> Taken {
        if state.quick_taker != me || self.mail.has_any() {
            return Taken::NONE;
        }
        if state.again_bytes == bytes { state.take_again() } else { state.take_fitting(bytes) }
    }

    /// Takes a block back, if the calling thread owns the heap and nothing waits to be done.
    /// False if not: nothing has happened then.
    #[inline(always)]
    fn free_quickly(&self, id: BlockId) -> bool {
        let me = thread_token_if_any();
        let Some(mut state) = self.state.as_owner(me) else { return false };
        let state = state.get();
        if state.quick_freer != me {
            return false;
        }
        if state.is_last(id) { state.put_off() } else { state.free_own(id) }
    }

    /// Takes a block back without ever waiting.
    #[inline(always)]
    pub(in crate::pool) fn free_block(self: &Arc<Self>, id: BlockId) {
        if !self.free_quickly(id) {
            self.free_slowly(id);
        }
    }

    #[cold]
    #[inline(never)]
    fn free_slowly(self: &Arc<Self>, id: BlockId) {
        self.free(Freed { block: Which::Id(id), uses: Vec::new() });
    }

    /// As [`free_block`](Self::free_block), by address. False if it is known to be no live block.
    #[inline]
    pub(in crate::pool) fn free_address(self: &Arc<Self>, address: u64) -> bool {
        let me = thread_token_if_any();
        if let Some(mut state) = self.state.as_owner(me)
            && state.get().quick_freer == me
            && state.get().free_own_address(address)
        {
            return true;
        }
        self.free(Freed { block: Which::Address(address), uses: Vec::new() })
    }
}

impl HeapState {
    /// Says whether the thread that is inside may go the quick way from now on.
    #[inline]
    pub(in crate::pool) fn rate(&mut self, shared: &Shared) {
        let is_known = match &self.policy {
            Chosen::Caching(_) | Chosen::Expandable(_) => self.repeats,
            Chosen::Planned(_) => true,
            Chosen::Registered(_) => false,
        };
        let is_plain = is_known
            && !self.finished
            && self.uncached_from == DEDICATED_CLASS
            && shared.recorder.is_none();
        self.quick_freer = if is_plain { self.tally_of } else { NOBODY };
        // Blocks that other streams use are looked after before a block is taken.
        self.quick_taker = if self.retired.is_empty() { self.quick_freer } else { NOBODY };
    }
}
