//! The thread behind a ring of pinned slots: fills them, has a stream drain them, and tells of
//! copies that ended.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, TryRecvError};

use super::insist::insist;
use super::queue::Queue;
use super::request::Request;
use super::span::{Span, Spans};
use super::staging::{Job, Owned, Source};
use super::tail::open;
use super::way::Way;
use crate::base::{Error, KIB, Result};
use crate::device::{Event, Gate, Gathered, Priority, Stores, Stream, gather_striped};
use crate::pinned::{AdoptedMemory, AdoptedPiece, PinnedBlock, PinnedPool};
use crate::transfer::Urgency;

/// Slots of the ring: one is filled, one drained, one covers whichever is late. Copies with no
/// slot count too, so that no more is on its way.
const SLOTS: usize = 3;
/// The smallest slot worth a copy, where the pinned budget is tight.
const MIN_SLOT_BYTES: u64 = 64 * KIB;

/// What the thread has.
pub(super) struct Slots {
    stream: Stream,
    gate: Arc<Gate>,
    queue: Arc<Queue>,
    urgency: Urgency,
    pool: PinnedPool,
    threads: usize,
    idle: Vec<PinnedBlock>,
    marks: Vec<Event>,
    /// What the stream was given, the oldest first.
    busy: VecDeque<Draining>,
    slot_bytes: u64,
    /// Of the chunk in hand, kept for their memory.
    pieces: Vec<Gathered>,
    spans: Vec<Span>,
}

/// A chunk with the device.
struct Draining {
    /// The slot it is in; none for what was pinned.
    slot: Option<PinnedBlock>,
    mark: Event,
    request: Arc<Request>,
    bytes: u64,
    /// How the copy ended and its turn, behind its last chunk.
    end: Option<(Result<()>, u64)>,
}

impl Slots {
    pub(super) fn new(
        queue: &Arc<Queue>,
        urgency: Urgency,
        gate: Arc<Gate>,
        pool: PinnedPool,
        threads: usize,
    ) -> Result<Self> {
        Ok(Self {
            stream: Stream::new(queue.express_stream().device(), Priority::Normal)?,
            gate,
            queue: Arc::clone(queue),
            urgency,
            pool,
            threads,
            idle: Vec::new(),
            marks: Vec::new(),
            busy: VecDeque::new(),
            slot_bytes: 0,
            pieces: Vec::new(),
            spans: Vec::new(),
        })
    }

