//! A copy on its way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::queue::{LaneId, Placed, Queue};
use super::request::Request;
use crate::base::{Error, Result};
use crate::device::{Event, Gate, Stream};

/// A copy that was asked for and what it borrowed: the block it reads or writes, given back by
/// [`wait`](Self::wait), by `await` on any runtime, or to the function given to
/// [`on_done`](Self::on_done). Dropping it abandons only the result: the copy still runs, and its
/// memory is kept until it has.
#[derive(Debug)]
#[must_use = "the copy runs on, but its block comes back only through wait()"]
pub struct Pending<B> {
    /// `None` once given back.
    block: Option<B>,
    bytes: u64,
    queue: Arc<Queue>,
    way: Going,
}

/// How a copy goes and its end is told.
#[derive(Debug)]
enum Going {
    /// It is with the device; `None` once the mark is given back.
    Now { lane: LaneId, done: Option<Event> },
    /// Likewise, and a thread waits for the mark.
    Watched { done: Arc<Event>, request: Arc<Request> },
    /// It goes chunk by chunk.
    Held { request: Arc<Request>, gate: Arc<Gate>, turn: u64 },
}

/// How far a copy is, and the way to stop it, apart from the copy itself. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    request: Arc<Request>,
    queue: Arc<Queue>,
}

impl<B> Pending<B> {
    pub(super) fn new(block: B, bytes: u64, placed: Placed, queue: &Arc<Queue>) -> Self {
        let way = match placed {
            Placed::Now { lane, done } => Going::Now { lane, done: Some(done) },
            Placed::Held { request, gate, turn } => Going::Held { request, gate, turn },
        };
        Self { block: Some(block), bytes, queue: Arc::clone(queue), way }
    }

    /// True once the copy has ended, well or not. Never blocks.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_done(&self) -> Result<bool> {
        match &self.way {
            Going::Now { done, .. } => done.as_ref().map_or(Ok(true), Event::query),
            Going::Watched { request, .. } | Going::Held { request, .. } => {
                self.drive();
                Ok(request.outcome().is_some())
            }
        }
    }

    /// Makes later work of `stream` wait, on the device, for the copy's end, also if it fails or
    /// is cancelled. Never blocks.
    ///
    /// # Errors
    /// A stream of another device; what the driver says.
    pub fn order_before(&self, stream: &Stream) -> Result<()> {
        match &self.way {
            Going::Now { done, .. } => done.as_ref().map_or(Ok(()), |done| stream.wait(done)),
            Going::Watched { done, .. } => stream.wait(done),
            Going::Held { gate, turn, .. } => stream.wait_gate(gate, *turn),
        }
    }

    /// Blocks until the copy has run, and gives the block back.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; what the driver says, to the copy or to this call.
    pub fn wait(mut self) -> Result<B> {
        match &self.way {
            Going::Now { done, .. } => done.as_ref().map_or(Ok(()), Event::synchronize)?,
            Going::Watched { request, .. } | Going::Held { request, .. } => {
                while self.queue.is_driven_by_caller() && request.outcome().is_none() {
                    self.queue.drive();
                    std::thread::yield_now();
                }
                request.wait()?;
            }
        }
        self.take()
    }

    /// Calls `function` with the block once the copy has ended: on a thread of the transfer, or,
    /// where the caller drives, in [`Transfer::drive`](super::Transfer::drive); at once where it
    /// has ended already. Copies end one after the other on that thread, so it should return soon.
    ///
    /// # Errors
    /// The system gives no thread: the copy runs on, and `function` is dropped.
    pub fn on_done(mut self, function: impl FnOnce(Result<B>) + Send + 'static) -> Result<()>
    where
        B: Send + 'static,
    {
        let request = self.watched()?;
        let block = self.take();
        request.on_end(Box::new(move |outcome| function(outcome.and(block))));
        Ok(())
    }

    /// Drops what is not with the device yet: the copy then ends with [`Error::Cancelled`], and
    /// what is ordered after it goes on once the copies asked for before it are done. What was
    /// copied before stays copied. A copy that is with the device whole runs to its end.
    pub fn cancel(&self) {
        if let Going::Held { request, .. } = &self.way {
            self.queue.cancel(request);
        }
    }

    /// Bytes the copy has.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.bytes
    }

    /// How far it is, to be read from anywhere. Reading costs a load.
    ///
    /// # Errors
    /// The system gives no thread to follow the copy.
    pub fn progress(&mut self) -> Result<Progress> {
        Ok(Progress { request: self.watched()?, queue: Arc::clone(&self.queue) })
    }

    /// What tells of the end without anybody asking the driver.
    fn watched(&mut self) -> Result<Arc<Request>> {
        let (lane, done) = match &mut self.way {
            Going::Watched { request, .. } | Going::Held { request, .. } => {
                return Ok(Arc::clone(request));
            }
            Going::Now { lane, done } => (*lane, done.take()),
        };
        // Only a copy that was given back has no mark left.
        let done = Arc::new(done.ok_or(Error::Cancelled)?);
        let request = self.queue.watch(lane, &done, self.bytes)?;
        self.way = Going::Watched { done, request: Arc::clone(&request) };
        Ok(request)
    }

    /// The same copy, that gives something else back.
    pub(super) fn with<C>(mut self, block: C) -> Pending<C> {
        let ended = Going::Now { lane: LaneId::Express, done: None };
        let way = std::mem::replace(&mut self.way, ended);
        Pending { block: Some(block), bytes: self.bytes, queue: Arc::clone(&self.queue), way }
    }

    fn take(&mut self) -> Result<B> {
        self.block.take().ok_or(Error::Cancelled)
    }

    fn drive(&self) {
        if self.queue.is_driven_by_caller() {
            self.queue.drive();
        }
    }
}

impl<B: Unpin> Future for Pending<B> {
    type Output = Result<B>;

    /// Ready with the block once the copy has ended. Where the caller drives, somebody has to
    /// call [`Transfer::drive`](super::Transfer::drive) for the task to be woken.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.drive();
        let request = match self.watched() {
            Ok(request) => request,
            Err(error) => return Poll::Ready(Err(error)),
        };
        match request.poll(context) {
            Poll::Ready(Ok(())) => Poll::Ready(self.take()),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<B> Drop for Pending<B> {
    fn drop(&mut self) {
        if let Going::Now { done, .. } = &mut self.way {
            // Waits already enqueued keep the mark they were enqueued with.
            done.take().into_iter().for_each(|done| self.queue.events.give_back(done));
        }
    }
}

impl Progress {
    /// Bytes that have arrived, in whole chunks.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.request.done_bytes()
    }

    /// Bytes the copy has.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.request.total_bytes()
    }

    /// How the copy ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<()>> {
        self.request.outcome()
    }

    /// As [`Pending::cancel`].
    pub fn cancel(&self) {
        self.queue.cancel(&self.request);
    }
}
