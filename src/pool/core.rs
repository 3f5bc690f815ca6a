//! What is behind an allocator's lock: the ledger, the policy, what is retired, the counters.
//! Every method leaves it whole; none waits for a stream.

use std::collections::HashMap;
use std::sync::Arc;

use super::stats::Stats;
use crate::base::Result;
use crate::device::{Device, DevicePtr, Event, Stream};
use crate::event::{Recorder, TraceEvent};
use crate::fence::{EventPool, RetireQueue, StreamKey};
use crate::ledger::{BlockId, Ledger, NewSegment, SegmentId, State};
use crate::policy::{Policy, Request};

/// The class of dedicated segments; no policy uses it.
const DEDICATED_CLASS: u8 = u8::MAX;
/// The class of segments the driver would not take back; nothing is served from them.
pub(super) const KEPT_CLASS: u8 = u8::MAX - 1;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) ledger: Ledger,
    pub(super) policy: Box<dyn Policy>,
    pub(super) retired: RetireQueue<BlockId>,
    pub(super) stats: Stats,
    pub(super) recorder: Option<Arc<dyn Recorder>>,
    /// The stream each segment was made for, kept alive so that its handle names no other.
    owners: HashMap<SegmentId, Stream>,
    /// Other streams that use a raw block, by its address.
    raw_uses: HashMap<u64, Vec<Stream>>,
    /// Left the ledger, not yet back with the driver. Still reserved.
    pub(super) releasing_bytes: u64,
}

/// A segment that left the ledger on its way back to the driver.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) ptr: DevicePtr,
    pub(super) bytes: u64,
    pub(super) stream: Stream,
}

/// A block given up by its owner.
#[derive(Debug)]
pub(super) struct Freed {
    pub(super) address: u64,
    /// Streams other than its own that used it.
    pub(super) uses: Vec<Stream>,
}

impl Core {
    pub(super) fn new(policy: Box<dyn Policy>, recorder: Option<Arc<dyn Recorder>>) -> Self {
        Self {
            ledger: Ledger::default(),
            policy,
            retired: RetireQueue::default(),
            stats: Stats::default(),
            recorder,
            owners: HashMap::new(),
            raw_uses: HashMap::new(),
            releasing_bytes: 0,
        }
    }