    /// Carries out what is asked for, until nobody can ask any more.
    pub(super) fn run(mut self, queued: &Receiver<Job>) {
        loop {
            let job = match queued.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Disconnected) if self.busy.is_empty() => return,
                Err(_) if self.busy.is_empty() => match queued.recv() {
                    Ok(job) => Some(job),
                    Err(_) => return,
                },
                Err(_) => None,
            };
            match job {
                Some(job) => self.carry(job),
                // Nothing to fill: the slots' ends are waited for.
                None => self.reclaim(),
            }
        }
    }

    fn carry(&mut self, mut job: Job) {
        let ready = job.ready.take();
        let ordered = ready.as_ref().map_or(Ok(()), |mark| self.stream.wait(mark));
        ready.into_iter().for_each(|mark| self.queue.events.give_back(mark));
        let request = Arc::clone(&job.request);
        let outcome = ordered.and_then(|()| self.stage(&mut job.source, &request));
        job.staged.finish(outcome.clone());
        match self.busy.back_mut() {
            // Behind its last chunk, or behind that of the copy before it.
            Some(draining) if draining.end.is_none() => draining.end = Some((outcome, job.turn)),
            _ => {
                while !self.busy.is_empty() {
                    self.reclaim();
                }
                end(&self.gate, &request, outcome, job.turn);
            }
        }
    }

    /// Gives the stream all of a copy.
    fn stage(&mut self, source: &mut Source, request: &Arc<Request>) -> Result<()> {
        match source {
            Source::Owned { owned, device } => {
                let bytes = shown(owned, request.total_bytes())?;
                let host = bytes.as_ptr() as u64;
                let span = Span { host, device: *device, bytes: bytes.len() as u64 };
                self.gather(&mut Spans::one(span), request)
            }
            Source::Kept(packed) => {
                while packed.direct.left_bytes() > 0 {
                    self.send(&mut packed.direct, request)?;
                }
                self.gather(&mut packed.gathered, request)
            }
            Source::Adopted { memory, start, device } => {
                self.follow(memory, *start, *device, request)
            }
        }
    }

    /// A range of memory that is being pinned meanwhile: looks at each chunk's time what is.
    fn follow(
        &mut self,
        memory: &AdoptedMemory,
        start: usize,
        device: u64,
        request: &Arc<Request>,
    ) -> Result<()> {
        let (mut at, end) = (start, start + request.total_bytes() as usize);
        while at < end {
            let chunk = usize::try_from(self.queue.chunk_bytes()).unwrap_or(usize::MAX);
            let upto = end.min(at.saturating_add(chunk));
            let span = |piece: &AdoptedPiece| Span {
                host: memory[piece.range.clone()].as_ptr() as u64,
                device: device + (piece.range.start - start) as u64,
                bytes: piece.range.len() as u64,
            };
            let pieces = memory.pieces(at..upto);
            let (pinned, pageable): (Vec<_>, Vec<_>) =
                pieces.iter().partition(|piece| piece.is_pinned);
            let mut pinned = Spans::apart(pinned.into_iter().map(span).collect());
            while pinned.left_bytes() > 0 {
                self.send(&mut pinned, request)?;
            }
            let pageable = pageable.into_iter().map(span).collect();
            self.gather(&mut Spans::apart(pageable), request)?;
            at = upto;
        }
        Ok(())
    }

    /// Gives the stream a chunk of pinned memory.
    fn send(&mut self, spans: &mut Spans, request: &Arc<Request>) -> Result<()> {
        self.make_way(request)?;
        while self.busy.len() >= SLOTS {
            self.reclaim();
        }
        self.spans.clear();
        spans.take(self.queue.chunk_bytes(), |span| self.spans.push(span));
        self.submit(None, request)
    }

    /// Copies spans into slot after slot, and gives these to the stream.
    fn gather(&mut self, spans: &mut Spans, request: &Arc<Request>) -> Result<()> {
        if spans.left_bytes() > 0 {
            self.reserve()?;
        }
        while spans.left_bytes() > 0 {
            self.make_way(request)?;
            while self.busy.len() >= SLOTS || (self.idle.is_empty() && !self.busy.is_empty()) {
                self.reclaim();
            }
            let slot = self.idle.pop().ok_or(Error::Cancelled)?;
            self.fill(&slot, spans);
            self.submit(Some(slot), request)?;
        }
        Ok(())
    }

    /// Fills a slot, and lists what of it goes where: neighbours on the device become one.
    fn fill(&mut self, slot: &PinnedBlock, spans: &mut Spans) {
        let (into, mut at) = (slot.as_mut_ptr(), 0);
        self.pieces.clear();
        self.spans.clear();
        spans.take_bytes(self.slot_bytes, |span| {
            let bytes = span.bytes as usize;
            self.pieces.push(Gathered { src: span.host, at, bytes });
            match self.spans.last_mut() {
                Some(last) if last.device.checked_add(last.bytes) == Some(span.device) => {
                    last.bytes += span.bytes;
                }
                _ => self.spans.push(Span { host: into as u64 + at as u64, ..span }),
            }
            at += bytes;
        });
        // SAFETY: a slot has `slot_bytes`, and the stream is done with this one. The sources are
        // kept by the promise of `Staging::take`.
        unsafe { gather_striped(into, &self.pieces, self.threads, Stores::Cached) };
    }

    /// Enqueues the spans in hand, of a slot or of pinned memory, as one chunk.
    fn submit(&mut self, slot: Option<PinnedBlock>, request: &Arc<Request>) -> Result<()> {
        let bytes = self.spans.iter().map(|span| span.bytes).sum();
        // SAFETY: the targets are the copy's by the promise of `take`, and this stream is ordered
        // after the buffer's earlier work. A slot is not filled again before its mark is reached,
        // and pinned memory is kept until the copy has ended.
        let enqueued = unsafe { Way::ToDevice.enqueue(&self.stream, &self.spans) };
        let marked = enqueued.and_then(|calls| {
            self.queue.submitted(bytes, calls);
            self.mark()
        });
        match marked {
            Ok(mark) => {
                let request = Arc::clone(request);
                self.busy.push_back(Draining { slot, mark, request, bytes, end: None });
                Ok(())
            }
            Err(error) => {
                // Some of it may be with the device.
                insist(|| self.stream.synchronize());
                self.idle.extend(slot);
                Err(error)
            }
        }
    }

    /// Before a chunk: is the copy still wanted, and does nobody's need go before it?
    fn make_way(&mut self, request: &Request) -> Result<()> {
        if self.urgency == Urgency::Ahead && self.queue.has_demand_under_way() {
            // Who waits for what is under way here must not wait for that demand too.
            while !self.busy.is_empty() {
                self.reclaim();
            }
            self.queue.let_demand_pass();
        }
        if request.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Makes sure there are slots, smaller ones where the budget is tight.
    fn reserve(&mut self) -> Result<()> {
        let mut slot_bytes = self.slot_bytes.max(self.queue.chunk_bytes()).max(MIN_SLOT_BYTES);
        let in_use = |busy: &VecDeque<Draining>| busy.iter().filter(|it| it.slot.is_some()).count();
        while self.idle.len() + in_use(&self.busy) < SLOTS {
            if self.slot_bytes > 0 {
                slot_bytes = self.slot_bytes;
            }
            match self.pool.alloc_pinned(slot_bytes as usize) {
                Ok(block) => {
                    block.record_use(&self.stream)?;
                    self.idle.push(block);
                    self.slot_bytes = slot_bytes;
                }
                // One slot is enough to get on.
                Err(error) if is_short(&error) && self.slot_bytes > 0 => return Ok(()),
                Err(error) if is_short(&error) && slot_bytes > MIN_SLOT_BYTES => slot_bytes /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for the oldest chunk and tells of what ended with it.
    fn reclaim(&mut self) {
        let Some(draining) = self.busy.pop_front() else { return };
        insist(|| draining.mark.synchronize());
        self.marks.push(draining.mark);
        self.idle.extend(draining.slot);
        draining.request.add_done(draining.bytes);
        if let Some((outcome, turn)) = draining.end {
            end(&self.gate, &draining.request, outcome, turn);
        }
    }

    /// A mark at the stream's present end. Asked for once more if refused.
    fn mark(&mut self) -> Result<Event> {
        let mark = match self.marks.pop() {
            Some(mark) => mark,
            None => Event::new(self.stream.device())?,
        };
        mark.record(&self.stream).or_else(|_| mark.record(&self.stream))?;
        Ok(mark)
    }
}

/// What an owner shows, as many bytes as when the copy was asked for.
fn shown(owned: &Owned, wanted: u64) -> Result<&[u8]> {
    // Code that is not ours: a panic is the copy's, not this thread's.
    let shown = catch_unwind(AssertUnwindSafe(|| owned.bytes()));
    let bytes = shown.map_err(|_| Error::invalid("source", "as_ref()", "it must not panic"))?;
    if bytes.len() as u64 != wanted {
        let expected = format!("it had {wanted} bytes when the copy was asked for");
        return Err(Error::invalid("source", bytes.len(), expected));
    }
    Ok(bytes)
}

/// Ends a copy all of whose chunks are drained, and lets pass who waits behind it.
fn end(gate: &Gate, request: &Request, outcome: Result<()>, turn: u64) {
    open(gate, turn);
    request.finish(outcome);
}

/// Whether less pinned memory may be had where so much is not: the budget is spent, or the system
/// pins no more.
pub(super) fn is_short(error: &Error) -> bool {
    matches!(error, Error::PinnedBudget { .. } | Error::Unsupported { .. })
}
