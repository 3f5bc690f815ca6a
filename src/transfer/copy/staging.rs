//! Copies from memory that is not pinned: through a ring of pinned slots, which several threads
//! fill and a stream drains.
//!
//! One thread takes the copies in the order in which they were asked for, and waits for nothing
//! but the slots it filled before, on a stream of its own: why that ends is argued in `lane`.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::insist::insist;
use super::queue::Queue;
use super::request::Request;
use super::span::{Span, chunk_of};
use super::tail::{Place, Tail, open};
use super::way::Way;
use crate::base::{Error, KIB, Result, lock};
use crate::device::{Event, Gate, Priority, Stream, copy_striped};
use crate::pinned::{PinnedBlock, PinnedPool};

/// Slots of the ring: one is filled, one drained, one covers whichever is late.
const SLOTS: usize = 3;
/// The smallest slot worth a copy, where the pinned budget is tight.
const MIN_SLOT_BYTES: u64 = 64 * KIB;

/// Bytes that several threads may read while somebody keeps them.
pub(super) type Owned = Arc<dyn Bytes>;

/// What can be staged: anything that shows bytes.
pub(super) trait Bytes: Send + Sync {
    fn bytes(&self) -> &[u8];
}

impl<S: AsRef<[u8]> + Send + Sync> Bytes for S {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }
}

/// Where bytes to be staged are.
pub(super) enum Source {
    Owned(Owned),
    /// Somebody's slice, which is not touched before [`Staged`] was told.
    Lent(Lent),
}

/// A slice lent to the thread that stages.
pub(super) struct Lent {
    start: *const u8,
    len: usize,
}

// SAFETY: whoever lends a slice waits until it was given back before the borrow ends.
unsafe impl Send for Lent {}

/// The ring of one kind of copies. Its thread ends when it is dropped, after what was asked for.
#[derive(Debug)]
pub(super) struct Staging {
    queue: Arc<Queue>,
    /// Locked from taking a turn to sending its job: jobs come in the order of their turns.
    front: Mutex<Front>,
}

#[derive(Debug)]
struct Front {
    tail: Tail,
    jobs: Sender<Job>,
}

struct Job {
    source: Source,
    device: u64,
    bytes: u64,
    ready: Option<Event>,
    turn: u64,
    request: Arc<Request>,
    /// Ends when the source is not needed any more.
    staged: Arc<Request>,
}

impl Drop for Job {
    /// Whatever happens to it, nobody waits for ever. What ended before stays as it ended.
    fn drop(&mut self) {
        self.staged.finish(Err(Error::Cancelled));
    }
}

/// A copy that was given to the ring.
pub(super) struct Staged {
    pub(super) request: Arc<Request>,
    pub(super) staged: Arc<Request>,
    pub(super) gate: Arc<Gate>,
    pub(super) turn: u64,
}

impl Staging {
    /// A ring from `pool`, whose slots `threads` threads fill together.
    pub(super) fn start(queue: &Arc<Queue>, pool: PinnedPool, threads: usize) -> Result<Self> {
        let device = queue.express_stream().device();
        let (jobs, queued) = crossbeam_channel::unbounded();
        let tail = Tail::new(device)?;
        let work = Work {
            stream: Stream::new(device, Priority::Normal)?,
            gate: Arc::clone(tail.gate()),
            queue: Arc::clone(queue),
            pool,
            threads,
            idle: Vec::new(),
            busy: VecDeque::new(),
            slot_bytes: 0,
        };
        // Never joined: dropping a transfer must not wait.
        std::thread::Builder::new()
            .name("riverbed-staging".into())
            .spawn(move || work.run(&queued))
            .map_err(|error| {
                let expected = format!("the system refuses a thread: {error}");
                Error::invalid("pageable copies", "staging", expected)
            })?;
        Ok(Self { queue: Arc::clone(queue), front: Mutex::new(Front { tail, jobs }) })
    }

    /// Takes a copy of `bytes` to `device`, after what was last enqueued on `last`; gives the
    /// stream that is past it when it is done.
    ///
    /// # Safety
    /// The target is valid until that stream has passed, and no work but that before `last`'s
    /// present end and that after the given stream's touches it. A lent source is not touched
    /// before `staged` has ended.
    pub(super) unsafe fn take(
        &self,
        source: Source,
        device: u64,
        bytes: u64,
        last: &Stream,
    ) -> Result<(Stream, Staged)> {
        let mut front = lock(&self.front);
        let Place { ready, turn } = front.tail.stand(last, &self.queue.events)?;
        let request = Arc::new(Request::new(bytes));
        let staged = Arc::new(Request::new(bytes));
        let (for_job, for_caller) = (Arc::clone(&request), Arc::clone(&staged));
        let job = Job { source, device, bytes, ready, turn, request: for_job, staged };
        let gate = Arc::clone(front.tail.gate());
        if let Err(refused) = front.jobs.send(job) {
            // The thread died. Nobody stages, so let nobody wait.
            let job = refused.into_inner();
            job.request.finish(Err(Error::Cancelled));
            open(&gate, turn);
        }
        Ok((front.tail.stream().clone(), Staged { request, staged: for_caller, gate, turn }))
    }
}

/// The thread's side.
struct Work {
    stream: Stream,
    gate: Arc<Gate>,
    queue: Arc<Queue>,
    pool: PinnedPool,
    threads: usize,
    idle: Vec<Slot>,
    /// Those the stream drains, the oldest first.
    busy: VecDeque<(Slot, Draining)>,
    slot_bytes: u64,
}

