//! Marks in the streams for the attribution of stalls: three for each lease, three for each
//! load, used again and again. Off unless asked for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::stalls::{LoadSpan, Loads, PassStalls, WaitSpan, attribute};
use crate::base::Result;
use crate::device::{Device, Event, Stream};
use crate::fence::StreamKey;
use crate::transfer::{LoadStatus, Urgency};

/// Leases of one pass beyond this many times the units are not timed: a program that never
/// ends a pass must not fill memory.
const LEASES_PER_UNIT: usize = 8;

/// The marks of leases and loads since the last report.
#[derive(Debug)]
pub(super) struct Timing {
    device: Device,
    idle: Vec<Event>,
    /// In the order of their asking.
    waits: VecDeque<Wait>,
    most_waits: usize,
    next_wait: u64,
    /// In the order in which they were enqueued, on either copy stream.
    loads: VecDeque<Load>,
    most_loads: usize,
    next_load: u64,
    streams: Vec<Asking>,
}

/// A lease being timed.
#[derive(Debug)]
struct Wait {
    number: u64,
    unit: usize,
    /// Number of the load it waited for.
    load: u64,
    stream: StreamKey,
    asked: Event,
    ready: Event,
    /// The end of its work, once it was dropped.
    done: Option<Event>,
    /// The lease whose end the stream had reached, and gone idle, when this one was asked for.
    dry_since: Option<u64>,
}

/// A load being timed, or a part of one.
#[derive(Debug)]
struct Load {
    number: u64,
    marks: LoadMarks,
    status: Arc<LoadStatus>,
    /// Whether nothing of it had to be read.
    only_link: bool,
    /// Which bytes of how many it is of.
    share: (u64, u64),
    urgency: Urgency,
}

/// The marks of one load in the copy stream.
#[derive(Debug)]
pub(super) struct LoadMarks {
    entered: Event,
    roomed: Event,
    loaded: Event,
}

/// A stream that leases.
#[derive(Debug)]
struct Asking {
    key: StreamKey,
    live_leases: usize,
    /// The lease that was dropped last.
    last_done: Option<u64>,
}

/// The first marks of a lease.
#[derive(Debug)]
pub(super) struct Asked {
    event: Event,
    dry_since: Option<u64>,
}

/// What a lease does at its end.
#[derive(Debug)]
pub(super) struct DoneMark {
    number: u64,
    event: Event,
    recorded: bool,
}

impl DoneMark {
    /// Marks the end of the lease's work on its stream.
    pub(super) fn record(&mut self, stream: &Stream) {
        let recorded = self.event.record(stream);
        self.recorded = recorded.is_ok();
        if let Err(error) = recorded {
            tracing::warn!(%error, "the end of a lease is not timed");
        }
    }
}

impl Timing {
    /// With all the events that passes over `units` units need.
    pub(super) fn new(device: &Device, units: usize) -> Result<Self> {
        // A pass has a load of each unit, in two parts on average: at the end of each unit in the
        // way another begins.
        let (most_waits, most_loads) = (LEASES_PER_UNIT * units + 16, 4 * units + 16);
        let events = 3 * (2 * units + 2 + most_loads);
        Ok(Self {
            device: device.clone(),
            idle: (0..events).map(|_| Event::with_timing(device)).collect::<Result<_>>()?,
            waits: VecDeque::with_capacity(2 * units),
            most_waits,
            next_wait: 0,
            loads: VecDeque::with_capacity(most_loads),
            most_loads,
            next_load: 0,
            streams: Vec::new(),
        })
    }

    fn event(&mut self) -> Result<Event> {
        self.idle.pop().map_or_else(|| Event::with_timing(&self.device), Ok)
    }

    fn mark(&mut self, stream: &Stream) -> Result<Event> {
        let event = self.event()?;
        event.record(stream)?;
        Ok(event)
    }

