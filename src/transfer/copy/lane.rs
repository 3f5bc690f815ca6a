//! Copies of one direction and one urgency: those with the device, and those held back.
//!
//! Chunks go to the **copy stream**, which never stands at a gate of this crate. Who asks for a
//! copy that is held back leaves the buffer ordered behind the **tail**: a stream that stands at
//! the lane's gate until the copy's last chunk is done. The gate counts copies, in order.
//!
//! Why nobody waits for ever. A copy's chunks wait on the device for what was enqueued on its
//! buffer before it was asked for, for chunks before them on the copy stream, and for nothing
//! else; all of that was asked for earlier. Its gate is opened by the lane's own thread, which
//! waits for the chunks of this lane alone, in their order. So along every chain of waiting, over
//! streams, gates and threads, each thing was asked for before the one that waits for it, and
//! the chain ends. This is why lanes share neither stream, tail nor thread, and why a wait for a
//! buffer's earlier work is enqueued on the copy stream with the copy's first chunk and not
//! sooner: a chunk of an earlier copy must never come behind it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::insist::REFUSALS;
use super::request::Request;
use super::span::{Span, Spans};
use super::tail::{Place, Tail, open};
use super::way::Way;
use crate::base::{Error, Result};
use crate::device::{Event, GATE_VALUES, Gate, Stream, reap};
use crate::fence::EventPool;

/// Where a flight ends on the copy stream.
#[derive(Debug, Clone)]
pub(super) enum Mark {
    At(Arc<Event>),
    /// The driver refused to make it, so many times.
    Refused(u32),
    /// Done as soon as those before it are.
    Here,
}

/// What the device was given and has not been seen to finish.
#[derive(Debug)]
pub(super) struct Flight {
    mark: Mark,
    bytes: u64,
    /// Began as the flight before it ended, as far as can be told.
    follows: bool,
    request: Option<Arc<Request>>,
    end: Option<End>,
}

/// The last of a copy.
#[derive(Debug)]
struct End {
    outcome: Result<()>,
    /// Which copy of the lane it was, if it was held back.
    turn: Option<u64>,
}

/// A copy that is held back, in whole or in part.
#[derive(Debug)]
struct Job {
    spans: Spans,
    /// Reached when what was enqueued on the buffer before has run.
    ready: Option<Event>,
    request: Arc<Request>,
    turn: u64,
}

/// A copy that was ended, to be told once nothing is locked.
pub(super) type Ended = (Arc<Request>, Result<()>);

/// How long a flight took, for the estimate of the link.
pub(super) type Timed = (u64, u64);

#[derive(Debug)]
pub(super) struct Lane {
    way: Way,
    copy: Stream,
    tail: Option<Tail>,
    jobs: VecDeque<Job>,
    flights: VecDeque<Flight>,
    in_flight_bytes: u64,
    /// Flights that somebody is told of.
    owed: usize,
    /// Marks the copy stream was made to wait for, not seen reached yet.
    unready: Vec<Event>,
    idle_marks: Vec<Arc<Event>>,
    last_mark: Option<Arc<Event>>,
    /// A thread looks after this lane.
    pub(super) has_thread: bool,
    spans: Vec<Span>,
}

impl Lane {
    pub(super) fn new(way: Way, copy: Stream) -> Self {
        Self {
            way,
            copy,
            tail: None,
            jobs: VecDeque::new(),
            flights: VecDeque::new(),
            in_flight_bytes: 0,
            owed: 0,
            unready: Vec::new(),
            idle_marks: Vec::new(),
            last_mark: None,
            has_thread: false,
            spans: Vec::new(),
        }
    }

