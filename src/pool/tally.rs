//! Counting without sharing: every thread that allocates counts in a tally of its own, which it
//! alone writes, with plain stores; whoever reads adds the tallies up.
//!
//! A block may be taken on one thread's tally and given back on another's, so a tally's current
//! figures may be below 0 (they wrap), and only sums mean anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::stats::{PoolStat, Stat, Stats};
use crate::ledger::SplitChange;

/// PyTorch's two pools, as indexes: class 0 is the small one.
const POOLS: usize = 2;
const COUNT: usize = 0;
const BYTES: usize = 1;
const REQUESTED: usize = 2;
const SPLIT: usize = 3;
const SPLIT_BYTES: usize = 4;
const KINDS: usize = 5;

/// The counters of one thread. Written by that thread alone, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pools: [PoolTally; POOLS],
    all: AllTally,
    oversize: [AtomicU64; 3],
    /// Counted since the peaks were reset last.
    used: AtomicBool,
}

#[derive(Debug, Default)]
struct PoolTally {
    current: [AtomicU64; KINDS],
    total: [AtomicU64; KINDS],
    peak: [AtomicU64; KINDS],
    /// Blocks and bytes retired.
    retired: [AtomicU64; 2],
    /// The most blocks and bytes active, of the moments when something was retired.
    active_peak: [AtomicU64; 2],
}

/// Totals of both pools are their sum; peaks are not.
#[derive(Debug, Default)]
struct AllTally {
    current: [AtomicU64; KINDS],
    peak: [AtomicU64; KINDS],
    active_peak: [AtomicU64; 2],
}

/// A block as it is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) class: u8,
    pub(super) bytes: u64,
    pub(super) requested_bytes: u64,
}

impl Counted {
    fn pool(self) -> usize {
        usize::from(self.class != 0)
    }
}

/// Adds to a counter that no other thread writes.
#[inline]
fn add(counter: &AtomicU64, amount: u64) -> u64 {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
    sum
}

#[inline]
fn raise(peak: &AtomicU64, current: u64) {
    if current as i64 > peak.load(Ordering::Relaxed) as i64 {
        peak.store(current, Ordering::Relaxed);
    }
}

impl Tally {
    /// A block was handed out.
    #[inline]
    pub(super) fn taken(&self, block: Counted, split: SplitChange) {
        let pool = &self.pools[block.pool()];
        for (kind, amount) in [(COUNT, 1), (BYTES, block.bytes), (REQUESTED, block.requested_bytes)]
        {
            add(&pool.total[kind], amount);
            raise(&pool.peak[kind], add(&pool.current[kind], amount));
            raise(&self.all.peak[kind], add(&self.all.current[kind], amount));
        }
        self.split_changed(pool, split);
        if pool.retired[COUNT].load(Ordering::Relaxed) != 0 {
            self.note_active();
        }
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// The owner gave a block up, and it is free.
    #[inline]
    pub(super) fn given_back(&self, block: Counted, split: SplitChange) {
        self.released(block);
        self.settled(block, split);
    }

    /// The owner gave a block up that other streams still use.
    pub(super) fn retired(&self, block: Counted) {
        self.released(block);
        let pool = &self.pools[block.pool()];
        add(&pool.retired[COUNT], 1);
        add(&pool.retired[BYTES], block.bytes);
    }

    /// The last use of a retired block is over.
    pub(super) fn unretired(&self, block: Counted, split: SplitChange) {
        let pool = &self.pools[block.pool()];
        add(&pool.retired[COUNT], 1u64.wrapping_neg());
        add(&pool.retired[BYTES], block.bytes.wrapping_neg());
        self.settled(block, split);
    }

    /// An oversize block was handed out (1) or given up (-1).
    pub(super) fn oversize(&self, change: i64) {
        let [current, total, peak] = &self.oversize;
        add(total, change.max(0) as u64);
        raise(peak, add(current, change as u64));
    }

    #[inline]
    fn released(&self, block: Counted) {
        let pool = &self.pools[block.pool()];
        for (kind, amount) in [(COUNT, 1u64), (BYTES, block.bytes)] {
            add(&pool.current[kind], amount.wrapping_neg());
            add(&self.all.current[kind], amount.wrapping_neg());
        }
    }

    #[inline]
    fn settled(&self, block: Counted, split: SplitChange) {
        let pool = &self.pools[block.pool()];
        add(&pool.current[REQUESTED], block.requested_bytes.wrapping_neg());
        add(&self.all.current[REQUESTED], block.requested_bytes.wrapping_neg());
        self.split_changed(pool, split);
    }

    #[inline]
    fn split_changed(&self, pool: &PoolTally, split: SplitChange) {
        for (kind, change) in [(SPLIT, split.blocks), (SPLIT_BYTES, split.bytes)] {
            add(&pool.total[kind], change.max(0) as u64);
            raise(&pool.peak[kind], add(&pool.current[kind], change as u64));
            raise(&self.all.peak[kind], add(&self.all.current[kind], change as u64));
        }
    }

    /// Active is handed out or retired. While nothing is retired its peak is that of what is
    /// handed out, so only the other moments are looked at.
    #[cold]
    fn note_active(&self) {
        for kind in [COUNT, BYTES] {
            let mut sum = 0u64;
            for pool in &self.pools {
                let retired = pool.retired[kind].load(Ordering::Relaxed);
                let active = pool.current[kind].load(Ordering::Relaxed).wrapping_add(retired);
                raise(&pool.active_peak[kind], active);
                sum = sum.wrapping_add(active);
            }
            raise(&self.all.active_peak[kind], sum);
        }
    }

    /// Lets every peak begin again at what is current. Exact while its thread counts nothing.
    fn reset_peaks(&self) {
        let level = |peak: &AtomicU64, current: u64| peak.store(current, Ordering::Relaxed);
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut active = [0u64; 2];
        for pool in &self.pools {
            for kind in 0..KINDS {
                level(&pool.peak[kind], now(&pool.current[kind]));
            }
            for kind in [COUNT, BYTES] {
                let sum = now(&pool.current[kind]).wrapping_add(now(&pool.retired[kind]));
                level(&pool.active_peak[kind], sum);
                active[kind] = active[kind].wrapping_add(sum);
            }
        }
        for kind in 0..KINDS {
            level(&self.all.peak[kind], now(&self.all.current[kind]));
        }
        for kind in [COUNT, BYTES] {
            level(&self.all.active_peak[kind], active[kind]);
        }
        level(&self.oversize[2], now(&self.oversize[0]));
        self.used.store(false, Ordering::Relaxed);
    }
}

/// The tallies of an allocator, one for each thread that counts. Behind a mutex; a thread asks
/// for its own only when it begins to own a stream's heap.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    tallies: Vec<Entry>,
    /// Totals at the last reset, which are taken off.
    before: Box<Stats>,
}

