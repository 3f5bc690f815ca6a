//! What is to be read, and which copies wait for it: the one place where the thread that
//! enqueues, the readers and the ends of copies meet.
//!
//! Readers take pieces from here, those of demanded loads first, as soon as the memory they go
//! to is free. Nobody waits for a copy by a call that blocks: where a reader has nothing else to
//! do, it asks the oldest copy under way whether it is over, more and more rarely.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use slab::Slab;

use super::disk::keep;
use super::home::{HomeCell, HomeChunk, HomeMemory};
use super::landing::Landing;
use super::lane::Lane;
use super::marks::CopyMark;
use super::plan::{Cut, LoadPlan};
use super::status::LoadStatus;
use crate::base::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering};
use crate::base::{Error, Result, lock, wait};
use crate::device::{Device, Gate, GivingUp};

/// Which of the two streams a load goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneId {
    /// Somebody waits for it.
    Demand,
    /// It is wanted later.
    Ahead,
}

const LANES: [LaneId; 2] = [LaneId::Demand, LaneId::Ahead];

/// What a job fills.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// A slot of the window, for the copy of this number, once the one of number `after` is
    /// over.
    Slot { lane: LaneId, number: u64, after: u64 },
    /// A chunk of a home.
    Home(Arc<HomeMemory>),
}

/// A chunk to be read.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) target: Target,
    pub(super) plan: Arc<LoadPlan>,
    pub(super) chunk: usize,
    pub(super) landing: Arc<Landing>,
    pub(super) status: Arc<LoadStatus>,
    /// Memory that has the bytes, in place of files.
    pub(super) ram: Option<Arc<HomeMemory>>,
    /// The home to keep them in, of what goes through the window.
    pub(super) keep: Option<Arc<HomeCell>>,
}

impl Job {
    fn cut(&self) -> &Cut {
        match self.target {
            Target::Slot { .. } => &self.plan.window,
            Target::Home(_) => &self.plan.home,
        }
    }

    /// Its pieces: reads, or one copy out of memory.
    fn pieces(&self) -> Range<usize> {
        match &self.ram {
            Some(_) => 0..1,
            None => self.cut().chunks.get(self.chunk).map_or(0..0, |chunk| chunk.pieces.clone()),
        }
    }
}

/// A job somebody works at.
#[derive(Debug)]
struct Active {
    job: Job,
    /// The next piece to hand out, and the end of them.
    next: usize,
    end: usize,
    /// Pieces that are not done.
    left: usize,
    /// Its memory was found to be in use then.
    blocked: Option<Instant>,
    /// Its first piece was handed out then.
    begun: Option<Instant>,
}

/// A piece of a job, to be read and reported by [`Board::finish`].
#[derive(Debug)]
pub(super) struct Work {
    job: usize,
    plan: Arc<LoadPlan>,
    of_home: bool,
    /// Its number in the [`Cut`].
    pub(super) piece: usize,
    pub(super) landing: Arc<Landing>,
    /// Memory that has the bytes of a chunk, in place of files, and the chunk's number.
    pub(super) ram: Option<(Arc<HomeMemory>, usize)>,
}

impl Work {
    /// The cut the piece is of.
    pub(super) fn cut(&self) -> &Cut {
        if self.of_home { &self.plan.home } else { &self.plan.window }
    }
}

/// What [`Board::take`] found.
#[derive(Debug)]
pub(super) enum Taken {
    /// A piece to be read.
    Work(Work),
    /// Nothing can be read now.
    Nothing,
    /// Nothing will be read any more.
    End,
}

#[derive(Debug)]
struct State {
    lanes: [Lane<HomeChunk, CopyMark>; 2],
    /// Jobs of each lane with pieces to hand out, the first one first.
    orders: [VecDeque<usize>; 2],
    jobs: Slab<Active>,
    cancelled: bool,
    closed: bool,
    /// Somebody is asking the oldest copies whether they are over.
    asking: bool,
}

impl State {
    /// Queues a job; one without pieces is done.
    fn push(&mut self, lane: LaneId, job: Job) {
        let pieces = job.pieces();
        if self.cancelled {
            job.status.fail(Error::Cancelled);
        }
        let left = if self.cancelled { 0 } else { pieces.len() };
        let (next, end) = (pieces.start, pieces.end);
        let active = Active { job, next, end, left, blocked: None, begun: None };
        let job = self.jobs.insert(active);
        if left == 0 {
            self.close(job);
        } else {
            self.orders[lane as usize].push_back(job);
        }
    }

