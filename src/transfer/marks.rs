//! The ends of copies: a pair of timing events around each, which also tell how long the link
//! was busy. Made once and used again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::board::LaneId;
use super::status::LoadStatus;
use crate::base::Result;
use crate::device::{Device, Event, Stream};

/// The events around a copy. Whoever keeps one keeps it from being recorded again.
#[derive(Debug, Clone)]
pub(super) struct CopyMark(Arc<(Event, Event)>);

impl CopyMark {
    fn new(device: &Device) -> Result<Self> {
        Ok(Self(Arc::new((Event::with_timing(device)?, Event::with_timing(device)?))))
    }

    /// Whether the copy has run. Never blocks.
    pub(super) fn is_reached(&self) -> Result<bool> {
        self.0.1.query()
    }

    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// A copy under way.
#[derive(Debug)]
struct Running {
    number: u64,
    bytes: u64,
    /// The load it is of.
    load: Arc<LoadStatus>,
    mark: CopyMark,
}

/// The marks of the copies of both lanes.
#[derive(Debug, Default)]
pub(super) struct Marks {
    idle: VecDeque<CopyMark>,
    /// Of each lane.
    running: [VecDeque<Running>; 2],
    busy_ns: u64,
    arrived_bytes: u64,
}

impl Marks {
    /// Makes sure `copies` can be under way without another event being made.
    pub(super) fn reserve(&mut self, device: &Device, copies: usize) -> Result<()> {
        let running = self.running.iter().map(VecDeque::len).sum::<usize>();
        for _ in self.idle.len() + running..copies {
            self.idle.push_back(CopyMark::new(device)?);
        }
        self.running.iter_mut().for_each(|running| running.reserve(copies));
        Ok(())
    }

    /// Times a copy of `lane`, of a number and so many bytes of a load, which `copy` enqueues on
    /// `stream`, and marks its end.
    pub(super) fn time(
        &mut self,
        lane: LaneId,
        (number, bytes): (u64, u64),
        load: &Arc<LoadStatus>,
        stream: &Stream,
        copy: impl FnOnce() -> Result<()>,
    ) -> Result<CopyMark> {
        let unused = self.idle.iter().position(CopyMark::is_unused);
        let mark = match unused.and_then(|at| self.idle.remove(at)) {
            Some(mark) => mark,
            None => CopyMark::new(stream.device())?,
        };
        mark.0.0.record(stream)?;
        copy()?;
        mark.0.1.record(stream)?;
        let load = Arc::clone(load);
        let copy = Running { number, bytes, load, mark: mark.clone() };
        self.running[lane as usize].push_back(copy);
        Ok(mark)
    }

    /// Nanoseconds of device time spent in copies that were harvested.
    pub(super) fn busy_ns(&self) -> u64 {
        self.busy_ns
    }

    /// Bytes of copies that were harvested.
    pub(super) fn arrived_bytes(&self) -> u64 {
        self.arrived_bytes
    }

    /// Counts the copies of `lane` that are over; gives the number of the last.
    pub(super) fn harvest(&mut self, lane: LaneId) -> Option<u64> {
        let mut last = None;
        while let Some(copy) = self.running[lane as usize].pop_front() {
            if !copy.mark.is_reached().unwrap_or(false) {
                self.running[lane as usize].push_front(copy);
                break;
            }
            let Running { number, bytes, load, mark } = copy;
            let ns = mark.0.1.elapsed_ns_since(&mark.0.0).unwrap_or(0);
            load.steps().add_link(ns);
            self.busy_ns += ns;
            self.arrived_bytes += bytes;
            self.idle.push_back(mark);
            last = Some(number);
        }
        last
    }
}
