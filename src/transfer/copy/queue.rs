//! One direction of the link: which copies go to the device at once, which are held back, and
//! who goes on with those.
//!
//! Small copies of demand go to a stream of their own at once. Others go to the lane of their
//! urgency: at once where nothing is held back before them and the window has room, else as the
//! chunks before them are done. Chunks of demand go before those made ahead of need.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::insist::{ASK_AGAIN, insist};
use super::lane::{Ended, Lane, Mark, Timed};
use super::options::{Driven, FIRST_CHUNK_BYTES, MIN_CHUNK_BYTES, TransferOptions, may_hold_back};
use super::request::Request;
use super::span::{Span, Spans};
use super::way::Way;
use crate::base::{Error, KIB, Result, lock, wait};
use crate::device::{Device, Event, Gate, Priority, Stream};
use crate::fence::EventPool;
use crate::transfer::Urgency;

/// A copy of demand up to this never waits for chunks of this transfer: less than 5 microseconds
/// of 55 GB/s.
pub(super) const EXPRESS_BYTES: u64 = 256 * KIB;
/// The most chunks' worth of one lane with the device: one runs, one is next, one covers a late
/// thread.
const CHUNKS_AHEAD: u64 = 3;
/// The most copies of one lane with the device, each with its mark.
const MOST_FLIGHTS: u64 = 64;

/// Whose copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneId {
    Express,
    Of(Urgency),
}

impl LaneId {
    fn index(self) -> usize {
        match self {
            Self::Of(Urgency::Demand) => 0,
            Self::Of(Urgency::Ahead) => 1,
            Self::Express => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Of(Urgency::Demand) => "demand",
            Self::Of(Urgency::Ahead) => "ahead",
            Self::Express => "express",
        }
    }
}

/// What became of a copy that was asked for.
#[derive(Debug)]
pub(super) enum Placed {
    /// It is with the device; `done` marks its end on the lane's stream.
    Now { lane: LaneId, done: Event },
    /// It is held back; `gate` is at `turn` once it has ended.
    Held { request: Arc<Request>, gate: Arc<Gate>, turn: u64 },
}

