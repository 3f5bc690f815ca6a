//! One direction of the link, as copies are asked of it.
//!
//! Small copies of demand go to a stream of their own at once. Others go to the lane of their
//! urgency: at once where nothing is held back before them and the window has room, else as the
//! chunks before them are done. What goes next is chosen in `window`, and who goes on with copies
//! that are held back is in `driving`.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::lane::{Ended, Lane, Timed};
use super::options::{Driven, FIRST_CHUNK_BYTES, MIN_CHUNK_BYTES, TransferOptions, may_hold_back};
use super::packing;
use super::request::Request;
use super::span::{Span, Spans};
use super::way::Way;
use crate::base::{Error, KIB, Result, lock};
use crate::device::{Device, Event, Gate, Priority, Stream};
use crate::fence::EventPool;
use crate::transfer::Urgency;

/// A copy of demand up to this never waits for chunks of this transfer: less than 5 microseconds
/// of 55 GB/s.
pub(super) const EXPRESS_BYTES: u64 = 256 * KIB;

/// Whose copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneId {
    Express,
    Of(Urgency),
}

impl LaneId {
    pub(super) fn index(self) -> usize {
        match self {
            Self::Of(Urgency::Demand) => 0,
            Self::Of(Urgency::Ahead) => 1,
            Self::Express => 2,
        }
    }

    pub(super) fn name(self) -> &'static str {
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
    pub(super) options: TransferOptions,
    may_hold_back: bool,
    express: Stream,
    pub(super) events: EventPool,
    pub(super) state: Mutex<State>,
    /// Something was held back, given to the device, or closed.
    pub(super) moved: Condvar,
    requested_bytes: AtomicU64,
    submitted_bytes: AtomicU64,
    copies: AtomicU64,
    bytes_per_second: AtomicU64,
    /// Parts up to this are gathered; 0 where none are.
    gather_upto: AtomicU64,
}

/// What the lock of a queue guards.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) lanes: [Option<Lane>; 3],
    /// Copies that ended, to be told so once nothing is locked.
    pub(super) ended: Vec<Ended>,
    pub(super) sleepers: usize,
    pub(super) closed: bool,
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
            gather_upto: AtomicU64::new(if packing::gathers(device, way, options) {
                packing::GATHER_UPTO_BYTES
            } else {
                0
            }),
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
    pub(super) fn learn(&self, timed: Option<Timed>) {
        // A small chunk tells of calls, not of the link.
        let Some((bytes, ns)) = timed.filter(|&(bytes, _)| bytes >= MIN_CHUNK_BYTES / 2) else {
            return;
        };
        let rate = (bytes as f64 / ns as f64 * 1e9) as u64;
        let old = self.bytes_per_second.load(Ordering::Relaxed);
        let new = if old == 0 { rate } else { old - old / 8 + rate / 8 };
        self.bytes_per_second.store(new, Ordering::Relaxed);
    }

    /// Sets the estimate, and to which size parts are gathered, as a calibration found them.
    pub(super) fn assume(&self, bytes_per_second: u64, gather_upto: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
        if self.gather_upto_bytes() > 0 {
            self.gather_upto.store(gather_upto, Ordering::Relaxed);
        }
    }

    pub(super) fn gather_upto_bytes(&self) -> u64 {
        self.gather_upto.load(Ordering::Relaxed)
    }

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

    pub(super) fn lane<'a>(&self, state: &'a mut State, id: LaneId) -> Result<&'a mut Lane> {
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
