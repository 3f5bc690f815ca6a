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
use super::files::{FileSet, Files};
use super::home::{Home, HomeCell, HomeMemory};
use super::marks::Marks;
use super::options::LoaderOptions;
use super::parts::{LoadInParts, Source};
use super::pinner::Pinner;
use super::plan::{LoadPlan, SLACK_BYTES};
use super::ram::{Keeper, Need, RamCache};
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
    /// What its files are.
    files: Arc<FileSet>,
    /// The cache its homes are of, if it has one.
    keeper: Option<Keeper>,
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
        files: Files,
        options: LoaderOptions,
    ) -> Result<Self> {
        Self::build(device, pinned, files, options, None)
    }

    /// As [`new`](Self::new), with homes of a cache, where they stay when this loader is gone and
    /// where others find them. `component` names the model, or the part of one, as
    /// [`RamCache::begin`] and [`RamCache::expect`] do. Units of the same component and the same
    /// state of the same files are the same.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_ram(
        device: &Device,
        pinned: &PinnedPool,
        files: Files,
        options: LoaderOptions,
        (cache, component): (&RamCache, &str),
    ) -> Result<Self> {
        Self::build(device, pinned, files, options, Some((cache, component)))
    }

    fn build(
        device: &Device,
        pinned: &PinnedPool,
        mut files: Files,
        options: LoaderOptions,
        cache: Option<(&RamCache, &str)>,
    ) -> Result<Self> {
        let file_set = Arc::new(files.identity());
        let keeper = cache.map(|(cache, component)| cache.keeper(component, &file_set));
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
        let disk_bytes = keeper.as_ref().map(Keeper::disk_bytes);
        let board = Arc::new(Board::new(device, options.in_flight(device), disk_bytes)?);
        let streams = [&ahead, demand.as_ref().unwrap_or(&ahead)].map(|way| way.stream.clone());
        let pinner = Pinner::new(pinned, streams);
        let loader = Self {
            ahead,
            demand,
            board,
            pinner,
            files: file_set,
            keeper,
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

    /// A home for a unit that every pass needs. It is pinned by another thread, as far as the
    /// pinned budget goes and the system lets it, one after the other in the order they were asked
    /// for; reading it begins with the first load that finds it pinned. On a simulated device it is
    /// pinned at once. With a cache it is the one that other loaders of the component have, and the
    /// cache's budget counts too.
    #[must_use]
    pub fn home(&self, plan: &Arc<LoadPlan>) -> Home {
        self.home_for(plan, Need::EveryPass)
    }

    /// A home for a unit that is loaded once to stay on the device, from which it comes back after
    /// it had to leave. None without a cache, or with one that
    /// [keeps no copies](super::RamOptions::keep_ram_copy) of residents, unless the bytes are there
    /// anyway. Blocks until it is pinned or refused: what is loaded once is to be read into it.
    #[must_use]
    pub fn resident_home(&self, plan: &Arc<LoadPlan>) -> Option<Home> {
        let keeper = self.keeper.as_ref()?;
        if !keeper.keeps_ram_copy() {
            return keeper.kept(plan);
        }
        let home = self.home_for(plan, Need::NextLoad);
        self.wait_for_homes();
        Some(home)
    }

    /// Tells that a unit was loaded to stay on the device: where no copies of residents are kept,
    /// its home is let go of.
    pub fn note_resident(&self, plan: &LoadPlan) {
        if let Some(keeper) = self.keeper.as_ref().filter(|keeper| !keeper.keeps_ram_copy()) {
            keeper.forget(plan);
        }
    }

    /// The home of a unit if it is a cache's: asked for before the first load, it keeps what is read
    /// for that.
    pub(crate) fn cached_home(&self, plan: &Arc<LoadPlan>) -> Option<Home> {
        self.keeper.is_some().then(|| self.home(plan))
    }

    fn home_for(&self, plan: &Arc<LoadPlan>, need: Need) -> Home {
        let home = match &self.keeper {
            Some(keeper) => keeper.home(plan, need),
            None => Home(Arc::new(HomeCell::new(plan, &self.files, None))),
        };
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
        if home.is_some_and(|home| !home.0.is_of(plan, &self.files)) {
            let expected = "it must be of the same tensors of the same files";
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
        let found = home.map_or(Found::Files, |home| self.find(home));
        if let Some(keeper) = &self.keeper {
            let is_hit = match &found {
                Found::Files => false,
                Found::Ram(_) => true,
                Found::Home(memory) => memory.is_whole(),
            };
            keeper.note_load(plan.len_bytes, is_hit);
        }
        let window =
            |ram, keep, status| LoadInParts::new(plan, Source::Window { ram, keep }, status, lane);
        Ok(match (found, home) {
            (Found::Home(memory), Some(Home(home))) => {
                self.begin_home(home, &memory, lane);
                // Cut as whoever reads it has cut it.
                let status = Arc::clone(&home.status);
                LoadInParts::new(&home.plan, Source::Home(memory), status, lane)
            }
            (Found::Ram(memory), _) => window(Some(memory), None, self.statuses.take()),
            // What others may want as well is not read twice.
            (_, home) => {
                let keep = home.filter(|_| self.keeper.is_some()).map(|home| Arc::clone(&home.0));
                window(None, keep, self.statuses.take())
            }
        })
    }

    /// Where the bytes of a unit with a home come from now. Has the home pinned, or opened to this
    /// device, where that is still to be done.
    fn find(&self, home: &Home) -> Found {
        self.pinner.ask(&home.0);
        let Some(memory) = home.0.memory() else { return Found::Files };
        let device = self.ahead.stream.device();
        if memory.is_open_to(device) {
            // Another who reads it may end before it is read.
            if memory.is_whole() || memory.is_read_by(&self.board) {
                return Found::Home(memory);
            }
        } else if memory.is_whole() {
            self.pinner.ask_for_guest(&memory);
            return match memory.is_open_to(device) {
                true => Found::Home(memory),
                false => Found::Ram(memory),
            };
        }
        if memory.is_abandoned() {
            // Of no use to anybody: pinned for another device, or read to by who is gone. Next
            // time it is pinned for this one.
            drop(memory);
            drop(home.0.take_idle());
        }
        Found::Files
    }

    /// Sees to it that a home is read, and stays until its copies are over.
    fn begin_home(&self, home: &HomeCell, memory: &Arc<HomeMemory>, lane: LaneId) {
        memory.note_users([self.stream(), self.stream_for(Urgency::Demand)], &self.board);
        if !memory.is_whole() {
            self.read_home(home, memory, lane);
            if lane == LaneId::Demand {
                self.board.hurry(memory);
            }
        }
    }

    /// Queues the reading of what a home is missing.
    fn read_home(&self, home: &HomeCell, memory: &Arc<HomeMemory>, lane: LaneId) {
        for chunk in (0..home.plan.home.chunks.len()).filter(|&chunk| memory.begin_chunk(chunk)) {
            let job = Job {
                target: Target::Home(Arc::clone(memory)),
                plan: Arc::clone(&home.plan),
                chunk,
                landing: Arc::clone(&memory.landing),
                status: Arc::clone(&home.status),
                ram: None,
                keep: None,
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

    /// Bytes of tensors that were read from files so far.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.board.disk_bytes()
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

/// Where the bytes of a load come from.
enum Found {
    /// Files, through the window.
    Files,
    /// Host memory the device does not copy from, through the window.
    Ram(Arc<HomeMemory>),
    /// A home, straight.
    Home(Arc<HomeMemory>),
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.pinner.close();
        self.board.close();
    }
}
