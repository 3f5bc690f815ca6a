//! Copies that the device cannot make by itself: from memory that is not pinned, and of parts that
//! are gathered first. They go through a ring of pinned slots, which several threads fill and a
//! stream drains; what of such a copy is pinned goes along without a slot.
//!
//! One thread (`slots`) takes the copies in the order in which they were asked for, and waits for
//! nothing but what it gave its own stream before: why that ends is argued in `lane`.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use super::packing::Packed;
use super::queue::Queue;
use super::request::Request;
use super::slots::Slots;
use super::span::{Span, Spans};
use super::tail::{Place, Tail, open};
use crate::base::{Error, Result, lock};
use crate::device::{Event, Gate, Stream};
use crate::pinned::{AdoptedMemory, PinnedPool};
use crate::transfer::Urgency;

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

/// Where a copy is taken from.
pub(super) enum Source {
    /// All that this shows, to a place on the device.
    Owned { owned: Owned, device: u64 },
    /// Memory that somebody keeps until [`Staged::staged`] has ended, and what of it is pinned
    /// until the copy has. What is to be gathered goes through slots.
    Kept(Packed),
    /// A range of adopted memory: through slots what is not pinned when its turn comes.
    Adopted { memory: AdoptedMemory, start: usize, device: u64 },
}

impl Source {
    /// One range by address, none of it pinned.
    pub(super) fn lent(bytes: &[u8], device: u64) -> Self {
        let host = bytes.as_ptr() as u64;
        let span = Span { host, device, bytes: bytes.len() as u64 };
        Self::Kept(Packed { gathered: Spans::one(span), direct: Spans::apart(Vec::new()) })
    }
}

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

/// A copy on its way to the thread.
pub(super) struct Job {
    pub(super) source: Source,
    /// Reached when what was enqueued on the buffer before has run.
    pub(super) ready: Option<Event>,
    pub(super) turn: u64,
    pub(super) request: Arc<Request>,
    /// Ends when nothing of the source is to be read by the processor any more.
    pub(super) staged: Arc<Request>,
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
    pub(super) fn start(
        queue: &Arc<Queue>,
        urgency: Urgency,
        pool: PinnedPool,
        threads: usize,
    ) -> Result<Self> {
        let (jobs, queued) = crossbeam_channel::unbounded();
        let tail = Tail::new(queue.express_stream().device())?;
        let slots = Slots::new(queue, urgency, Arc::clone(tail.gate()), pool, threads)?;
        // Never joined: dropping a transfer must not wait.
        std::thread::Builder::new()
            .name("riverbed-staging".into())
            .spawn(move || slots.run(&queued))
            .map_err(|error| {
                let expected = format!("the system refuses a thread: {error}");
                Error::invalid("pageable copies", "staging", expected)
            })?;
        Ok(Self { queue: Arc::clone(queue), front: Mutex::new(Front { tail, jobs }) })
    }

    /// Takes a copy of `bytes`, after what was last enqueued on `last`; gives the stream that is
    /// past it when it is done.
    ///
    /// # Safety
    /// The target is valid until that stream has passed, and no work but that before `last`'s
    /// present end and that after the given stream's touches it; targets do not overlap. A source
    /// is kept as [`Source`] says, and nobody writes it meanwhile.
    pub(super) unsafe fn take(
        &self,
        source: Source,
        bytes: u64,
        last: &Stream,
    ) -> Result<(Stream, Staged)> {
        let mut front = lock(&self.front);
        let Place { ready, turn } = front.tail.stand(last, &self.queue.events)?;
        let request = Arc::new(Request::new(bytes));
        let staged = Arc::new(Request::new(bytes));
        let (for_job, for_caller) = (Arc::clone(&request), Arc::clone(&staged));
        let job = Job { source, ready, turn, request: for_job, staged };
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

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({} bytes, turn {})", self.request.total_bytes(), self.turn)
    }
}