    /// The next piece whose memory is free.
    fn pick(&mut self) -> Option<Work> {
        for lane in LANES {
            let Some(&job) = self.orders[lane as usize].front() else { continue };
            let is_blocked = self.is_blocked(job);
            let Some(active) = self.jobs.get_mut(job) else { continue };
            if is_blocked {
                active.blocked.get_or_insert_with(Instant::now);
                continue;
            }
            if let Some(since) = active.blocked.take() {
                active.job.status.steps().add_window(since);
            }
            active.begun.get_or_insert_with(Instant::now);
            let work = Work {
                job,
                plan: Arc::clone(&active.job.plan),
                of_home: matches!(active.job.target, Target::Home(_)),
                piece: active.next,
                landing: Arc::clone(&active.job.landing),
                ram: active.job.ram.clone().map(|memory| (memory, active.job.chunk)),
            };
            active.next += 1;
            if active.next == active.end {
                self.orders[lane as usize].pop_front();
            }
            return Some(work);
        }
        None
    }

    /// Whether the memory a job fills is still being copied.
    fn is_blocked(&self, job: usize) -> bool {
        match self.jobs.get(job).map(|active| &active.job.target) {
            Some(&Target::Slot { lane, after, .. }) => !self.lanes[lane as usize].is_over(after),
            _ => false,
        }
    }

    /// Lets the stream of a lane go on as far as it may beside the other's.
    fn release(&mut self, lane: LaneId) -> Option<u64> {
        let others = LANES.into_iter().filter(|&other| other != lane);
        let elsewhere_bytes = others.map(|other| self.lanes[other as usize].flying_bytes()).sum();
        self.lanes[lane as usize].release(elsewhere_bytes)
    }

    /// The oldest copy of each lane that something waits for. Of each: the copies of one stream
    /// may wait for those of the other.
    fn oldest(&self) -> [Option<(u64, CopyMark)>; 2] {
        // What holds one back may be under way on the other.
        let held_back = self.lanes.iter().any(Lane::is_held_back);
        LANES.map(|lane| {
            let (order, copies) = (&self.orders[lane as usize], &self.lanes[lane as usize]);
            let blocked = order.front().is_some_and(|&job| self.is_blocked(job));
            if blocked || held_back { copies.oldest() } else { None }
        })
    }

    /// Takes a job out of which every piece is done.
    fn close(&mut self, job: usize) {
        let Some(Active { job, begun, .. }) = self.jobs.try_remove(job) else { return };
        if let Some(since) = begun {
            job.status.steps().add_disk(since);
        }
        match job.target {
            Target::Slot { lane, number, .. } => self.lanes[lane as usize].set_filled(number),
            Target::Home(home) => home.set_filled(job.chunk),
        }
    }
}

/// The state, its lock, and the gates of the lanes.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
    gates: [Gate; 2],
    /// Whether asking is what moves the device's clock.
    simulated: bool,
    /// Bytes of tensors that were read from files, of this loader and, where it has one, of all
    /// loaders of its cache.
    disk_bytes: [Arc<AtomicU64>; 2],
    /// Once it is closed, until the last reader has let go of all of the above.
    closing: OnceLock<GivingUp>,
}

impl Board {
    /// An empty board; copies of both lanes have at most `limit_bytes` under way, or one copy
    /// each. Bytes read are counted in `disk_bytes` too.
    pub(super) fn new(
        device: &Device,
        limit_bytes: u64,
        disk_bytes: Option<&Arc<AtomicU64>>,
    ) -> Result<Self> {
        Ok(Self {
            disk_bytes: [Arc::default(), disk_bytes.cloned().unwrap_or_default()],
            state: Mutex::new(State {
                lanes: LANES.map(|_| Lane::new(limit_bytes)),
                orders: LANES.map(|_| VecDeque::new()),
                jobs: Slab::new(),
                cancelled: false,
                closed: false,
                asking: false,
            }),
            changed: Condvar::new(),
            gates: [Gate::new(device)?, Gate::new(device)?],
            simulated: device.info().simulated,
            closing: OnceLock::new(),
        })
    }

