//! The ladder a request climbs when nothing cached fits: garbage, growth, room made by the
//! policy, and on the last rung the host waits for the streams, searches again, gives everything
//! cached back and grows. No lock is held while the driver is called or a stream is waited for.

use std::sync::Arc;

use super::allocator::Inner;
use super::heap::{DEDICATED_CLASS, Heap, HeapState, KEPT_CLASS, Taken};
use crate::base::{BiasedGuard, Error, OutOfMemory, Result, align_up, format_bytes};
use crate::device::{DevicePtr, Stream};
use crate::event::TraceEvent;
use crate::fence::StreamKey;
use crate::ledger::{NewSegment, SegmentId};
use crate::policy::{Cached, Chosen, Policy, Pressure, Request};

/// How a request is served when nothing cached fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// By the policy, cached and split.
    Policy,
    /// By a segment of its own, rounded to the device's granularity alone.
    Dedicated,
}

/// A block that was handed out, with its heap still entered.
#[derive(Debug)]
pub(super) struct Served<'a> {
    pub(super) heap: &'a Arc<Heap>,
    pub(super) taken: Taken,
    pub(super) state: BiasedGuard<'a, HeapState>,
}

/// What a request needs of the driver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    pub(super) request: Request,
    pub(super) segment_bytes: u64,
    pub(super) placement: Placement,
}

/// A segment that could go back, with what the policy is told of it.
struct Candidate<'a> {
    heap: &'a Arc<Heap>,
    segment: SegmentId,
    serial: u32,
    seen: Cached,
}