    /// Held from the device.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.ledger.totals().reserved_bytes + self.releasing_bytes
    }

    /// Serves `request` from what is cached. A policy may be anybody's, so what it says is
    /// checked: memory is never handed out twice on its word.
    pub(super) fn reuse(&mut self, request: &Request) -> Option<DevicePtr> {
        let fit = self.policy.fit(&self.ledger, request)?;
        let sound = self.ledger.get(fit.block).is_some_and(|block| {
            let segment = &self.ledger[block.segment];
            block.state == State::Free
                && (segment.class, segment.stream) == (request.class, request.stream)
                && (request.requested_bytes..=block.bytes).contains(&fit.take_bytes)
        });
        if !sound {
            tracing::error!(?fit, ?request, "the policy chose a block that does not fit");
            return None;
        }
        Some(self.hand_out(fit.block, fit.take_bytes, request.requested_bytes))
    }

    /// Takes a segment from the device and serves `request` from it.
    pub(super) fn grow(
        &mut self,
        device: &Device,
        stream: &Stream,
        request: &Request,
        segment_bytes: u64,
    ) -> Result<DevicePtr> {
        let wanted_bytes = self.policy.take_of_segment(segment_bytes, request);
        let take_bytes = wanted_bytes.clamp(request.block_bytes, segment_bytes);
        let segment = NewSegment {
            address: 0,
            bytes: segment_bytes,
            class: request.class,
            stream: request.stream,
        };
        let block = self.add_segment(device, stream, segment)?;
        Ok(self.hand_out(block, take_bytes, request.requested_bytes))
    }

    /// Takes a segment from the device for one block of its own size.
    pub(super) fn grow_dedicated(
        &mut self,
        device: &Device,
        stream: &Stream,
        request: &Request,
    ) -> Result<DevicePtr> {
        let segment = NewSegment {
            address: 0,
            bytes: request.block_bytes,
            class: DEDICATED_CLASS,
            stream: request.stream,
        };
        let block = self.add_segment(device, stream, segment)?;
        Ok(self.hand_out(block, request.block_bytes, request.requested_bytes))
    }

    fn add_segment(
        &mut self,
        device: &Device,
        stream: &Stream,
        segment: NewSegment,
    ) -> Result<BlockId> {
        let address = device.driver().alloc(segment.bytes)?.0;
        let block = self.ledger.add_segment(NewSegment { address, ..segment }, self.policy.clock());
        self.owners.insert(self.ledger[block].segment, stream.clone());
        self.stats.segment.add(1);
        self.stats.reserved_bytes.add(segment.bytes);
        self.stats.num_device_alloc += 1;
        let NewSegment { bytes, stream, .. } = segment;
        tracing::debug!(bytes, stream, "took a segment");
        self.note(|| TraceEvent::SegmentAlloc { address, bytes, stream });
        Ok(block)
    }

    fn hand_out(&mut self, block: BlockId, bytes: u64, requested_bytes: u64) -> DevicePtr {
        self.ledger.take(block, bytes, requested_bytes);
        let address = self.ledger[block].address;
        self.stats.allocation.add(1);
        self.stats.active.add(1);
        self.stats.allocated_bytes.add(bytes);
        self.stats.active_bytes.add(bytes);
        self.stats.requested_bytes.add(requested_bytes);
        let stream = self.stream_of(block);
        self.note(|| TraceEvent::Alloc { address, bytes, requested_bytes, stream });
        DevicePtr(address)
    }

    /// Notes that `stream` uses the raw block at `address`. False if there is none.
    pub(super) fn note_raw_use(&mut self, address: u64, stream: &Stream) -> bool {
        let known = self.ledger.at(address).filter(|&id| self.ledger[id].state == State::Active);
        if known.is_some() {
            let uses = self.raw_uses.entry(address).or_default();
            if !uses.contains(stream) {
                uses.push(stream.clone());
            }
        }
        known.is_some()
    }

    /// Takes a block back from its owner: free at once if only its own stream used it, else
    /// once the other streams are done. False if `address` is no live block.
    pub(super) fn free(&mut self, freed: Freed, events: &EventPool) -> bool {
        let Some(id) = self.ledger.at(freed.address) else { return false };
        let block = &self.ledger[id];
        if block.state != State::Active {
            return false;
        }
        let (bytes, requested_bytes) = (block.bytes, block.requested_bytes);
        let (address, stream) = (freed.address, self.stream_of(id));
        self.note(|| TraceEvent::FreeRequested { address, bytes, stream });
        self.stats.allocation.take_off(1);
        self.stats.allocated_bytes.take_off(bytes);
        self.stats.requested_bytes.take_off(requested_bytes);
        let mut uses = self.raw_uses.remove(&address).unwrap_or_default();
        uses.extend(freed.uses);
        uses.retain(|used| StreamKey::of(used).raw() != stream);
        if uses.is_empty() {
            self.settle(id);
        } else {
            self.ledger.retire(id);
            self.retired.retire(id, &uses, events);
        }
        true
    }

    /// Makes free what other streams are done with. One query for each stream waited for.
    pub(super) fn poll(&mut self, events: &EventPool) {
        if self.retired.waiting_count() + self.retired.stranded_count() == 0 {
            return;
        }
        let mut done = Vec::new();
        self.retired.poll(events, |id| done.push(id));
        done.into_iter().for_each(|id| self.settle(id));
    }

    /// Counts as free what other streams still use: for when nothing is handed out any more.
    /// Gives the events to wait for before any of it goes back to the driver.
    pub(super) fn settle_retired(&mut self) -> Vec<Arc<Event>> {
        let (blocks, pending) = self.retired.take_waiting();
        blocks.into_iter().for_each(|id| self.settle(id));
        pending
    }

    fn settle(&mut self, id: BlockId) {
        let (address, bytes) = (self.ledger[id].address, self.ledger[id].bytes);
        let stream = self.stream_of(id);
        self.stats.active.take_off(1);
        self.stats.active_bytes.take_off(bytes);
        self.ledger.give_back(id, self.policy.clock());
        self.note(|| TraceEvent::FreeCompleted { address, bytes, stream });
    }

    /// Every cached segment that is wholly free, largest class first as PyTorch does it.
    pub(super) fn releasable(&self) -> Vec<SegmentId> {
        let classes = self.ledger.classes();
        let blocks = classes.iter().rev().flat_map(|&class| self.ledger.releasable(class));
        blocks.map(|id| self.ledger[id].segment).collect()
    }

    /// Dedicated segments that are out of use.
    pub(super) fn finished_dedicated(&self) -> Vec<SegmentId> {
        let blocks = self.ledger.releasable(DEDICATED_CLASS);
        blocks.map(|id| self.ledger[id].segment).collect()
    }

    /// Takes wholly free segments out of the ledger; they stay reserved until
    /// [`released`](Self::released).
    pub(super) fn detach(&mut self, ids: Vec<SegmentId>) -> Vec<Detached> {
        let mut detached = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(segment) = self.ledger.remove_segment(id) else { continue };
            let Some(stream) = self.owners.remove(&id) else { continue };
            self.releasing_bytes += segment.bytes;
            let ptr = DevicePtr(segment.address);
            detached.push(Detached { ptr, bytes: segment.bytes, stream });
        }
        detached
    }

    /// Counts a detached segment as back with the driver.
    pub(super) fn released(&mut self, segment: &Detached) {
        self.releasing_bytes -= segment.bytes;
        self.stats.segment.take_off(1);
        self.stats.reserved_bytes.take_off(segment.bytes);
        self.stats.num_device_free += 1;
        let stream = StreamKey::of(&segment.stream).raw();
        let (address, bytes) = (segment.ptr.0, segment.bytes);
        tracing::debug!(bytes, stream, "gave a segment back");
        self.note(|| TraceEvent::SegmentFree { address, bytes, stream });
    }

    /// Enters a detached segment again, because the driver did not take it back. It serves
    /// nobody; giving everything cached back tries it again.
    pub(super) fn keep(&mut self, segment: Detached) {
        self.releasing_bytes -= segment.bytes;
        let kept = NewSegment {
            address: segment.ptr.0,
            bytes: segment.bytes,
            class: KEPT_CLASS,
            stream: StreamKey::of(&segment.stream).raw(),
        };
        let block = self.ledger.add_segment(kept, 0);
        self.owners.insert(self.ledger[block].segment, segment.stream);
    }

    pub(super) fn snapshot(&self) -> Stats {
        Stats {
            retired_bytes: self.ledger.totals().retired_bytes,
            stranded_blocks: self.retired.stranded_count() as u64,
            ..self.stats
        }
    }

    /// Proves ledger and counters against each other.
    pub(super) fn check(&self) -> Result<(), String> {
        self.ledger.check()?;
        let totals = self.ledger.totals();
        let stats = &self.stats;
        let agree = stats.reserved_bytes.current == self.reserved_bytes()
            && stats.active_bytes.current == totals.active_bytes + totals.retired_bytes
            && stats.allocated_bytes.current == totals.active_bytes;
        if !agree {
            return Err(format!("counters are {stats:?}, the ledger says {totals:?}"));
        }
        Ok(())
    }

    fn stream_of(&self, id: BlockId) -> u64 {
        self.ledger[self.ledger[id].segment].stream
    }

    pub(super) fn note(&self, event: impl FnOnce() -> TraceEvent) {
        if let Some(recorder) = &self.recorder {
            recorder.record(&event());
        }
    }
}
