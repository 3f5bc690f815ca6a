//! Counting without sharing: every thread that allocates counts in a tally of its own, with
//! plain adds on whole lines; whoever reads stops all heaps for a moment and adds the tallies up.
//!
//! A block may be taken on one thread's tally and given back on another's, so a tally's current
//! figures may be below 0, and only sums mean anything.
//!
//! What is kept of a figure is its peak and how far below the peak it is: a step is then one
//! subtraction, and only a figure that falls below 0 has to be looked at.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::stats::{PoolStat, Stat, Stats};
use super::stats_scope::ScopeStats;
use crate::ledger::SplitChange;

/// PyTorch's two pools, as indexes: class 0 is the small one.
const POOLS: usize = 2;
const COUNT: usize = 0;
const BYTES: usize = 1;
const REQUESTED: usize = 2;
const SPLIT: usize = 3;
const SPLIT_BYTES: usize = 4;
/// One lane is spare, so that the lanes fill whole registers.
const LANES: usize = 6;

/// The counters of one thread.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pools: [PoolTally; POOLS],
    /// Both pools.
    all: Level,
    /// As in [`PoolTally`].
    active_peak: [i64; 2],
    /// Blocks retired, of both pools.
    retired: i64,
    oversize: Stat,
    /// Counted since the peaks were reset last.
    used: bool,
}

#[derive(Debug, Default)]
struct PoolTally {
    level: Level,
    /// Everything ever added.
    total: [i64; LANES],
    /// Blocks and bytes retired.
    retired: [i64; 2],
    /// The most blocks and bytes active, of the moments when something was retired.
    active_peak: [i64; 2],
}

/// Figures that rise and fall, by their peaks.
#[derive(Debug, Default)]
struct Level {
    below_peak: [i64; LANES],
    peak: [i64; LANES],
}

/// A block as it is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    /// PyTorch's pool. As wide as the others: a narrow store that is read back with its padding
    /// would hold the processor up.
    pool: usize,
    pub(super) bytes: u64,
    pub(super) requested_bytes: u64,
}

impl Counted {
    #[inline]
    pub(super) fn new(class: u8, bytes: u64, requested_bytes: u64) -> Self {
        Self { pool: usize::from(class != 0), bytes, requested_bytes }
    }

    #[inline(always)]
    fn lanes(self, split: SplitChange) -> [i64; LANES] {
        let SplitChange { blocks, bytes } = split;
        [1, self.bytes as i64, self.requested_bytes as i64, blocks, bytes, 0]
    }
}

impl Level {
    /// Adds `change`, which may be below 0 in any lane.
    #[inline(always)]
    fn add(&mut self, change: &[i64; LANES]) {
        let mut lowest = 0;
        for (below, change) in self.below_peak.iter_mut().zip(change) {
            *below -= change;
            lowest |= *below;
        }
        if lowest < 0 {
            self.raise();
        }
    }

    #[cold]
    fn raise(&mut self) {
        for (below, peak) in self.below_peak.iter_mut().zip(&mut self.peak) {
            *peak -= (*below).min(0);
            *below = (*below).max(0);
        }
    }

    fn current(&self, lane: usize) -> i64 {
        self.peak[lane] - self.below_peak[lane]
    }

    /// Lets the peak of one lane begin again.
    fn reset_lane(&mut self, lane: usize) {
        self.peak[lane] -= std::mem::take(&mut self.below_peak[lane]);
    }

    fn reset(&mut self) {
        for (below, peak) in self.below_peak.iter_mut().zip(&mut self.peak) {
            *peak -= std::mem::take(below);
        }
    }
}

impl Tally {
    /// A block was handed out.
    #[inline(always)]
    pub(super) fn taken(&mut self, block: Counted, split: SplitChange) {
        let lanes = block.lanes(split);
        let pool = &mut self.pools[block.pool];
        pool.level.add(&lanes);
        self.all.add(&lanes);
        pool.total[COUNT] += lanes[COUNT];
        pool.total[BYTES] += lanes[BYTES];
        pool.total[REQUESTED] += lanes[REQUESTED];
        pool.count_split(split);
        self.used = true;
        if self.retired != 0 {
            self.note_active();
        }
    }

    /// The owner gave a block up, and it is free.
    #[inline(always)]
    pub(super) fn given_back(&mut self, block: Counted, split: SplitChange) {
        let [count, bytes, requested, ..] = block.lanes(split);
        let SplitChange { blocks, bytes: split_bytes } = split;
        let lanes = [-count, -bytes, -requested, blocks, split_bytes, 0];
        let pool = &mut self.pools[block.pool];
        pool.level.add(&lanes);
        self.all.add(&lanes);
        pool.count_split(split);
    }