/// Counters of one direction, all of copies asked for so far. Bytes unless a name says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct WayProgress {
    /// Asked for.
    pub requested_bytes: u64,
    /// Given to the device; what was asked for and is not here is held back, or was cancelled.
    pub submitted_bytes: u64,
    /// Driver calls that took.
    pub copies: u64,
    /// The link's rate in bytes a second, from the chunks of late; 0 before there were any.
    pub link_bytes_per_second: u64,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Queue {
    device: Device,
    way: Way,
    options: TransferOptions,
    may_hold_back: bool,
    express: Stream,
    pub(super) events: EventPool,
    state: Mutex<State>,
    /// Something was held back, given to the device, or closed.
    moved: Condvar,
    requested_bytes: AtomicU64,
    submitted_bytes: AtomicU64,
    copies: AtomicU64,
    bytes_per_second: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    lanes: [Option<Lane>; 3],
    ended: Vec<Ended>,
    sleepers: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(device: &Device, way: Way, options: &TransferOptions) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            device: device.clone(),
            way,
            options: options.clone(),
            may_hold_back: may_hold_back(device),
            express: Stream::new(device, Priority::High)?,
            events: EventPool::new(device),
            state: Mutex::default(),
            moved: Condvar::new(),
            requested_bytes: AtomicU64::new(0),
            submitted_bytes: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
        }))
    }

    /// The stream of small copies of demand.
    pub(super) fn express_stream(&self) -> &Stream {
        &self.express
    }

    /// Enqueues a small copy on that stream. `using` is told so before.
    ///
    /// # Safety
    /// As [`Way::enqueue`].
    pub(super) unsafe fn express(
        &self,
        span: Span,
        using: impl Fn(&Stream) -> Result<()>,
    ) -> Result<Placed> {
        using(&self.express)?;
        // SAFETY: by this function's own contract.
        unsafe { self.way.copy(&self.express, span) }?;
        self.submitted(span.bytes, 1);
        let done = self.events.record(&self.express)?;
        Ok(Placed::Now { lane: LaneId::Express, done })
    }

    pub(super) fn is_driven_by_caller(&self) -> bool {
        self.options.driven == Driven::ByCaller
    }

    pub(super) fn chunk_bytes(&self) -> u64 {
        self.options.chunk_for(self.bytes_per_second.load(Ordering::Relaxed))
    }

    /// The least a chunk of many small parts has, on a slow link too: calls are what they cost.
    pub(super) fn least_gathered_bytes(&self) -> u64 {
        self.options.chunk_bytes.map_or(FIRST_CHUNK_BYTES, |_| 0)
    }

    pub(super) fn progress(&self) -> WayProgress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WayProgress {
            requested_bytes: get(&self.requested_bytes),
            submitted_bytes: get(&self.submitted_bytes),
            copies: get(&self.copies),
            link_bytes_per_second: get(&self.bytes_per_second),
        }
    }

    /// Counts what was asked for.
    pub(super) fn requested(&self, bytes: u64) {
        self.requested_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts what was given to the device.
    pub(super) fn submitted(&self, bytes: u64, copies: u64) {
        self.submitted_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.copies.fetch_add(copies, Ordering::Relaxed);
    }

    /// Takes a rate into the estimate: an eighth of it is the new one.
    fn learn(&self, timed: Option<Timed>) {
        // A small chunk tells of calls, not of the link.
        let Some((bytes, ns)) = timed.filter(|&(bytes, _)| bytes >= MIN_CHUNK_BYTES / 2) else {
            return;
        };
        let rate = (bytes as f64 / ns as f64 * 1e9) as u64;
        let old = self.bytes_per_second.load(Ordering::Relaxed);
        let new = if old == 0 { rate } else { old - old / 8 + rate / 8 };
        self.bytes_per_second.store(new, Ordering::Relaxed);
    }

    /// Sets the estimate, as a calibration found it.
    pub(super) fn set_rate(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    // Asking ------------------------------------------------------------------------------------

    /// Places a copy after what was last enqueued on `last`; gives the stream that the next
    /// operation on the buffer must be ordered after, and what became of the copy. `using` is
    /// told each stream that will use the host's memory, before it does.
    ///
    /// # Safety
    /// Every span is valid on both sides until that stream has passed; no two targets overlap,
    /// and no work but that before `last`'s present end and that after the given stream's
    /// touches a target or writes a source.
    pub(super) unsafe fn place(
        self: &Arc<Self>,
        urgency: Urgency,
        mut spans: Spans,
        last: &Stream,
        using: impl Fn(&Stream) -> Result<()>,
    ) -> Result<(Stream, Result<Placed>)> {
        let (id, bytes) = (LaneId::Of(urgency), spans.left_bytes());
        let chunk_bytes = self.chunk_bytes();
        let mut state = lock(&self.state);
        self.lane(&mut state, id)?;
        let now = !self.may_hold_back || self.has_room(&mut state, urgency, bytes, chunk_bytes);
        let lane = self.lane(&mut state, id)?;
        if now {
            using(lane.copy_stream())?;
            lane.order_after(last, &self.events)?;
            // Where nothing is ever held back one mark for all will do.
            let marked = if self.may_hold_back { chunk_bytes } else { u64::MAX };
            // SAFETY: the copy stream was just ordered after `last`; the rest is the caller's.
            let made = unsafe { lane.copy_now(&mut spans, marked) };
            self.submitted(bytes - spans.left_bytes(), made.as_ref().copied().unwrap_or(0));
            let stream = lane.copy_stream().clone();
            let done = made.and_then(|_| self.events.record(&stream));
            return Ok((stream, done.map(|done| Placed::Now { lane: id, done })));
        }
        using(lane.tail()?.stream())?;
        self.look_after(&mut state, id)?;
        let request = Arc::new(Request::new(bytes));
        let lane = self.lane(&mut state, id)?;
        let (stream, gate, turn) = lane.hold_back(spans, &request, last, &self.events)?;
        self.submit(&mut state);
        self.wake(state);
        Ok((stream, Ok(Placed::Held { request, gate, turn })))
    }

    /// Has a request told when `done` of a lane is reached.
    pub(super) fn watch(
        self: &Arc<Self>,
        id: LaneId,
        done: &Arc<Event>,
        bytes: u64,
    ) -> Result<Arc<Request>> {
        let mut state = lock(&self.state);
        self.look_after(&mut state, id)?;
        let request = Arc::new(Request::new(bytes));
        self.lane(&mut state, id)?.watch(Arc::clone(done), Arc::clone(&request));
        self.wake(state);
        Ok(request)
    }

    /// Drops the chunks of a copy that are not with the device yet.
    pub(super) fn cancel(&self, request: &Arc<Request>) {
        let mut state = lock(&self.state);
        let untouched = state.lanes.iter().flatten().any(|lane| lane.is_untouched(request));
        request.cancel();
        self.submit(&mut state);
        self.wake(state);
        if untouched {
            request.finish(Err(Error::Cancelled));
        }
    }

    fn lane<'a>(&self, state: &'a mut State, id: LaneId) -> Result<&'a mut Lane> {
        Ok(match &mut state.lanes[id.index()] {
            Some(lane) => lane,
            none => {
                let stream = match id {
                    LaneId::Express => self.express.clone(),
                    LaneId::Of(_) => Stream::new(&self.device, Priority::Normal)?,
                };
                none.insert(Lane::new(self.way, stream))
            }
        })
    }

    // Choosing ----------------------------------------------------------------------------------

    /// Whether a copy may go to the device whole and now.
    fn has_room(&self, state: &mut State, urgency: Urgency, bytes: u64, chunk_bytes: u64) -> bool {
        let held = |urgency: Urgency| {
            let lane = state.lanes[LaneId::Of(urgency).index()].as_ref();
            lane.is_some_and(Lane::holds_back)
        };
        if held(urgency) || (urgency == Urgency::Ahead && held(Urgency::Demand)) {
            return false;
        }
        let chunks = bytes.div_ceil(chunk_bytes.max(1));
        self.fits(state, urgency, bytes, chunk_bytes, chunks)
    }

    /// Whether the window has room for so much more of a lane: three chunks a lane at most, one
    /// left for the other lane, and in all what may be in flight. The first chunk always fits.
    fn fits(
        &self,
        state: &mut State,
        urgency: Urgency,
        bytes: u64,
        chunk_bytes: u64,
        chunks: u64,
    ) -> bool {
        let most = self.options.in_flight();
        let room = |state: &State| {
            let lane = state.lanes[LaneId::Of(urgency).index()].as_ref();
            let (own, flights) = lane.map_or((0, 0), |it| (it.in_flight_bytes(), it.flights()));
            if own == 0 && chunks <= 1 {
                return true;
            }
            let lane_most = (CHUNKS_AHEAD * chunk_bytes).min(most.saturating_sub(chunk_bytes));
            let in_lane =
                flights as u64 + chunks <= MOST_FLIGHTS && own.saturating_add(bytes) <= lane_most;
            let all: u64 = state.lanes.iter().flatten().map(Lane::in_flight_bytes).sum();
            in_lane && all.saturating_add(bytes) <= most
        };
        if room(state) {
            return true;
        }
        // Lanes in which nobody waits for anything are looked at only when room is short.
        let State { lanes, ended, .. } = state;
        for lane in lanes.iter_mut().flatten().filter(|lane| !lane.is_busy()) {
            self.learn(lane.land_reached(ended));
        }
        room(state)
    }

    /// Gives the device what there is room for; true if that was anything.
    fn submit(&self, state: &mut State) -> bool {
        let chunk_bytes = self.chunk_bytes();
        let mut moved = false;
        for urgency in Urgency::ALL {
            let index = LaneId::Of(urgency).index();
            loop {
                let lane = state.lanes[index].as_ref();
                let Some(bytes) = lane.and_then(|lane| lane.next_bytes(chunk_bytes)) else { break };
                if bytes > 0
                    && (self.gives_way(state, urgency)
                        || !self.fits(state, urgency, bytes, chunk_bytes, 1))
                {
                    break;
                }
                if let Some(lane) = &mut state.lanes[index] {
                    let (bytes, copies) = lane.submit(chunk_bytes, &self.events);
                    self.submitted(bytes, copies);
                    moved = true;
                }
            }
        }
        moved
    }

    /// Speculation stands back while demand is on its way. Demand that still waits for something
    /// may be waiting for speculation, so only demand that waits for the link alone counts.
    fn gives_way(&self, state: &mut State, urgency: Urgency) -> bool {
        let demand = &mut state.lanes[LaneId::Of(Urgency::Demand).index()];
        urgency == Urgency::Ahead
            && demand.as_mut().is_some_and(|lane| lane.is_running(&self.events))
    }

    // Going on ----------------------------------------------------------------------------------

    /// Makes sure somebody looks after a lane.
    fn look_after(self: &Arc<Self>, state: &mut State, id: LaneId) -> Result<()> {
        let by_caller = self.is_driven_by_caller();
        let lane = self.lane(state, id)?;
        if by_caller || lane.has_thread {
            return Ok(());
        }
        let queue = Arc::clone(self);
        // Never joined: it ends when the transfer is gone and nothing is held back any more.
        std::thread::Builder::new()
            .name(format!("riverbed-{}", id.name()))
            .spawn(move || queue.work(id))
            .map_err(|error| {
                let expected = format!("the system refuses a thread: {error}");
                Error::invalid("copies held back", id.name(), expected)
            })?;
        lane.has_thread = true;
        Ok(())
    }

    /// Looks after one lane, on a thread of its own.
    fn work(&self, id: LaneId) {
        let mut state = lock(&self.state);
        loop {
            let closed = state.closed;
            let Some(lane) = &mut state.lanes[id.index()] else { return };
            let oldest = if lane.is_busy() { lane.oldest().cloned() } else { None };
            match oldest {
                Some(Mark::At(mark)) => {
                    drop(state);
                    insist(|| mark.synchronize());
                    state = lock(&self.state);
                    self.land(&mut state, id, &mark);
                }
                Some(Mark::Here) => self.land_next(&mut state, id),
                Some(Mark::Refused(_)) => {
                    if !lane.mark_again() {
                        drop(state);
                        std::thread::sleep(ASK_AGAIN);
                        state = lock(&self.state);
                    }
                }
                None if closed && !lane.is_busy() => {
                    lane.has_thread = false;
                    return;
                }
                None => {
                    state.sleepers += 1;
                    state = wait(&self.moved, state);
                    state.sleepers -= 1;
                }
            }
            let moved = self.submit(&mut state);
            state = self.tell(state, moved);
        }
    }

    /// Takes the flight out that ends at `mark`, unless somebody has.
    fn land(&self, state: &mut State, id: LaneId, mark: &Arc<Event>) {
        let lane = state.lanes[id.index()].as_ref();
        let oldest = lane.and_then(Lane::oldest);
        if matches!(oldest, Some(Mark::At(oldest)) if Arc::ptr_eq(oldest, mark)) {
            self.land_next(state, id);
        }
    }

    fn land_next(&self, state: &mut State, id: LaneId) {
        let State { lanes, ended, .. } = state;
        if let Some(lane) = &mut lanes[id.index()] {
            self.learn(lane.land(ended));
        }
    }

    /// Wakes whoever looks after lanes.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let asleep = state.sleepers > 0;
        drop(state);
        if asleep {
            self.moved.notify_all();
        }
    }

    /// Tells of copies that ended, with nothing locked, and wakes the others if anything moved.
    fn tell<'a>(&'a self, mut state: MutexGuard<'a, State>, moved: bool) -> MutexGuard<'a, State> {
        let ended = std::mem::take(&mut state.ended);
        if ended.is_empty() && !moved {
            return state;
        }
        if moved {
            self.wake(state);
        } else {
            drop(state);
        }
        ended.into_iter().for_each(|(request, outcome)| request.finish(outcome));
        lock(&self.state)
    }

    /// Goes on with copies held back as far as that is possible without waiting; true while
    /// there are any.
    pub(super) fn drive(&self) -> bool {
        let mut state = lock(&self.state);
        if self.is_driven_by_caller() {
            let State { lanes, ended, .. } = &mut *state;
            for lane in lanes.iter_mut().flatten().filter(|lane| lane.is_busy()) {
                self.learn(lane.land_reached(ended));
            }
            let moved = self.submit(&mut state);
            state = self.tell(state, moved);
        }
        state.lanes.iter().flatten().any(Lane::is_busy)
    }

    /// Lets the threads end once nothing is held back.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        self.wake(state);
    }
}

impl Drop for Queue {
    /// With copies held back only where nobody drives any more: they are cancelled, and what
    /// waits behind them goes on once the chunks with the device are done.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lanes = state.lanes.iter_mut().flatten();
        lanes.filter(|lane| lane.is_busy()).for_each(Lane::abandon);
    }
}
