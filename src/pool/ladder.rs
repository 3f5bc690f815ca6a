//! The ladder a request climbs when nothing cached fits: garbage, growth, room made by the
//! policy, and on the last rung the host waits for the streams, searches again, gives everything
//! cached back and grows. No lock is held while the driver is called or a stream is waited for.

use std::sync::Arc;

use super::allocator::Inner;
use super::heap::{DEDICATED_CLASS, Heap, HeapState, KEPT_CLASS, Taken};
use super::heaps::{forget_last, too_many};
use super::reclaim::may_go;
use crate::base::{BiasedGuard, Result, align_up, format_bytes};
use crate::device::{DevicePtr, Stream};
use crate::event::TraceEvent;
use crate::fence::StreamKey;
use crate::ledger::NewSegment;
use crate::policy::{Chosen, Policy, Request};

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
    /// Served by handles that are mapped, not by a segment.
    pub(super) maps: bool,
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
            return self.allocate_anew(heap, bytes, stream, placement);
        }
        state.poll(&self.shared);
        state.rate(&self.shared);
        let request = match (placement, &state.policy) {
            (Placement::Policy, Chosen::Caching(caching)) => caching.request(bytes),
            (Placement::Policy, Chosen::Expandable(expandable)) => expandable.request(bytes),
            (Placement::Policy, Chosen::Planned(planned)) => planned.request(bytes),
            _ => self.request(&state, bytes, placement),
        };
        let Some(request) = request else {
            let stream = state.key;
            drop(state);
            return Err(self.refuse(bytes, bytes, stream));
        };
        if placement == Placement::Policy {
            if matches!(state.policy, Chosen::Planned(_)) {
                if let Some(taken) = state.follow(bytes) {
                    let block_bytes = state.ledger[taken.id].bytes;
                    state.note_taken(&self.shared, taken, &request, block_bytes);
                    return Ok(Served { heap, taken, state });
                }
                drop(state);
                return self.allocate_planned(heap, &request, stream);
            }
            if let Some(taken) = state.reuse(&self.shared, &request) {
                return Ok(Served { heap, taken, state });
            }
        }
        drop(state);
        // While this clone is held the heap stays its stream's, once that is seen to be so.
        let held = Arc::clone(heap);
        if held.enter()?.key != StreamKey::of(stream).raw() {
            return self.allocate_anew(heap, bytes, stream, placement);
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
        if placement == Placement::Policy
            && let Some(taken) = heap.take_quickly_for(bytes, StreamKey::of(stream).raw())
        {
            return Ok((Arc::clone(heap), taken));
        }
        let Served { heap, taken, .. } = self.allocate(heap, bytes, stream, placement)?;
        Ok((Arc::clone(heap), taken))
    }

    /// The heap was found without a lock and has become another stream's since, or the stream is
    /// another one on this thread: as [`allocate`](Self::allocate), from the same pool.
    #[cold]
    pub(super) fn allocate_anew<'a>(
        &'a self,
        heap: &Heap,
        bytes: u64,
        stream: &Stream,
        placement: Placement,
    ) -> Result<Served<'a>> {
        forget_last();
        let pool = heap.enter()?.pool.clone();
        let held = self.heaps.of_pool(&self.shared, pool.as_ref(), stream)?;
        let heap = self.heaps.get(held.number).ok_or_else(too_many)?;
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
    pub(super) fn climb<'a>(
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
        // What was said to others is no news here.
        shared.take_refusal();
        let too_large = growth.segment_bytes > shared.most_bytes();
        if growth.maps {
            // Takes nothing from anybody, so it comes before whatever gives memory back.
            if !too_large && let Some(served) = self.grow(heap, stream, &growth)? {
                return Ok(served);
            }
            tried.push("free memory mapped together".into());
        }
        if shared.conf.throw_on_cudamalloc_oom && self.is_over_limit(growth.segment_bytes) {
            shared.count(|stats| stats.num_oom_rejections += 1);
            tried.push("nothing more, as throw_on_cudamalloc_oom asks".into());
            return Err(self.out_of_memory(heap, &growth, tried));
        }
        if !too_large {
            if !growth.maps {
                if let Some(limit_bytes) = shared.limit_bytes.filter(|_| !shared.captures.any()) {
                    self.collect_garbage(heap, limit_bytes)?;
                }
                if let Some(served) = self.grow(heap, stream, &growth)? {
                    return Ok(served);
                }
                tried.push(format!("a segment of {}", format_bytes(growth.segment_bytes)));
            }
            if let Some(served) = self.borrow(heap, stream, &growth, &mut tried)? {
                return Ok(served);
            }
            if !shared.captures.any()
                && self.make_room(heap, &request, &mut tried)?
                && let Some(served) = self.grow(heap, stream, &growth)?
            {
                return Ok(served);
            }
            if let Some(served) = self.ask_callbacks(heap, stream, &growth, &mut tried)? {
                return Ok(served);
            }
        }
        if shared.captures.any() {
            tried.push("nothing more, as a graph is captured".into());
            return Err(match too_large {
                true => self.refuse(request.requested_bytes, growth.segment_bytes, heap.key()?),
                false => self.out_of_memory(heap, &growth, tried),
            });
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
            return Err(self.refuse(requested_bytes, growth.segment_bytes, heap.key()?));
        }
        if let Some(served) = self.search_again(heap, growth)? {
            return Ok(served);
        }
        // To make its own handles anew would serve no request that mapping them does not.
        let own = if growth.maps { heap.enter()?.expandable(shared) } else { None };
        let released = self.release_cached(may_go, own.as_ref());
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

    /// Serves a request of the default pool from what private pools lend.
    fn borrow<'a>(
        &'a self,
        heap: &Heap,
        stream: &Stream,
        growth: &Growth,
        tried: &mut Vec<String>,
    ) -> Result<Option<Served<'a>>> {
        if growth.placement == Placement::Dedicated || heap.enter()?.pool.is_some() {
            return Ok(None);
        }
        let lending = self.heaps.lending(stream);
        for lender in &lending {
            let Some(lender) = self.heaps.get(lender.number) else { continue };
            if let Some(served) = self.search_again(lender, growth)? {
                return Ok(Some(served));
            }
        }
        if !lending.is_empty() {
            tried.push(format!("{} private pool(s) that lend", lending.len()));
        }
        Ok(None)
    }

    /// Lets the user's callbacks free something, and tries again if one did.
    pub(super) fn ask_callbacks<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        stream: &Stream,
        growth: &Growth,
        tried: &mut Vec<String>,
    ) -> Result<Option<Served<'a>>> {
        let Growth { request, segment_bytes, .. } = *growth;
        let key = heap.key()?;
        let shortage = || self.shortage(request.requested_bytes, segment_bytes, key);
        if !self.shared.hooks.ask(shortage) {
            return Ok(None);
        }
        tried.push("memory that callbacks freed".into());
        match self.search_again(heap, growth)? {
            Some(served) => Ok(Some(served)),
            None => self.grow(heap, stream, growth),
        }
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
        let maps = placement == Placement::Policy && heap.enter()?.policy.maps();
        Ok(Growth { request, segment_bytes, placement, maps })
    }

    fn is_over_limit(&self, segment_bytes: u64) -> bool {
        self.shared
            .limit_bytes
            .is_some_and(|limit| self.shared.held_bytes().saturating_add(segment_bytes) > limit)
    }

    /// As [`grow`](Self::grow), by mapping free memory together and taking handles.
    fn map<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        stream: &Stream,
        request: &Request,
    ) -> Result<Option<Served<'a>>> {
        let Some(expandable) = heap.enter()?.expandable(&self.shared) else { return Ok(None) };
        let taken = expandable.serve(&self.shared, heap, stream, request)?;
        taken.map(|taken| Ok(Served { heap, taken, state: heap.enter()? })).transpose()
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
        let Growth { request, segment_bytes, placement, maps } = growth;
        if *maps {
            return self.map(heap, stream, request);
        }
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
        shared.promise_kept(state.pool_id(), request.class, bytes);
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
        // No search found it, and none may: an oversize block serves no small request.
        state.forget_last();
        Ok(Some(Served { heap, taken, state }))
    }
}