#[derive(Debug)]
struct Entry {
    token: u64,
    /// The only clone once the thread has ended: another may then go on with its tally.
    alive: Arc<()>,
    tally: Arc<Tally>,
}

impl Tallies {
    /// The tally of the calling thread, whose token and sign of life are given.
    pub(super) fn of_thread(&mut self, token: u64, alive: Arc<()>) -> Arc<Tally> {
        if let Some(entry) = self.tallies.iter().find(|entry| entry.token == token) {
            return Arc::clone(&entry.tally);
        }
        let ended = |entry: &&mut Entry| Arc::strong_count(&entry.alive) == 1;
        if let Some(entry) = self.tallies.iter_mut().find(ended) {
            (entry.token, entry.alive) = (token, alive);
            return Arc::clone(&entry.tally);
        }
        let tally = Arc::<Tally>::default();
        self.tallies.push(Entry { token, alive, tally: Arc::clone(&tally) });
        tally
    }

    /// Adds everything up into the figures of `stats` that tallies count.
    pub(super) fn sum(&self, stats: &mut Stats) {
        self.sum_since_start(stats);
        stats.take_off_totals(&self.before);
    }

    pub(super) fn reset_peaks(&self) {
        self.tallies.iter().for_each(|entry| entry.tally.reset_peaks());
    }

    pub(super) fn reset_accumulated(&mut self) {
        let mut now = Stats::default();
        self.sum_since_start(&mut now);
        *self.before = now;
    }

    fn sum_since_start(&self, stats: &mut Stats) {
        let tallies = || self.tallies.iter().map(|entry| &*entry.tally);
        stats.peaks_exact =
            tallies().filter(|tally| tally.used.load(Ordering::Relaxed)).count() <= 1;
        for (kind, stat) in [
            (COUNT, &mut stats.allocation),
            (BYTES, &mut stats.allocated_bytes),
            (REQUESTED, &mut stats.requested_bytes),
            (SPLIT, &mut stats.inactive_split),
            (SPLIT_BYTES, &mut stats.inactive_split_bytes),
        ] {
            *stat = summed(tallies(), kind);
        }
        for (kind, handed_out, active) in [
            (COUNT, stats.allocation, &mut stats.active),
            (BYTES, stats.allocated_bytes, &mut stats.active_bytes),
        ] {
            *active = active_of(tallies(), kind, handed_out);
        }
        let oversize = |at: usize| sum(tallies().map(|tally| &tally.oversize[at]));
        stats.oversize_allocations = stat(oversize(0), oversize(1), oversize(2));
    }
}

fn sum<'a>(counters: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    counters.fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
}

fn stat(current: u64, total: u64, peak: u64) -> Stat {
    Stat { current, peak: peak.max(current), allocated: total, freed: total.wrapping_sub(current) }
}

fn summed<'a>(tallies: impl Iterator<Item = &'a Tally> + Clone, kind: usize) -> PoolStat {
    let pool = |at: usize| {
        let pools = tallies.clone().map(move |tally| &tally.pools[at]);
        let current = sum(pools.clone().map(|pool| &pool.current[kind]));
        let total = sum(pools.clone().map(|pool| &pool.total[kind]));
        stat(current, total, sum(pools.map(|pool| &pool.peak[kind])))
    };
    let (small_pool, large_pool) = (pool(0), pool(1));
    let peak = sum(tallies.map(|tally| &tally.all.peak[kind]));
    let current = small_pool.current.wrapping_add(large_pool.current);
    let total = small_pool.allocated.wrapping_add(large_pool.allocated);
    PoolStat { all: stat(current, total, peak), small_pool, large_pool }
}

/// Every block that is handed out is active until it is free again.
fn active_of<'a>(
    tallies: impl Iterator<Item = &'a Tally> + Clone,
    kind: usize,
    handed_out: PoolStat,
) -> PoolStat {
    let pool = |at: usize, handed_out: Stat| {
        let pools = tallies.clone().map(move |tally| &tally.pools[at]);
        let retired = sum(pools.clone().map(|pool| &pool.retired[kind]));
        let peak = sum(pools.map(|pool| &pool.active_peak[kind]));
        let current = handed_out.current.wrapping_add(retired);
        stat(current, handed_out.allocated, peak.max(handed_out.peak))
    };
    let small_pool = pool(0, handed_out.small_pool);
    let large_pool = pool(1, handed_out.large_pool);
    let peak = sum(tallies.map(|tally| &tally.all.active_peak[kind]));
    let current = small_pool.current.wrapping_add(large_pool.current);
    let all = stat(current, handed_out.all.allocated, peak.max(handed_out.all.peak));
    PoolStat { all, small_pool, large_pool }
}