    /// The owner gave a block up that other streams still use.
    pub(super) fn retired(&mut self, block: Counted) {
        let bytes = block.bytes as i64;
        let lanes = [-1, -bytes, 0, 0, 0, 0];
        let pool = &mut self.pools[block.pool];
        pool.level.add(&lanes);
        self.all.add(&lanes);
        pool.retired[COUNT] += 1;
        self.retired += 1;
        pool.retired[BYTES] += bytes;
    }

    /// The last use of a retired block is over.
    pub(super) fn unretired(&mut self, block: Counted, split: SplitChange) {
        let SplitChange { blocks, bytes } = split;
        let lanes = [0, 0, -(block.requested_bytes as i64), blocks, bytes, 0];
        let pool = &mut self.pools[block.pool];
        pool.level.add(&lanes);
        self.all.add(&lanes);
        pool.count_split(split);
        pool.retired[COUNT] -= 1;
        self.retired -= 1;
        pool.retired[BYTES] -= block.bytes as i64;
    }

    /// Free blocks changed without a block taken or given back.
    pub(super) fn moved(&mut self, class: u8, split: SplitChange) {
        let SplitChange { blocks, bytes } = split;
        let lanes = [0, 0, 0, blocks, bytes, 0];
        let pool = &mut self.pools[usize::from(class != 0)];
        pool.level.add(&lanes);
        self.all.add(&lanes);
        pool.count_split(split);
    }

    /// An oversize block was handed out.
    pub(super) fn oversize_taken(&mut self) {
        let Stat { current, peak, allocated, .. } = &mut self.oversize;
        *current = current.wrapping_add(1);
        *allocated += 1;
        if *current as i64 > *peak as i64 {
            *peak = *current;
        }
    }

    /// An oversize block was given up.
    pub(super) fn oversize_given_up(&mut self) {
        self.oversize.current = self.oversize.current.wrapping_sub(1);
    }

    /// Active is handed out or retired. While nothing is retired its peak is that of what is
    /// handed out, so only the other moments are looked at.
    #[cold]
    fn note_active(&mut self) {
        for lane in [COUNT, BYTES] {
            let mut sum = 0;
            for pool in &mut self.pools {
                let active = pool.level.current(lane) + pool.retired[lane];
                pool.active_peak[lane] = pool.active_peak[lane].max(active);
                sum += active;
            }
            self.active_peak[lane] = self.active_peak[lane].max(sum);
        }
    }

    /// Rises with every block that is taken, and changes with every one given up.
    fn counted(&self) -> [i64; 2] {
        [self.pools.iter().map(|pool| pool.total[COUNT]).sum(), self.all.current(COUNT)]
    }

    fn reset_peaks(&mut self) {
        self.active_peak = [0; 2];
        for pool in &mut self.pools {
            pool.level.reset();
            for lane in [COUNT, BYTES] {
                pool.active_peak[lane] = pool.level.current(lane) + pool.retired[lane];
                self.active_peak[lane] += pool.active_peak[lane];
            }
        }
        self.all.reset();
        self.oversize.peak = self.oversize.current;
        self.used = false;
    }
}

impl PoolTally {
    #[inline]
    fn count_split(&mut self, split: SplitChange) {
        self.total[SPLIT] += split.blocks.max(0);
        self.total[SPLIT_BYTES] += split.bytes.max(0);
    }
}

/// A thread's tally, as its heaps hold it.
pub(super) struct TallyRef(Arc<UnsafeCell<Tally>>);

// SAFETY: what is inside is touched under the rule of `Tallies` alone.
unsafe impl Send for TallyRef {}

/// A tally nobody counts in.
impl Default for TallyRef {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl fmt::Debug for TallyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TallyRef")
    }
}

impl TallyRef {
    /// Counts something.
    ///
    /// # Safety
    /// The calling thread is the one this tally was made for, and is inside a heap. `count` calls
    /// nobody else's code.
    #[inline]
    pub(super) unsafe fn count(&self, count: impl FnOnce(&mut Tally)) {
        // SAFETY: one thread counts in a tally; it does nothing else meanwhile, and those who
        // read keep every thread out of all heaps.
        count(unsafe { &mut *self.0.get() });
    }
}

/// The tallies of an allocator, one for each thread that counts. The rule that makes it sound: a
/// tally is written by its thread alone and only inside a heap, and read only while every heap
/// is held by the reader.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    tallies: Vec<Entry>,
    /// Totals at the last reset, which are taken off.
    before: Box<Stats>,
    /// Peaks of blocks and bytes since the last reset, but for the stretch since the last scope
    /// began, which is in the tallies.
    earlier_peak: [i64; 2],
    scopes: Vec<Scope>,
    scopes_made: u64,
}