    /// Marks that `stream` asks for a unit.
    pub(super) fn ask(&mut self, stream: &Stream) -> Result<Option<Asked>> {
        if self.waits.len() >= self.most_waits {
            return Ok(None);
        }
        let dry_since = self.dry_since(StreamKey::of(stream));
        Ok(Some(Asked { event: self.mark(stream)?, dry_since }))
    }

    /// The lease at whose end the stream stands idle now, if it does.
    fn dry_since(&self, key: StreamKey) -> Option<u64> {
        let asking = self.streams.iter().find(|asking| asking.key == key)?;
        let last = asking.last_done.filter(|_| asking.live_leases == 0)?;
        let wait = self.waits.iter().rev().find(|wait| wait.number == last)?;
        wait.done.as_ref()?.query().unwrap_or(false).then_some(last)
    }

    /// Marks that `stream` has `unit`, of load number `load`. What it gives is to be recorded at
    /// the lease's end and brought [back](Self::done).
    pub(super) fn ready(
        &mut self,
        asked: Asked,
        unit: usize,
        load: u64,
        stream: &Stream,
    ) -> Result<DoneMark> {
        let (ready, event) = (self.mark(stream)?, self.event()?);
        let (number, key) = (self.next_wait, StreamKey::of(stream));
        self.next_wait += 1;
        let Asked { event: asked, dry_since } = asked;
        let wait = Wait { number, unit, load, stream: key, asked, ready, done: None, dry_since };
        self.waits.push_back(wait);
        match self.streams.iter_mut().find(|asking| asking.key == key) {
            Some(asking) => asking.live_leases += 1,
            None => self.streams.push(Asking { key, live_leases: 1, last_done: None }),
        }
        Ok(DoneMark { number, event, recorded: false })
    }

    /// Takes the mark of a lease's end back.
    pub(super) fn done(&mut self, mark: DoneMark, stream: StreamKey) {
        let DoneMark { number, event, recorded } = mark;
        if let Some(asking) = self.streams.iter_mut().find(|asking| asking.key == stream) {
            asking.live_leases = asking.live_leases.saturating_sub(1);
            asking.last_done = Some(number).filter(|_| recorded);
        }
        match self.waits.iter_mut().rev().find(|wait| wait.number == number && recorded) {
            Some(wait) => wait.done = Some(event),
            None => self.idle.push(event),
        }
    }

    /// Marks that the copy stream comes to a load.
    pub(super) fn enter_load(&mut self, copies: &Stream) -> Result<LoadMarks> {
        let entered = self.mark(copies)?;
        Ok(LoadMarks { entered, roomed: self.event()?, loaded: self.event()? })
    }

    /// Takes in a load whose last mark was recorded; gives its number. `only_link` says that
    /// nothing of it had to be read, `share` how many of its unit's bytes it moved.
    pub(super) fn loaded(
        &mut self,
        marks: LoadMarks,
        status: &Arc<LoadStatus>,
        (only_link, share): (bool, (u64, u64)),
        urgency: Urgency,
    ) -> u64 {
        if self.loads.len() == self.most_loads {
            let oldest = self.loads.pop_front();
            self.idle.extend(oldest.into_iter().flat_map(|load| load.marks.into_events()));
        }
        self.next_load += 1;
        let (number, status) = (self.next_load, Arc::clone(status));
        self.loads.push_back(Load { number, marks, status, only_link, share, urgency });
        number
    }

    /// Marks the end of a pass on `stream`, before it is waited for: the mark, and the lease
    /// since whose end the stream had been idle.
    pub(super) fn end(&mut self, stream: &Stream) -> Result<(Event, Option<u64>)> {
        let dry_since = self.dry_since(StreamKey::of(stream));
        Ok((self.mark(stream)?, dry_since))
    }