    pub(super) fn copy_stream(&self) -> &Stream {
        &self.copy
    }

    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    pub(super) fn flights(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn holds_back(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// True while somebody is to be told of a copy: then its thread, or whoever drives, is the
    /// only one to take flights out.
    pub(super) fn is_busy(&self) -> bool {
        self.owed > 0 || self.holds_back()
    }

    /// True when copies that were held back are under way and wait for nothing but the link.
    pub(super) fn is_running(&mut self, events: &EventPool) -> bool {
        if !self.is_busy() {
            return false;
        }
        let mut at = 0;
        while at < self.unready.len() {
            if self.unready[at].query().unwrap_or(false) {
                events.give_back(self.unready.swap_remove(at));
            } else {
                at += 1;
            }
        }
        self.unready.is_empty()
    }

    /// How many bytes the next chunk has; 0 for a copy that was cancelled.
    pub(super) fn next_bytes(&self, chunk_bytes: u64) -> Option<u64> {
        let job = self.jobs.front()?;
        let cancelled = job.request.is_cancelled();
        Some(if cancelled { 0 } else { job.spans.next_bytes(chunk_bytes) })
    }

    // Copies that need not wait ---------------------------------------------------------------

    /// Orders the copy stream after what was last enqueued on `last`.
    pub(super) fn order_after(&mut self, last: &Stream, events: &EventPool) -> Result<()> {
        if *last == self.copy {
            return Ok(());
        }
        let mark = events.record(last)?;
        self.wait_for(mark, events)
    }

    fn wait_for(&mut self, mark: Event, events: &EventPool) -> Result<()> {
        let waiting = self.copy.wait(&mark);
        if waiting.is_err() || self.unready.len() >= 64 {
            // As many as that are as good as one that is never reached.
            events.give_back(mark);
        } else {
            self.unready.push(mark);
        }
        waiting
    }

    /// Enqueues all of `spans` and marks each chunk; gives how many calls that took.
    ///
    /// # Safety
    /// As [`Way::enqueue`], with the copy stream as it stands now.
    pub(super) unsafe fn copy_now(&mut self, spans: &mut Spans, chunk_bytes: u64) -> Result<u64> {
        let mut calls = 0;
        while spans.left_bytes() > 0 {
            // SAFETY: by this function's own contract.
            let (bytes, made) = unsafe { self.enqueue_chunk(spans, chunk_bytes) };
            calls += made?;
            let mark = self.mark()?;
            self.fly(Flight {
                mark: Mark::At(mark),
                bytes,
                follows: !self.flights.is_empty(),
                request: None,
                end: None,
            });
        }
        Ok(calls)
    }

    /// Has `request` told when `done`, a mark of the copy stream, is reached.
    pub(super) fn watch(&mut self, done: Arc<Event>, request: Arc<Request>) {
        let end = Some(End { outcome: Ok(()), turn: None });
        let (mark, request) = (Mark::At(done), Some(request));
        self.fly(Flight { mark, bytes: 0, follows: false, request, end });
    }

    // Copies that are held back -----------------------------------------------------------------

    /// Holds a copy back behind those that are, after what was last enqueued on `last`; gives the
    /// stream that is past it when it is done, with the gate and the number it stands for.
    pub(super) fn hold_back(
        &mut self,
        spans: Spans,
        request: &Arc<Request>,
        last: &Stream,
        events: &EventPool,
    ) -> Result<(Stream, Arc<Gate>, u64)> {
        let follows = *last == self.copy;
        let tail = self.tail()?;
        let Place { mut ready, turn } = tail.stand(last, events)?;
        let place = (tail.stream().clone(), Arc::clone(tail.gate()), turn);
        if follows {
            ready.take().into_iter().for_each(|mark| events.give_back(mark));
        }
        self.jobs.push_back(Job { spans, ready, request: Arc::clone(request), turn });
        Ok(place)
    }

    /// The tail, made at first use.
    pub(super) fn tail(&mut self) -> Result<&mut Tail> {
        Ok(match &mut self.tail {
            Some(tail) => tail,
            none => none.insert(Tail::new(self.copy.device())?),
        })
    }

    /// Gives the device the next chunk; gives its bytes and how many calls that took.
    pub(super) fn submit(&mut self, chunk_bytes: u64, events: &EventPool) -> (u64, u64) {
        let Some(mut job) = self.jobs.pop_front() else { return (0, 0) };
        if job.request.is_cancelled() {
            self.end(job, Err(Error::Cancelled), events);
            return (0, 0);
        }
        let waits = job.ready.is_some();
        if let Some(Err(error)) = job.ready.take().map(|mark| self.wait_for(mark, events)) {
            self.end(job, Err(error), events);
            return (0, 0);
        }
        // SAFETY: whoever asked for the copy promised so of both ends, until the gate opens that
        // stands for it; the copy stream is ordered after the buffer's earlier work.
        let (bytes, made) = unsafe { self.enqueue_chunk(&mut job.spans, chunk_bytes) };
        // Also where a call failed: some of the chunk may be with the device.
        let mark = self.mark().map_or(Mark::Refused(0), Mark::At);
        let (request, follows) = (Some(Arc::clone(&job.request)), !self.flights.is_empty());
        let ended = made.is_err() || job.spans.left_bytes() == 0;
        let outcome = made.as_ref().map(|_| ()).map_err(Clone::clone);
        let end = ended.then_some(End { outcome, turn: Some(job.turn) });
        self.fly(Flight { mark, bytes, follows: follows && !waits, request, end });
        if !ended {
            self.jobs.push_front(job);
        }
        (bytes, made.unwrap_or(0))
    }

    /// Ends a copy of which no more is submitted, once what was has run.
    fn end(&mut self, job: Job, outcome: Result<()>, events: &EventPool) {
        job.ready.into_iter().for_each(|mark| events.give_back(mark));
        let end = Some(End { outcome, turn: Some(job.turn) });
        let request = Some(job.request);
        self.fly(Flight { mark: Mark::Here, bytes: 0, follows: false, request, end });
    }

    /// True for a copy of which nothing was submitted yet.
    pub(super) fn is_untouched(&self, request: &Arc<Request>) -> bool {
        self.jobs.iter().any(|job| {
            Arc::ptr_eq(&job.request, request) && job.spans.left_bytes() == request.total_bytes()
        })
    }

    // Flights -----------------------------------------------------------------------------------

    /// The end of the oldest flight.
    pub(super) fn oldest(&self) -> Option<&Mark> {
        self.flights.front().map(|flight| &flight.mark)
    }

    /// Tries again to mark the oldest flight's end, or later; false when the driver refuses.
    pub(super) fn mark_again(&mut self) -> bool {
        let mark = self.mark();
        match (self.flights.front_mut(), mark) {
            (Some(flight), Ok(mark)) => flight.mark = Mark::At(mark),
            (Some(Flight { mark: Mark::Refused(times), .. }), Err(_)) if *times < REFUSALS => {
                *times += 1;
                return false;
            }
            (Some(flight), Err(error)) => {
                tracing::error!(%error, "a lost device's copies count as done");
                flight.mark = Mark::Here;
            }
            (None, _) => {}
        }
        true
    }

    /// Takes out the oldest flight, whose end was reached, and opens the gate if it was the last
    /// of a copy.
    pub(super) fn land(&mut self, ended: &mut Vec<Ended>) -> Option<Timed> {
        let flight = self.flights.pop_front()?;
        self.in_flight_bytes -= flight.bytes;
        self.owed -= usize::from(flight.request.is_some());
        if let Some(request) = &flight.request {
            request.add_done(flight.bytes);
        }
        if let (Some(request), Some(end)) = (flight.request, flight.end) {
            if let (Some(turn), Some(tail)) = (end.turn, &self.tail) {
                open(tail.gate(), turn);
            } else if end.outcome.is_ok() {
                // It was watched whole.
                request.add_done(request.total_bytes());
            }
            ended.push((request, end.outcome));
        }
        let Mark::At(mark) = flight.mark else { return None };
        if flight.bytes == 0 {
            return None;
        }
        let before = self.last_mark.replace(Arc::clone(&mark))?;
        let ns = mark.elapsed_ns_since(&before).ok().filter(|_| flight.follows);
        // Who still waits for the mark has it too, and must not find it moved.
        if Arc::strong_count(&before) == 1 {
            self.idle_marks.push(before);
        }
        ns.filter(|&ns| ns > 0).map(|ns| (flight.bytes, ns))
    }

    /// Takes out what is reached, without waiting.
    pub(super) fn land_reached(&mut self, ended: &mut Vec<Ended>) -> Option<Timed> {
        let mut timed = None;
        loop {
            match self.oldest() {
                Some(Mark::At(mark)) if mark.query().unwrap_or(false) => {}
                Some(Mark::Here) => {}
                Some(Mark::Refused(_)) => {
                    self.mark_again();
                    return timed;
                }
                _ => return timed,
            }
            timed = self.land(ended).or(timed);
        }
    }

    /// Cancels what is not done, as nobody looks after it any more; the gate opens once the
    /// chunks with the device are done.
    pub(super) fn abandon(&mut self) {
        let mut marks = Vec::new();
        for flight in self.flights.drain(..) {
            if let Mark::At(mark) = flight.mark {
                marks.push(mark);
            }
            flight.request.into_iter().for_each(|it| it.finish(Err(Error::Cancelled)));
        }
        self.jobs.drain(..).for_each(|job| job.request.finish(Err(Error::Cancelled)));
        if let Some(tail) = self.tail.take() {
            reap(marks, move |_| open(tail.gate(), GATE_VALUES - 1));
        }
    }

    /// Enqueues a chunk; gives its bytes and how many calls that took.
    ///
    /// # Safety
    /// As [`Way::enqueue`].
    unsafe fn enqueue_chunk(&mut self, spans: &mut Spans, chunk_bytes: u64) -> (u64, Result<u64>) {
        let before = spans.left_bytes();
        self.spans.clear();
        spans.take(chunk_bytes, |span| self.spans.push(span));
        // SAFETY: by this function's own contract.
        let made = unsafe { self.way.enqueue(&self.copy, &self.spans) };
        (before - spans.left_bytes(), made)
    }

    /// A mark at the copy stream's present end. Timed, as every chunk tells of the link.
    fn mark(&mut self) -> Result<Arc<Event>> {
        let mark = match self.idle_marks.pop() {
            Some(mark) => mark,
            None => Arc::new(Event::with_timing(self.copy.device())?),
        };
        mark.record(&self.copy)?;
        Ok(mark)
    }

    fn fly(&mut self, flight: Flight) {
        self.in_flight_bytes += flight.bytes;
        self.owed += usize::from(flight.request.is_some());
        self.flights.push_back(flight);
    }
}
