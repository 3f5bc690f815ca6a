//! Loads: from files through pinned memory to the device. The thread that asks never waits; it
//! enqueues copies that wait for their turn at a gate, and readers open it.
//!
//! A load goes through a **window** of a few pinned slots, chunk by chunk, or through a **home**
//! of its own: pinned memory that keeps the bytes, so that the next load of them reads no disk.
//! Homes are pinned behind; until one is there its unit goes through the window. Loads that somebody
//! waits for have a window and a stream of their own.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::board::{Board, Job, LaneId, Target};
use super::disk::{self, DiskReport};
use super::files::Files;
use super::home::{Home, HomeCell, HomeMemory};
use super::marks::Marks;
use super::options::LoaderOptions;
use super::parts::LoadInParts;
use super::pinner::Pinner;
use super::plan::{LoadPlan, SLACK_BYTES};
use super::status::{LoadStatus, Statuses};
use super::urgency::Urgency;
use super::window::{Way, affordable_slots};
use crate::base::{Error, Result};
use crate::device::{Device, DevicePtr, Stream};
use crate::pinned::PinnedPool;
use crate::pool::Buffer;
use crate::weights::UnitLayout;

/// Slots of the window for loads that somebody waits for.
const DEMAND_SLOTS: usize = 4;

/// Loads units to the device. Not thread-safe: its owner's lock guards it.
#[derive(Debug)]
pub struct Loader {
    /// Without `demand`, where the pinned budget is too tight for two windows.
    ahead: Way,
    demand: Option<Way>,
    pub(super) board: Arc<Board>,
    pinner: Arc<Pinner>,
    report: DiskReport,
    pub(super) marks: Marks,
    statuses: Statuses,
    chunk_bytes: u64,
    read_bytes: u64,
    pub(super) bytes_moved: u64,
}

impl Loader {
    /// A loader with its copy streams, windows and threads.
    ///
    /// # Errors
    /// A pinned budget too small for two slots of 64 KiB; disk options the files or the system
    /// do not allow; what the driver says.
    pub fn new(
        device: &Device,
        pinned: &PinnedPool,
        mut files: Files,
        options: LoaderOptions,
    ) -> Result<Self> {
        let (slots, slot_bytes) = affordable_slots(pinned, options.slots, options.chunk_bytes)?;
        let chunk_bytes = slot_bytes - SLACK_BYTES;
        let report = disk::probe(&mut files.0, options.disk, options.threads)?;
        let ahead = Way::new(device, pinned, slots, chunk_bytes)?;
        // A part of the budget that nobody misses.
        let both = (slots + DEMAND_SLOTS) as u64 * slot_bytes;
        let demand = match pinned.budget().bytes / 4 >= both {
            true => Some(Way::new(device, pinned, DEMAND_SLOTS, chunk_bytes)?),
            false => None,
        };
        let board = Arc::new(Board::new(device, options.in_flight(device))?);
        let streams = [&ahead, demand.as_ref().unwrap_or(&ahead)].map(|way| way.stream.clone());
        let pinner = Pinner::new(pinned, streams);
        let loader = Self {
            ahead,
            demand,
            board,
            pinner,
            report,
            marks: Marks::default(),
            statuses: Statuses::default(),
            chunk_bytes,
            read_bytes: options.disk.read_bytes,
            bytes_moved: 0,
        };
        // From here on dropping the loader ends those that were started.
        disk::start(&loader.board, files, &loader.report, options.disk)?;
        for way in [Some(&loader.ahead), loader.demand.as_ref()].into_iter().flatten() {
            way.complete(&loader.pinner, chunk_bytes);
        }
        Ok(loader)
    }