/// A stretch of which statistics are kept. Its peak is the greatest of the stretches between the
/// beginnings of scopes; the last one is in the tallies.
#[derive(Debug)]
struct Scope {
    id: u64,
    /// Blocks and bytes at its start.
    start: [Stat; 2],
    earlier_peak: [i64; 2],
    /// What each tally had counted.
    counted: Vec<[i64; 2]>,
}

#[derive(Debug)]
struct Entry {
    token: u64,
    /// The only clone once the thread has ended: another may then go on with its tally.
    alive: Arc<()>,
    tally: TallyRef,
}

impl Tallies {
    /// The tally of the calling thread, whose token and sign of life are given.
    pub(super) fn of_thread(&mut self, token: u64, alive: Arc<()>) -> TallyRef {
        if let Some(entry) = self.tallies.iter().find(|entry| entry.token == token) {
            return entry.tally.share();
        }
        let ended = |entry: &&mut Entry| Arc::strong_count(&entry.alive) == 1;
        if let Some(entry) = self.tallies.iter_mut().find(ended) {
            // What the thread that ended has written is seen from here on.
            fence(Ordering::Acquire);
            (entry.token, entry.alive) = (token, alive);
            return entry.tally.share();
        }
        let tally = TallyRef(Arc::default());
        self.tallies.push(Entry { token, alive, tally: tally.share() });
        tally
    }

    /// Adds everything up into the figures of `stats` that tallies count.
    ///
    /// # Safety
    /// Every heap of the allocator is held by the caller.
    pub(super) unsafe fn sum(&self, stats: &mut Stats) {
        // SAFETY: by this function's own contract.
        unsafe { self.sum_since_start(stats) };
        stats.take_off_totals(&self.before);
    }

    /// Lets every peak begin again.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    pub(super) unsafe fn reset_peaks(&mut self) {
        // SAFETY: by this function's own contract.
        unsafe { self.end_stretch() };
        self.earlier_peak = [0; 2];
        for entry in &self.tallies {
            // SAFETY: by this function's own contract nobody else is near any tally.
            unsafe { &mut *entry.tally.0.get() }.reset_peaks();
        }
    }

    /// Lets every total begin again.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    pub(super) unsafe fn reset_accumulated(&mut self) {
        let mut now = Stats::default();
        // SAFETY: by this function's own contract.
        unsafe { self.sum_since_start(&mut now) };
        *self.before = now;
    }

    /// Begins a scope; gives its number.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    pub(super) unsafe fn open_scope(&mut self) -> u64 {
        // SAFETY: by this function's own contract.
        let tallies = unsafe {
            self.end_stretch();
            self.read()
        };
        let start = [COUNT, BYTES].map(|lane| summed(&tallies, lane).all);
        let counted = tallies.iter().map(|tally| tally.counted()).collect();
        self.scopes_made += 1;
        let id = self.scopes_made;
        self.scopes.push(Scope { id, start, earlier_peak: [0; 2], counted });
        id
    }

    /// What happened in a scope that is open.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    pub(super) unsafe fn read_scope(&self, id: u64) -> Option<ScopeStats> {
        // SAFETY: by this function's own contract.
        let tallies = unsafe { self.read() };
        let scope = self.scopes.iter().find(|scope| scope.id == id)?;
        let [blocks, bytes] = [COUNT, BYTES].map(|lane| {
            let (now, start) = (summed(&tallies, lane).all, scope.start[lane]);
            let peak = now.peak.max(scope.earlier_peak[lane] as u64);
            let since = |now: u64, start: u64| now.wrapping_sub(start);
            let (allocated, freed) =
                (since(now.allocated, start.allocated), since(now.freed, start.freed));
            (allocated, freed, peak.saturating_sub(start.current))
        });
        let before = scope.counted.iter().copied().chain(std::iter::repeat([0; 2]));
        let active =
            tallies.iter().zip(before).filter(|(tally, before)| tally.counted() != *before);
        Some(ScopeStats {
            allocated_blocks: blocks.0,
            freed_blocks: blocks.1,
            allocated_bytes: bytes.0,
            freed_bytes: bytes.1,
            peak_blocks: blocks.2,
            peak_bytes: bytes.2,
            peaks_exact: active.count() <= 1,
        })
    }

    /// Forgets a scope.
    pub(super) fn close_scope(&mut self, id: u64) {
        self.scopes.retain(|scope| scope.id != id);
    }

    /// Lets the peaks of blocks and bytes begin again, and keeps what they were.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    unsafe fn end_stretch(&mut self) {
        for lane in [COUNT, BYTES] {
            let mut sum = 0;
            for entry in &self.tallies {
                // SAFETY: by this function's own contract nobody else is near any tally.
                let all = unsafe { &mut (*entry.tally.0.get()).all };
                sum += all.peak[lane];
                all.reset_lane(lane);
            }
            let scopes = self.scopes.iter_mut().map(|scope| &mut scope.earlier_peak);
            for peak in scopes.chain([&mut self.earlier_peak]) {
                peak[lane] = peak[lane].max(sum);
            }
        }
    }

    /// # Safety
    /// As [`sum`](Self::sum), for as long as they are looked at.
    unsafe fn read(&self) -> Vec<&Tally> {
        // SAFETY: the caller sees to it that no thread writes to any tally.
        self.tallies.iter().map(|entry| unsafe { &*entry.tally.0.get() }).collect()
    }

    unsafe fn sum_since_start(&self, stats: &mut Stats) {
        // SAFETY: the caller sees to it that no thread writes to any tally.
        let tallies = unsafe { self.read() };
        stats.peaks_exact = tallies.iter().filter(|tally| tally.used).count() <= 1;
        for (lane, stat) in [
            (COUNT, &mut stats.allocation),
            (BYTES, &mut stats.allocated_bytes),
            (REQUESTED, &mut stats.requested_bytes),
            (SPLIT, &mut stats.inactive_split),
            (SPLIT_BYTES, &mut stats.inactive_split_bytes),
        ] {
            *stat = summed(&tallies, lane);
        }
        for (lane, stat) in [(COUNT, &mut stats.allocation), (BYTES, &mut stats.allocated_bytes)] {
            stat.all.peak = stat.all.peak.max(self.earlier_peak[lane] as u64);
        }
        stats.active = active_of(&tallies, COUNT, stats.allocation);
        stats.active_bytes = active_of(&tallies, BYTES, stats.allocated_bytes);
        let sum = |figure: fn(&Stat) -> u64| {
            tallies.iter().fold(0, |sum: u64, tally| sum.wrapping_add(figure(&tally.oversize)))
        };
        let current = sum(|stat| stat.current) as i64;
        stats.oversize_allocations =
            stat(current, sum(|stat| stat.allocated) as i64, sum(|stat| stat.peak) as i64);
    }
}