impl Inner {
    /// Serves a request for `bytes` (above 0) on a heap of this allocator, or says why not.
    #[inline]
    pub(super) fn allocate<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        bytes: u64,
        stream: &Stream,
        placement: Placement,
    ) -> Result<Served<'a>> {
        let mut state = heap.enter()?;
        if state.key != StreamKey::of(stream).raw() {
            drop(state);
            return self.allocate_anew(bytes, stream, placement);
        }
        state.poll(&self.shared);
        let request = match (placement, &state.policy) {
            (Placement::Policy, Chosen::Caching(caching)) => caching.request(bytes),
            _ => self.request(&state, bytes, placement),
        };
        let Some(request) = request else {
            return Err(self.refuse(bytes, bytes, state.key));
        };
        if placement == Placement::Policy
            && let Some(taken) = state.reuse(&self.shared, &request)
        {
            return Ok(Served { heap, taken, state });
        }
        drop(state);
        // While this clone is held the heap stays its stream's, once that is seen to be so.
        let held = Arc::clone(heap);
        if held.enter()?.key != StreamKey::of(stream).raw() {
            return self.allocate_anew(bytes, stream, placement);
        }
        self.climb(heap, request, stream, placement)
    }

    /// As [`allocate`](Self::allocate), for a block that keeps its heap.
    #[inline]
    pub(super) fn serve(
        &self,
        heap: &Arc<Heap>,
        bytes: u64,
        stream: &Stream,
        placement: Placement,
    ) -> Result<(Arc<Heap>, Taken)> {
        let Served { heap, taken, .. } = self.allocate(heap, bytes, stream, placement)?;
        Ok((Arc::clone(heap), taken))
    }

    /// The heap was found without a lock and has become another stream's since.
    #[cold]
    fn allocate_anew<'a>(
        &'a self,
        bytes: u64,
        stream: &Stream,
        placement: Placement,
    ) -> Result<Served<'a>> {
        let heap = self.heaps.search(&self.shared, stream)?;
        self.allocate(heap, bytes, stream, placement)
    }

    /// The request as the policy sizes it; `None` if too large to be counted.
    fn request(&self, state: &HeapState, bytes: u64, placement: Placement) -> Option<Request> {
        match placement {
            Placement::Policy => {
                let request = state.policy.request(bytes)?;
                // A policy may be anybody's: a request it makes smaller is refused.
                let sound = request.requested_bytes == bytes
                    && request.block_bytes >= bytes
                    && request.class < KEPT_CLASS;
                sound.then_some(request)
            }
            Placement::Dedicated => {
                let block_bytes = align_up(bytes, self.shared.device.info().granularity_bytes)?;
                Some(Request { requested_bytes: bytes, block_bytes, class: DEDICATED_CLASS })
            }
        }
    }

    #[cold]
    fn climb<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        request: Request,
        stream: &Stream,
        placement: Placement,
    ) -> Result<Served<'a>> {
        let shared = &self.shared;
        if let Some(pool) = &shared.driver_pool {
            return self.climb_driver_pool(pool, heap, request, stream);
        }
        let growth = self.growth(heap, request, placement)?;
        let mut tried = vec!["cached blocks".to_string()];
        let too_large = growth.segment_bytes > shared.most_bytes();
        if shared.conf.throw_on_cudamalloc_oom && self.is_over_limit(growth.segment_bytes) {
            shared.count(|stats| stats.num_oom_rejections += 1);
            tried.push("nothing more, as throw_on_cudamalloc_oom asks".into());
            return Err(self.out_of_memory(heap, &growth, tried));
        }
        if !too_large {
            if let Some(limit_bytes) = shared.limit_bytes {
                self.collect_garbage(heap, limit_bytes)?;
            }
            if let Some(served) = self.grow(heap, stream, &growth)? {
                return Ok(served);
            }
            tried.push(format!("a segment of {}", format_bytes(growth.segment_bytes)));
            if self.make_room(heap, &request, &mut tried)?
                && let Some(served) = self.grow(heap, stream, &growth)?
            {
                return Ok(served);
            }
        }
        self.last_rung(heap, stream, &growth, too_large, tried)
    }

    /// The host waits for what other streams still use, and searches again; then everything
    /// cached goes back. A request that can never fit waits too, as in PyTorch, but nothing
    /// cached is given up for it.
    fn last_rung<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        stream: &Stream,
        growth: &Growth,
        too_large: bool,
        mut tried: Vec<String>,
    ) -> Result<Served<'a>> {
        let shared = &self.shared;
        shared.count(|stats| {
            stats.num_alloc_retries += 1;
            stats.num_sync_all_streams += 1;
        });
        let waited = self.wait_for_retired()?;
        tried.push(format!("waiting for {waited} stream(s)"));
        if too_large {
            let Request { requested_bytes, .. } = growth.request;
            return Err(self.refuse(requested_bytes, growth.segment_bytes, heap.enter()?.key));
        }
        if let Some(served) = self.search_again(heap, growth)? {
            return Ok(served);
        }
        let released = self.release_cached();
        shared.wait_released();
        tried.push(format!("releasing all {released} cached segment(s)"));
        if let Some(served) = self.search_again(heap, growth)? {
            return Ok(served);
        }
        if let Some(served) = self.grow(heap, stream, growth)? {
            return Ok(served);
        }
        Err(self.out_of_memory(heap, growth, tried))
    }

    fn search_again<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        growth: &Growth,
    ) -> Result<Option<Served<'a>>> {
        if growth.placement == Placement::Dedicated {
            return Ok(None);
        }
        let mut state = heap.enter()?;
        state.poll(&self.shared);
        Ok(state.reuse(&self.shared, &growth.request).map(|taken| Served { heap, taken, state }))
    }

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

    /// Gives everything cached back to the driver, waiting for its streams. Gives how many
    /// segments that were.
    pub(super) fn release_cached(&self) -> usize {
        let candidates = self.candidates(None);
        let released = candidates.len();
        self.release(candidates);
        released
    }

    /// Every wholly free segment, by class, the largest class first, then by stream.
    fn candidates(&self, asking: Option<&Arc<Heap>>) -> Vec<Candidate<'_>> {
        let now = self.shared.searches.load(std::sync::atomic::Ordering::Relaxed);
        let mut candidates = Vec::new();
        for heap in self.heaps.all() {
            let Ok(mut state) = heap.enter() else { continue };
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
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.seen.class));
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
    fn collect_garbage(&self, heap: &Arc<Heap>, limit_bytes: u64) -> Result<()> {
        let candidates = self.candidates(Some(heap));
        let seen: Vec<Cached> = candidates.iter().map(|candidate| candidate.seen).collect();
        let pressure = Pressure { reserved_bytes: self.shared.held_bytes(), limit_bytes };
        let garbage = heap.enter()?.policy.garbage(&seen, &pressure);
        self.release_chosen(candidates, &garbage);
        Ok(())
    }

    /// Gives back what the policy gives up for `request`; true if that was enough for it.
    fn make_room(
        &self,
        heap: &Arc<Heap>,
        request: &Request,
        tried: &mut Vec<String>,
    ) -> Result<bool> {
        let candidates = self.candidates(Some(heap));
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

    fn growth(&self, heap: &Heap, request: Request, placement: Placement) -> Result<Growth> {
        let segment_bytes = match placement {
            Placement::Dedicated => request.block_bytes,
            Placement::Policy => {
                let wanted_bytes = heap.enter()?.policy.segment_bytes(&request);
                // What the device really takes counts against the limit.
                let granularity_bytes = self.shared.device.info().granularity_bytes;
                align_up(wanted_bytes.max(request.block_bytes), granularity_bytes)
                    .unwrap_or(u64::MAX)
            }
        };
        Ok(Growth { request, segment_bytes, placement })
    }

    fn is_over_limit(&self, segment_bytes: u64) -> bool {
        self.shared
            .limit_bytes
            .is_some_and(|limit| self.shared.held_bytes().saturating_add(segment_bytes) > limit)
    }

    /// Takes a segment from the device within the limit and serves the request from it; `None`
    /// if limit or device say "full".
    pub(super) fn grow<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        stream: &Stream,
        growth: &Growth,
    ) -> Result<Option<Served<'a>>> {
        let shared = &self.shared;
        let Growth { request, segment_bytes, placement } = growth;
        if !shared.promise(*segment_bytes) {
            return Ok(None);
        }
        let address = match shared.take_memory(*segment_bytes, stream) {
            Ok(DevicePtr(address)) => address,
            Err(error) => {
                shared.promise_broken(*segment_bytes);
                return if error.is_out_of_memory() { Ok(None) } else { Err(error.into()) };
            }
        };
        shared.enter_addresses(address, *segment_bytes, heap.number);
        let mut state = heap.enter()?;
        state.settle_pending(shared);
        state.stream.get_or_insert_with(|| stream.clone());
        let (bytes, key) = (*segment_bytes, state.key);
        let serial = shared.next_serial();
        let segment = NewSegment { address, bytes, class: request.class, stream: key, serial };
        let block = state.ledger.add_segment(segment, 0);
        shared.promise_kept(request.class, bytes);
        tracing::debug!(bytes, stream = key, "took a segment");
        shared.note(|| TraceEvent::SegmentAlloc { address, bytes, stream: key });
        let take_bytes = match placement {
            Placement::Dedicated => bytes,
            Placement::Policy => {
                let wanted_bytes = state.policy.take_of_segment(bytes, request);
                wanted_bytes.clamp(request.block_bytes, bytes)
            }
        };
        let taken = state.hand_out(shared, block, take_bytes, request);
        Ok(Some(Served { heap, taken, state }))
    }

    /// The error for a request that no freeing could serve, counted and shown.
    #[cold]
    pub(super) fn refuse(&self, requested_bytes: u64, segment_bytes: u64, stream: u64) -> Error {
        let shared = &self.shared;
        shared.count(|stats| stats.num_ooms += 1);
        self.note_failure(requested_bytes, stream);
        Error::TooLarge {
            what: format!(
                "{}: a request for {}",
                shared.device.info().name,
                format_bytes(requested_bytes)
            ),
            requested_bytes: segment_bytes,
            available_bytes: shared.most_bytes(),
            way_out: match shared.limit_bytes {
                Some(_) => "raise the limit or ask for less".into(),
                None => "ask for less or take a larger device".into(),
            },
        }
    }

    /// Shows a failed request to the recorder; gives what the device has free.
    fn note_failure(&self, requested_bytes: u64, stream: u64) -> u64 {
        let shared = &self.shared;
        let device_free_bytes = shared.device.memory().map_or(0, |memory| memory.free_bytes);
        shared.note(|| TraceEvent::OutOfMemory { requested_bytes, device_free_bytes, stream });
        device_free_bytes
    }

    #[cold]
    pub(super) fn out_of_memory(&self, heap: &Heap, growth: &Growth, tried: Vec<String>) -> Error {
        let shared = &self.shared;
        shared.count(|stats| stats.num_ooms += 1);
        let Request { requested_bytes, class, .. } = growth.request;
        let (stream, largest_free_bytes) = heap
            .enter()
            .map_or((0, 0), |state| (state.key, state.ledger.largest_free_bytes(class)));
        let device_free_bytes = self.note_failure(requested_bytes, stream);
        let stats = self.stats();
        Error::OutOfMemory(Box::new(OutOfMemory {
            device: shared.device.info().name.clone(),
            requested_bytes,
            segment_bytes: growth.segment_bytes,
            limit_bytes: shared.limit_bytes,
            reserved_bytes: stats.reserved_bytes.all.current,
            active_bytes: stats.allocated_bytes.all.current,
            retired_bytes: stats.retired_bytes,
            largest_free_bytes,
            device_free_bytes,
            tried,
        }))
    }
}