struct Slot {
    block: PinnedBlock,
    drained: Event,
}

/// What a slot holds.
struct Draining {
    request: Arc<Request>,
    bytes: u64,
    /// How the copy ended and its turn, behind its last slot.
    end: Option<(Result<()>, u64)>,
}

impl Work {
    fn run(mut self, queued: &Receiver<Job>) {
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
        let outcome = ordered.and_then(|()| self.stage(&job));
        job.staged.finish(outcome.clone());
        match self.busy.back_mut() {
            // Behind its last slot, or behind that of the copy before it.
            Some((_, draining)) if draining.end.is_none() => {
                draining.end = Some((outcome, job.turn));
            }
            _ => {
                while !self.busy.is_empty() {
                    self.reclaim();
                }
                end(&self.gate, &job.request, outcome, job.turn);
            }
        }
    }

    /// Fills slot after slot and enqueues their copies.
    fn stage(&mut self, job: &Job) -> Result<()> {
        let bytes = match &job.source {
            // Code that is not ours: a panic is the copy's, not this thread's.
            Source::Owned(owned) => match catch_unwind(AssertUnwindSafe(|| owned.bytes())) {
                Ok(bytes) => bytes,
                Err(_) => {
                    return Err(Error::invalid("source", "as_ref()", "it must not panic"));
                }
            },
            // SAFETY: whoever lent the slice waits for `staged`, which ends after this.
            Source::Lent(lent) => unsafe { std::slice::from_raw_parts(lent.start, lent.len) },
        };
        if bytes.len() as u64 != job.bytes {
            let expected = format!("it had {} bytes when the copy was asked for", job.bytes);
            return Err(Error::invalid("source", bytes.len(), expected));
        }
        self.reserve()?;
        let mut done = 0u64;
        while done < job.bytes {
            if job.request.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let chunk = chunk_of(job.bytes - done, self.slot_bytes).min(self.slot_bytes);
            let part = &bytes[done as usize..(done + chunk) as usize];
            self.pass_on(part, job.device + done, job)?;
            done += chunk;
        }
        Ok(())
    }

    /// Copies one chunk into a slot, and enqueues the slot's copy.
    fn pass_on(&mut self, part: &[u8], device: u64, job: &Job) -> Result<()> {
        while self.idle.is_empty() {
            self.reclaim();
        }
        let Some(mut slot) = self.idle.pop() else { return Err(Error::Cancelled) };
        let into = slot.block.as_mut_ptr();
        // SAFETY: a slot has at least a chunk's bytes, and the stream is done with this one.
        unsafe { copy_striped(into, part.as_ptr(), part.len(), self.threads) };
        let bytes = part.len() as u64;
        // SAFETY: the target is the job's by the promise of `take`; this stream is ordered after
        // the buffer's earlier work. The slot is not filled again before its mark is reached.
        let copied =
            unsafe { Way::ToDevice.copy(&self.stream, Span { host: into as u64, device, bytes }) };
        if let Err(error) = copied {
            self.idle.push(slot);
            return Err(error);
        }
        self.queue.submitted(bytes, 1);
        let marked = mark(&mut slot.drained, &self.stream);
        if let Err(error) = marked {
            // A slot in doubt is not used again: its block waits for the stream by itself.
            drop(slot);
            insist(|| self.stream.synchronize());
            return Err(error);
        }
        let request = Arc::clone(&job.request);
        self.busy.push_back((slot, Draining { request, bytes, end: None }));
        Ok(())
    }

    /// Makes sure there are slots, smaller ones where the budget is tight.
    fn reserve(&mut self) -> Result<()> {
        let device = self.stream.device().clone();
        let mut slot_bytes = self.slot_bytes.max(self.queue.chunk_bytes()).max(MIN_SLOT_BYTES);
        while self.idle.len() + self.busy.len() < SLOTS {
            if self.slot_bytes > 0 {
                slot_bytes = self.slot_bytes;
            }
            match self.pool.alloc_pinned(slot_bytes as usize) {
                Ok(block) => {
                    block.record_use(&self.stream)?;
                    self.idle.push(Slot { block, drained: Event::new(&device)? });
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

    /// Waits for the oldest slot and tells of what ended with it.
    fn reclaim(&mut self) {
        let Some((slot, draining)) = self.busy.pop_front() else { return };
        insist(|| slot.drained.synchronize());
        self.idle.push(slot);
        draining.request.add_done(draining.bytes);
        if let Some((outcome, turn)) = draining.end {
            end(&self.gate, &draining.request, outcome, turn);
        }
    }
}

/// Ends a copy all of whose slots are drained, and lets pass who waits behind it.
fn end(gate: &Gate, request: &Request, outcome: Result<()>, turn: u64) {
    open(gate, turn);
    request.finish(outcome);
}

/// Marks the stream's present end; once more if refused.
fn mark(event: &mut Event, stream: &Stream) -> Result<()> {
    event.record(stream).or_else(|_| event.record(stream))
}

/// Whether less pinned memory may be had where so much is not: the budget is spent, or the system
/// pins no more.
pub(super) fn is_short(error: &Error) -> bool {
    matches!(error, Error::PinnedBudget { .. } | Error::Unsupported { .. })
}

impl Lent {
    /// Lends a slice. It must not be touched before `staged` has ended.
    pub(super) fn new(slice: &[u8]) -> Self {
        Self { start: slice.as_ptr(), len: slice.len() }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({} bytes, turn {})", self.bytes, self.turn)
    }
}