    /// Makes sure `copies` can be enqueued and not over without taking memory.
    pub(super) fn reserve(&self, copies: usize) {
        let state = &mut *lock(&self.state);
        state.lanes.iter_mut().for_each(|lane| lane.reserve(copies));
        for order in &mut state.orders {
            order.reserve(copies.saturating_sub(order.len()));
        }
        state.jobs.reserve(copies.saturating_sub(state.jobs.len()));
    }

    /// The gate the stream of a lane waits at for the numbers of its copies.
    pub(super) fn gate(&self, lane: LaneId) -> &Gate {
        &self.gates[lane as usize]
    }

    /// Queues the reading of a chunk for a copy through the window; gives the copy's number.
    /// `after` is the number of the copy that used the slot before.
    pub(super) fn push_slot(
        &self,
        lane: LaneId,
        after: u64,
        bytes: u64,
        job: impl FnOnce(Target) -> Job,
    ) -> u64 {
        let mut state = lock(&self.state);
        let number = state.lanes[lane as usize].push(bytes, None);
        state.push(lane, job(Target::Slot { lane, number, after }));
        self.settle(state);
        number
    }

    /// Queues the copy of a chunk of a home; gives its number, and whether the stream may run
    /// it at once.
    pub(super) fn push_home_copy(&self, lane: LaneId, bytes: u64, chunk: HomeChunk) -> (u64, bool) {
        let mut state = lock(&self.state);
        let copies = &mut state.lanes[lane as usize];
        let number = copies.push(bytes, Some(chunk));
        let before = copies.opened();
        let opened = state.release(lane).unwrap_or(before);
        drop(state);
        // A copy that is let through before its stream waits for it needs no gate.
        if opened > before && before + 1 < number {
            self.raise(lane, opened);
        }
        (number, opened >= number)
    }

    /// Queues the reading of a chunk of a home.
    pub(super) fn push_home_read(&self, lane: LaneId, job: Job) {
        let mut state = lock(&self.state);
        state.push(lane, job);
        self.settle(state);
    }

    /// Puts what is still to be read of `home` before everything else.
    pub(super) fn hurry(&self, home: &Arc<HomeMemory>) {
        let state = &mut *lock(&self.state);
        let [demand, ahead] = &mut state.orders;
        for _ in 0..ahead.len() {
            let Some(job) = ahead.pop_front() else { break };
            let of_home = state.jobs.get(job).is_some_and(
                |active| matches!(&active.job.target, Target::Home(of) if Arc::ptr_eq(of, home)),
            );
            if of_home { demand.push_back(job) } else { ahead.push_back(job) }
        }
    }

    /// The copy is enqueued, with `mark` behind it.
    pub(super) fn set_mark(&self, lane: LaneId, number: u64, mark: CopyMark) {
        lock(&self.state).lanes[lane as usize].set_mark(number, mark);
        self.changed.notify_one();
    }

    /// Copy `number` is over, and so are those before it.
    pub(super) fn set_over(&self, lane: LaneId, number: u64) {
        let mut state = lock(&self.state);
        state.lanes[lane as usize].set_over(number);
        self.settle(state);
    }

    /// The copy is not in the stream, or has run.
    pub(super) fn abandon(&self, lane: LaneId, number: u64) {
        let mut state = lock(&self.state);
        state.lanes[lane as usize].abandon(number);
        self.settle(state);
    }

    /// The next piece to be read. With `patient`, waits for one, and meanwhile looks after the
    /// copies under way.
    pub(super) fn take(&self, patient: bool) -> Taken {
        let mut state = lock(&self.state);
        let mut fruitless = 0;
        loop {
            if let Some(work) = state.pick() {
                // Whoever sleeps takes the next piece, or goes on asking.
                drop(state);
                self.changed.notify_one();
                return Taken::Work(work);
            }
            if state.closed && state.jobs.is_empty() {
                return Taken::End;
            }
            let oldest = if state.asking { [None, None] } else { state.oldest() };
            if oldest.iter().any(Option::is_some) {
                state.asking = true;
                drop(state);
                // A driver that fails to tell is asked again.
                let over = oldest.map(|oldest| {
                    let (number, mark) = oldest?;
                    mark.is_reached().unwrap_or(false).then_some(number)
                });
                state = lock(&self.state);
                state.asking = false;
                if over.iter().any(Option::is_some) {
                    for (lane, number) in state.lanes.iter_mut().zip(over) {
                        number.into_iter().for_each(|number| lane.set_over(number));
                    }
                    fruitless = 0;
                    self.settle(state);
                    state = lock(&self.state);
                    continue;
                }
                if !patient {
                    // Somebody with nothing under way goes on asking.
                    drop(state);
                    self.changed.notify_one();
                    return Taken::Nothing;
                }
                state = self.pause(state, fruitless);
                fruitless += 1;
                continue;
            }
            if !patient {
                return Taken::Nothing;
            }
            state = wait(&self.changed, state);
        }
    }