    /// The stream copies run on that nobody waits for yet: wait for its end to wait for a load.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.ahead.stream
    }

    /// The stream loads of this urgency run on; one and the same where the pinned budget is too
    /// tight for two windows.
    #[must_use]
    pub fn stream_for(&self, urgency: Urgency) -> &Stream {
        match (urgency, &self.demand) {
            (Urgency::Demand, Some(demand)) => &demand.stream,
            _ => self.stream(),
        }
    }

    /// How files are read, and why so.
    #[must_use]
    pub fn disk(&self) -> &DiskReport {
        &self.report
    }

    /// How a unit of `layout` is loaded by this loader. Keep it with the unit.
    #[must_use]
    pub fn plan(&self, layout: &UnitLayout) -> Arc<LoadPlan> {
        Arc::new(LoadPlan::new(layout, self.chunk_bytes, self.read_bytes))
    }

    /// A home for a unit. It is pinned by another thread, as far as the pinned budget goes and the
    /// system lets it, one after the other in the order they were asked for; reading it begins
    /// with the first load that finds it pinned. On a simulated device it is pinned at once.
    #[must_use]
    pub fn home(&self, plan: &Arc<LoadPlan>) -> Home {
        let home = Home(Arc::new(HomeCell::new(plan, &self.board)));
        self.pinner.ask(&home.0);
        home
    }

    /// Waits until the windows and every home that was asked for are pinned or refused. Blocks for
    /// as long as the system takes to pin them: some 0.3 seconds a GiB.
    pub fn wait_for_homes(&self) {
        self.pinner.wait();
    }

    /// Who pins the homes.
    pub(crate) fn pinner(&self) -> &Arc<Pinner> {
        &self.pinner
    }

    /// Enqueues loading a unit to `dst`, from `home` if it is pinned, else from its files. A home
    /// that was refused is asked for again. What
    /// is enqueued on [`stream_for`](Self::stream_for) this urgency afterwards finds it loaded,
    /// or its status failed. Never waits, unless the driver is failing.
    ///
    /// # Errors
    /// The loader was cancelled; a plan for larger chunks; a home of another plan or loader;
    /// what the driver says.
    ///
    /// # Safety
    /// `dst` has room for the unit and stays valid until the stream has run what is enqueued;
    /// no work that the stream is not ordered after touches it.
    pub unsafe fn load(
        &mut self,
        dst: DevicePtr,
        plan: &Arc<LoadPlan>,
        home: Option<&Home>,
        urgency: Urgency,
    ) -> Result<Arc<LoadStatus>> {
        let mut load = self.begin(plan, home, urgency)?;
        // SAFETY: the caller's promise.
        unsafe { self.go_on(&mut load, dst, plan.len_bytes) }?;
        Ok(Arc::clone(load.status()))
    }

    /// Begins a load as [`load`](Self::load) does, and enqueues none of it yet:
    /// [`go_on`](Self::go_on) does.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn begin(
        &mut self,
        plan: &Arc<LoadPlan>,
        home: Option<&Home>,
        urgency: Urgency,
    ) -> Result<LoadInParts> {
        if self.board.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let ours = |home: &Home| {
            Arc::ptr_eq(&home.0.plan, plan) && home.0.board.ptr_eq(&Arc::downgrade(&self.board))
        };
        if home.is_some_and(|home| !ours(home)) {
            let expected = "it must be made by this loader with the plan of this load";
            return Err(Error::invalid("home", "of another unit", expected));
        }
        let longest = plan.window.chunks.iter().map(|chunk| chunk.len).max().unwrap_or(0);
        if longest > self.chunk_bytes {
            let expected = format!("this loader's chunks have {}", self.chunk_bytes);
            return Err(Error::invalid("plan with chunks of", longest, expected));
        }
        let lane = match (urgency, &self.demand) {
            (Urgency::Demand, Some(_)) => LaneId::Demand,
            _ => LaneId::Ahead,
        };
        if let Some(home) = home {
            self.pinner.ask(&home.0);
        }
        let pinned = home.and_then(|home| Some((&home.0.status, home.0.memory()?)));
        let Some((status, memory)) = pinned else {
            return Ok(LoadInParts::new(plan, None, self.statuses.take(), lane));
        };
        if memory.begin_reading() {
            self.read_home(plan, (status, &memory), lane);
        } else if lane == LaneId::Demand {
            self.board.hurry(&memory);
        }
        Ok(LoadInParts::new(plan, Some(memory), Arc::clone(status), lane))
    }

    /// Queues the reading of a home.
    fn read_home(
        &self,
        plan: &Arc<LoadPlan>,
        (status, home): (&Arc<LoadStatus>, &Arc<HomeMemory>),
        lane: LaneId,
    ) {
        for chunk in 0..plan.home.chunks.len() {
            let job = Job {
                target: Target::Home(Arc::clone(home)),
                plan: Arc::clone(plan),
                chunk,
                landing: Arc::clone(&home.landing),
                status: Arc::clone(status),
            };
            self.board.push_home_read(lane, job);
        }
    }

    pub(super) fn way(&mut self, lane: LaneId) -> &mut Way {
        match (lane, &mut self.demand) {
            (LaneId::Demand, Some(demand)) => demand,
            _ => &mut self.ahead,
        }
    }

    /// As [`load`](Self::load), to the start of a buffer. Safe because the
    /// buffer orders the copy stream after its earlier uses and later ones after it.
    ///
    /// # Errors
    /// A buffer smaller than the unit; as [`load`](Self::load).
    pub fn load_buffer(
        &mut self,
        buffer: &Buffer<u8>,
        plan: &Arc<LoadPlan>,
        home: Option<&Home>,
        urgency: Urgency,
    ) -> Result<Arc<LoadStatus>> {
        if plan.len_bytes > buffer.size_bytes() {
            let expected = format!("it must hold {} bytes", plan.len_bytes);
            return Err(Error::invalid("buffer", buffer.size_bytes(), expected));
        }
        let stream = self.stream_for(urgency).clone();
        buffer.in_order(&stream, || {
            // SAFETY: the buffer holds the unit by the check; this stream is ordered for it, and
            // it outlives what the stream is given.
            unsafe { self.load(buffer.ptr(), plan, home, urgency) }
        })
    }

    /// Makes sure so many `loads` of so many `copies` in all can be under way without an event
    /// being made or memory taken from the heap.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reserve(&mut self, loads: usize, copies: usize) -> Result<()> {
        self.statuses.reserve(loads);
        self.board.reserve(copies);
        // The mark of each slot's last copy may be looked at while others are made.
        let slots = self.ahead.slots() + DEMAND_SLOTS;
        self.marks.reserve(self.ahead.stream.device(), copies + slots)
    }

    /// Bytes enqueued to cross the link so far.
    #[must_use]
    pub fn bytes_moved(&self) -> u64 {
        self.bytes_moved
    }

    /// Bytes of copies that are done.
    pub fn arrived_bytes(&mut self) -> u64 {
        self.harvest(LaneId::Ahead);
        self.harvest(LaneId::Demand);
        self.marks.arrived_bytes()
    }

    /// Nanoseconds of device time the link was busy, in copies that are done.
    pub fn busy_ns(&mut self) -> u64 {
        self.harvest(LaneId::Ahead);
        self.harvest(LaneId::Demand);
        self.marks.busy_ns()
    }

    /// Counts what is over, and lets the board know.
    pub(super) fn harvest(&mut self, lane: LaneId) {
        if let Some(over) = self.marks.harvest(lane) {
            self.board.set_over(lane, over);
        }
    }

    /// Fails every read that is not done; gates open, statuses say [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.board.cancel();
        self.pinner.close();
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.pinner.close();
        self.board.close();
    }
}
