//! What the ladder takes back: it waits for what other streams use, and gives cached segments to
//! the driver, all of them or those that the policy chooses.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::allocator::Inner;
use super::expandable::{Expandable, Release};
use super::heap::Heap;
use super::private::PoolInfo;
use crate::base::Result;
use crate::ledger::SegmentId;
use crate::policy::{Cached, Pressure, Request};

/// A segment that could go back, with what the policy is told of it.
struct Candidate<'a> {
    heap: &'a Arc<Heap>,
    segment: SegmentId,
    serial: u32,
    seen: Cached,
}

/// True for pools whose cached segments may go back to the driver for somebody else's sake.
pub(super) fn may_go(pool: Option<&PoolInfo>) -> bool {
    pool.is_none_or(|pool| !pool.keeps_cache())
}

impl Inner {
    /// Waits until no stream uses any more what was freed by now. Gives how many marks were
    /// waited for.
    pub(super) fn wait_for_retired(&self) -> Result<usize> {
        let mut waited = 0;
        for heap in self.heaps.all() {
            let pending = heap.enter()?.retired.pending();
            waited += pending.len();
            for event in pending {
                event.synchronize()?;
            }
            heap.enter()?.poll(&self.shared);
        }
        Ok(waited)
    }

    /// Gives everything cached in `pools` back to the driver, waiting for its streams; of the
    /// handles of `but` only what the driver refused before. Gives how many segments and handles
    /// that were.
    pub(super) fn release_cached(
        &self,
        pools: impl Fn(Option<&PoolInfo>) -> bool,
        but: Option<&Arc<Expandable>>,
    ) -> usize {
        if self.shared.captures.any() {
            return 0;
        }
        let candidates = self.candidates(None, &pools);
        let mut released = candidates.len();
        self.release(candidates);
        for book in self.books(&pools) {
            let spared = but.is_some_and(|but| Arc::ptr_eq(but, &book));
            let what = if spared { Release::Refused } else { Release::Free };
            released += book.release(&self.shared, what);
        }
        released
    }

    /// The physical memory of `pools`, by pool.
    pub(super) fn books(&self, pools: impl Fn(Option<&PoolInfo>) -> bool) -> Vec<Arc<Expandable>> {
        if self.shared.expandable.is_none() {
            return Vec::new();
        }
        let mut books = BTreeMap::new();
        for heap in self.heaps.all() {
            let Ok(state) = heap.enter() else { continue };
            if pools(state.pool.as_deref())
                && let Some(book) = state.expandable(&self.shared)
            {
                books.insert(state.pool_id(), book);
            }
        }
        books.into_values().collect()
    }

    /// Every wholly free segment of `pools`, by class, the largest class first, then by stream.
    fn candidates(
        &self,
        asking: Option<&Arc<Heap>>,
        pools: impl Fn(Option<&PoolInfo>) -> bool,
    ) -> Vec<Candidate<'_>> {
        let now = self.shared.searches.load(Ordering::Relaxed);
        let mut candidates = Vec::new();
        for heap in self.heaps.all() {
            let Ok(mut state) = heap.enter() else { continue };
            if !pools(state.pool.as_deref()) {
                continue;
            }
            state.settle_pending(&self.shared);
            for (segment, serial, block) in state.releasable() {
                let block = &state.ledger[block];
                let seen = Cached {
                    bytes: block.bytes,
                    class: block.class,
                    own_stream: asking.is_some_and(|asking| Arc::ptr_eq(asking, heap)),
                    age: now.saturating_sub(block.freed_at),
                };
                candidates.push(Candidate { heap, segment, serial, seen });
            }
        }
        // Stable: within a class in the order of the heaps and of their indexes.
        candidates.sort_by_key(|candidate| Reverse(candidate.seen.class));
        candidates
    }

    fn release(&self, candidates: Vec<Candidate<'_>>) {
        for candidate in candidates {
            let Candidate { heap, segment, serial, .. } = candidate;
            let Ok(mut state) = heap.enter() else { continue };
            let detached = heap.detach(&mut state, segment, serial);
            drop(state);
            heap.give_back(detached.into_iter().collect());
        }
    }

    /// Gives back what the policy calls garbage.
    pub(super) fn collect_garbage(&self, heap: &Arc<Heap>, limit_bytes: u64) -> Result<()> {
        let candidates = self.candidates(Some(heap), |pool| pool.is_none());
        let seen: Vec<Cached> = candidates.iter().map(|candidate| candidate.seen).collect();
        let pressure = Pressure { reserved_bytes: self.shared.held_bytes(), limit_bytes };
        let garbage = heap.enter()?.policy.garbage(&seen, &pressure);
        self.release_chosen(candidates, &garbage);
        Ok(())
    }

    /// Gives back what the policy gives up for `request`; true if that was enough for it.
    pub(super) fn make_room(
        &self,
        heap: &Arc<Heap>,
        request: &Request,
        tried: &mut Vec<String>,
    ) -> Result<bool> {
        let candidates = self.candidates(Some(heap), may_go);
        let seen: Vec<Cached> = candidates.iter().map(|candidate| candidate.seen).collect();
        let room = heap.enter()?.policy.make_room(&seen, request);
        if room.is_empty() {
            return Ok(false);
        }
        tried.push(format!("releasing {} oversize segment(s)", room.len()));
        let room_bytes = self.release_chosen(candidates, &room);
        Ok(room_bytes >= request.block_bytes)
    }

    /// Releases the candidates at the places chosen; places that are none are passed over.
    fn release_chosen(&self, candidates: Vec<Candidate<'_>>, chosen: &[usize]) -> u64 {
        let mut candidates: Vec<_> = candidates.into_iter().map(Some).collect();
        let chosen: Vec<_> =
            chosen.iter().filter_map(|&at| candidates.get_mut(at)?.take()).collect();
        let bytes = chosen.iter().map(|candidate| candidate.seen.bytes).sum();
        self.release(chosen);
        bytes
    }
}