    /// Bytes of tensors that were read from files.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes[0].load(Ordering::Relaxed)
    }

    /// Reports a piece as read or failed.
    pub(super) fn finish(self: &Arc<Self>, work: &Work, outcome: Result<()>) {
        if outcome.is_ok() && work.ram.is_none() {
            let read = work.cut().pieces.get(work.piece).map(|piece| &piece.needed);
            let bytes = read.map_or(0, |needed| needed.end.saturating_sub(needed.start));
            self.disk_bytes.iter().for_each(|count| {
                count.fetch_add(bytes, Ordering::Relaxed);
            });
        }
        let mut state = lock(&self.state);
        let Some(active) = state.jobs.get_mut(work.job) else { return };
        if let Err(error) = outcome {
            active.job.status.fail(error);
        }
        active.left -= 1;
        if active.left > 0 {
            return;
        }
        let (plan, chunk) = (Arc::clone(&active.job.plan), active.job.chunk);
        let home = active.job.keep.take().filter(|_| active.job.status.check().is_ok());
        if let Some(memory) = home.and_then(|home| home.begin_keeping(&plan, chunk, self)) {
            // Until the job is closed the slot is still the readers'.
            drop(state);
            keep(&memory, work, chunk);
            memory.set_filled(chunk);
            state = lock(&self.state);
        }
        state.close(work.job);
        self.settle(state);
    }

    /// Fails everything that is not read yet.
    pub(super) fn cancel(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        for order in 0..state.orders.len() {
            while let Some(job) = state.orders[order].pop_front() {
                let Some(active) = state.jobs.get_mut(job) else { continue };
                active.job.status.fail(Error::Cancelled);
                active.left -= active.end - active.next;
                active.next = active.end;
                if active.left == 0 {
                    state.close(job);
                }
            }
        }
        state.lanes.iter_mut().for_each(Lane::lift_limit);
        self.settle(state);
    }

    /// Cancels, and lets the readers end.
    pub(super) fn close(&self) {
        self.closing.get_or_init(GivingUp::new);
        self.cancel();
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        lock(&self.state).cancelled
    }

    /// Lets streams go on as far as they may, and wakes who can use what changed.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let raised = LANES.map(|lane| state.release(lane));
        drop(state);
        for lane in LANES {
            if let Some(up_to) = raised[lane as usize] {
                self.raise(lane, up_to);
            }
        }
        self.changed.notify_all();
    }

    /// Raises the gate of a lane. Not under the lock: raised out of order, it stays where it is.
    fn raise(&self, lane: LaneId, up_to: u64) {
        let gate = self.gate(lane);
        // Once more if refused: a gate that stays shut would hold the copy stream for ever.
        if let Err(error) = gate.open(up_to).or_else(|_| gate.open(up_to)) {
            tracing::error!(%error, "a gate did not open: the copy stream is stuck");
        }
    }

    /// Waits before asking again. A simulated clock moves with the calls of the driver alone,
    /// so that nobody sleeps there before it is clear that others have to move first.
    fn pause<'a>(&'a self, state: MutexGuard<'a, State>, fruitless: u32) -> MutexGuard<'a, State> {
        if self.simulated && fruitless < SIMULATED_TRIES {
            drop(state);
            std::thread::yield_now();
            return lock(&self.state);
        }
        let pause = SHORTEST_PAUSE * 2u32.saturating_pow(fruitless.min(8) / 2);
        let waited = self.changed.wait_timeout(state, pause.min(LONGEST_PAUSE));
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}

/// Between two questions: a fraction of what a chunk takes on a fast link.
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);
/// While compute holds the copies up. A chunk a millisecond late is still far ahead of its use.
const LONGEST_PAUSE: Duration = Duration::from_micros(300);
/// Questions in a row that a simulated device is asked: more than the longest copy takes.
const SIMULATED_TRIES: u32 = 10_000;