impl TallyRef {
    fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn stat(current: i64, total: i64, peak: i64) -> Stat {
    Stat {
        current: current as u64,
        peak: peak.max(current) as u64,
        allocated: total as u64,
        freed: (total - current) as u64,
    }
}

fn summed(tallies: &[&Tally], lane: usize) -> PoolStat {
    let pool = |at: usize| {
        let pools = tallies.iter().map(|tally| &tally.pools[at]);
        let current = pools.clone().map(|pool| pool.level.current(lane)).sum();
        let total = pools.clone().map(|pool| pool.total[lane]).sum();
        stat(current, total, pools.map(|pool| pool.level.peak[lane]).sum())
    };
    let (small_pool, large_pool) = (pool(0), pool(1));
    let current = (small_pool.current + large_pool.current) as i64;
    let total = (small_pool.allocated + large_pool.allocated) as i64;
    let peak = tallies.iter().map(|tally| tally.all.peak[lane]).sum();
    PoolStat { all: stat(current, total, peak), small_pool, large_pool }
}

/// Every block that is handed out is active until it is free again.
fn active_of(tallies: &[&Tally], lane: usize, handed_out: PoolStat) -> PoolStat {
    let pool = |at: usize, handed_out: Stat| {
        let pools = tallies.iter().map(|tally| &tally.pools[at]);
        let retired: i64 = pools.clone().map(|pool| pool.retired[lane]).sum();
        let peak: i64 = pools.map(|pool| pool.active_peak[lane]).sum();
        let current = handed_out.current as i64 + retired;
        stat(current, handed_out.allocated as i64, peak.max(handed_out.peak as i64))
    };
    let small_pool = pool(0, handed_out.small_pool);
    let large_pool = pool(1, handed_out.large_pool);
    let current = (small_pool.current + large_pool.current) as i64;
    let peak: i64 = tallies.iter().map(|tally| tally.active_peak[lane]).sum();
    let peak = peak.max(handed_out.all.peak as i64);
    PoolStat { all: stat(current, handed_out.all.allocated as i64, peak), small_pool, large_pool }
}