    /// Where the time went since the first lease of `stream` after the last report. `end` is the
    /// pass's end, which was reached.
    pub(super) fn report(
        &mut self,
        (end, dry_since): (Event, Option<u64>),
        stream: &Stream,
    ) -> Result<PassStalls> {
        let key = StreamKey::of(stream);
        let stalls = self.stalls(key, &end, dry_since);
        self.forget(key);
        self.idle.push(end);
        stalls
    }

    fn stalls(&self, key: StreamKey, end: &Event, dry_since: Option<u64>) -> Result<PassStalls> {
        let of_stream: Vec<&Wait> = self.waits.iter().filter(|wait| wait.stream == key).collect();
        let Some(first) = of_stream.first() else { return Ok(PassStalls::default()) };
        let since = |event: &Event| event.elapsed_ns_since(&first.asked);
        let dry = |number: Option<u64>| {
            let wait = of_stream.iter().find(|wait| Some(wait.number) == number);
            wait.and_then(|wait| wait.done.as_ref()).map(since).transpose()
        };
        let urgency = |number: u64| {
            let load = self.loads.iter().find(|load| load.number == number);
            load.map_or(Urgency::Ahead, |load| load.urgency)
        };
        let span = |wait: &&Wait| {
            Ok(WaitSpan {
                unit: wait.unit,
                urgency: urgency(wait.load),
                asked: since(&wait.asked)?,
                ready: since(&wait.ready)?,
                dry_since: dry(wait.dry_since)?,
            })
        };
        let waits = of_stream.iter().map(span).collect::<Result<Vec<_>>>()?;
        // What a copy stream did after the last load that was waited for may not be over.
        let spans = |of: Urgency| {
            let numbers = of_stream.iter().map(|wait| wait.load);
            let last = numbers.filter(|&load| urgency(load) == of).max().unwrap_or(0);
            let loads = self.loads.iter().filter(|load| load.number <= last);
            let loads = loads.filter(|load| load.urgency == of);
            loads.map(|load| load.span(since)).collect::<Result<Vec<_>>>()
        };
        let loads = Loads { ahead: spans(Urgency::Ahead)?, demand: spans(Urgency::Demand)? };
        Ok(attribute(&waits, &loads, since(end)?, dry(dry_since)?))
    }

    /// Drops the leases of a stream, and their marks.
    fn forget(&mut self, key: StreamKey) {
        for _ in 0..self.waits.len() {
            match self.waits.pop_front() {
                Some(wait) if wait.stream == key => {
                    self.idle.extend([wait.asked, wait.ready].into_iter().chain(wait.done));
                }
                other => self.waits.extend(other),
            }
        }
        self.streams.retain_mut(|asking| {
            asking.last_done = asking.last_done.filter(|_| asking.key != key);
            asking.live_leases > 0 || asking.key != key
        });
    }
}

impl LoadMarks {
    /// Marks that the load's place is free.
    pub(super) fn roomed(&self, copies: &Stream) -> Result<()> {
        self.roomed.record(copies)
    }

    /// Marks that all is there.
    pub(super) fn loaded(&self, copies: &Stream) -> Result<()> {
        self.loaded.record(copies)
    }

    fn into_events(self) -> [Event; 3] {
        [self.entered, self.roomed, self.loaded]
    }
}

impl Load {
    fn span(&self, since: impl Fn(&Event) -> Result<u64>) -> Result<LoadSpan> {
        let LoadMarks { entered, roomed, loaded } = &self.marks;
        let moving_ns = loaded.elapsed_ns_since(roomed)?;
        let steps = self.status.steps();
        let (bytes, of_bytes) = self.share;
        let of_part = |ns: u64| (ns as f64 * (bytes as f64 / of_bytes.max(1) as f64)) as u64;
        Ok(LoadSpan {
            entered: since(entered)?,
            roomed: since(roomed)?,
            loaded: since(loaded)?,
            moving_ns,
            link_ns: if self.only_link { moving_ns } else { of_part(steps.link_ns()) },
            disk_share: steps.disk_ns(),
            window_share: steps.window_ns(),
        })
    }
}
