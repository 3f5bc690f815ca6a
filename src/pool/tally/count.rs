//! The counters of one thread. A step is made at every request and every free, so it does as
//! little as can be.
//!
//! A figure is kept as what was ever added to it, and a bound that rises with whatever is taken
//! off it. Only where the one passes the other are peaks looked at: the bound leaves a figure of
//! each pool so much room that neither pool's peak nor that of both together can be passed
//! before. So each step is one addition for each figure, and for those that rise a comparison.

use super::super::stats::Stat;
use crate::ledger::SplitChange;

/// PyTorch's two pools, as indexes: class 0 is the small one.
const POOLS: usize = 2;
/// The figures.
pub(super) const COUNT: usize = 0;
pub(super) const BYTES: usize = 1;
pub(super) const REQUESTED: usize = 2;
pub(super) const SPLIT: usize = 3;
pub(super) const SPLIT_BYTES: usize = 4;
const LANES: usize = 5;

/// The counters of one thread, on lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(in crate::pool) struct Tally {
    pools: [PoolTally; POOLS],
    /// Blocks retired, of both pools.
    retired: i64,
    /// How many more blocks may be taken before the peak of their count, of both pools together,
    /// rises. By itself: a program that gives one block back for each it takes is always at
    /// that peak, whichever pools the two are of.
    count_room: i64,
    /// The most of each figure, of both pools together.
    peak: [i64; LANES],
    /// As in [`PoolTally`].
    active_peak: [i64; 2],
    oversize: Stat,
    /// Blocks ever handed out when the peaks were reset last.
    taken_at_reset: i64,
}

/// The figures of one pool. What steps change stands first.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct PoolTally {
    /// Everything ever added.
    added: [i64; LANES],
    /// Everything ever taken off, and the room. Never below `added`.
    bound: [i64; LANES],
    /// What the figure may reach before peaks are looked at: not above its peak, and those of
    /// both pools together not above the peak of both; of the count its peak.
    room: [i64; LANES],
    peak: [i64; LANES],
    /// Blocks and bytes retired.
    retired: [i64; 2],
    /// The most blocks and bytes active, of the moments when something was retired.
    active_peak: [i64; 2],
}

/// A block as it is counted.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Counted {
    /// PyTorch's pool. As wide as the others: a narrow store that is read back with its padding
    /// would hold the processor up.
    pool: usize,
    pub(in crate::pool) bytes: u64,
    pub(in crate::pool) requested_bytes: u64,
}

impl Counted {
    #[inline(always)]
    pub(in crate::pool) fn new(class: u8, bytes: u64, requested_bytes: u64) -> Self {
        Self { pool: usize::from(class != 0), bytes, requested_bytes }
    }
}

impl PoolTally {
    pub(super) fn current(&self, lane: usize) -> i64 {
        self.added[lane] - self.bound[lane] + self.room[lane]
    }

    /// Everything ever added to a figure.
    pub(super) fn added(&self, lane: usize) -> i64 {
        self.added[lane]
    }

    pub(super) fn peak(&self, lane: usize) -> i64 {
        self.peak[lane]
    }

    /// Blocks or bytes retired.
    pub(super) fn retired(&self, lane: usize) -> i64 {
        self.retired[lane]
    }

    pub(super) fn active_peak(&self, lane: usize) -> i64 {
        self.active_peak[lane]
    }

    fn set_room(&mut self, lane: usize, room: i64) {
        self.bound[lane] += room - self.room[lane];
        self.room[lane] = room;
    }
}

impl Tally {
    /// A block was handed out.
    #[inline(always)]
    pub(in crate::pool) fn taken(&mut self, block: Counted, split: SplitChange) {
        self.add(block.pool, COUNT, 1);
        self.count_room -= 1;
        if self.count_room < 0 {
            self.raise_count();
        }
        self.add(block.pool, BYTES, block.bytes as i64);
        self.add(block.pool, REQUESTED, block.requested_bytes as i64);
        self.change_split(block.pool, split);
        if self.retired != 0 {
            self.note_active();
        }
    }

    /// The owner gave a block up, and it is free.
    #[inline(always)]
    pub(in crate::pool) fn given_back(&mut self, block: Counted, split: SplitChange) {
        self.take_off_count(block.pool);
        self.take_off(block.pool, BYTES, block.bytes as i64);
        self.take_off(block.pool, REQUESTED, block.requested_bytes as i64);
        self.change_split(block.pool, split);
    }

    /// The owner gave a block up that other streams still use.
    pub(in crate::pool) fn retired(&mut self, block: Counted) {
        let bytes = block.bytes as i64;
        self.take_off_count(block.pool);
        self.take_off(block.pool, BYTES, bytes);
        let pool = &mut self.pools[block.pool % POOLS];
        pool.retired[COUNT] += 1;
        pool.retired[BYTES] += bytes;
        self.retired += 1;
    }

    /// The last use of a retired block is over.
    pub(in crate::pool) fn unretired(&mut self, block: Counted, split: SplitChange) {
        self.take_off(block.pool, REQUESTED, block.requested_bytes as i64);
        self.change_split(block.pool, split);
        let pool = &mut self.pools[block.pool % POOLS];
        pool.retired[COUNT] -= 1;
        pool.retired[BYTES] -= block.bytes as i64;
        self.retired -= 1;
    }

    /// Free blocks changed without a block taken or given back.
    pub(in crate::pool) fn moved(&mut self, class: u8, split: SplitChange) {
        self.change_split(usize::from(class != 0), split);
    }

    /// An oversize block was handed out.
    pub(in crate::pool) fn oversize_taken(&mut self) {
        let Stat { current, peak, allocated, .. } = &mut self.oversize;
        *current = current.wrapping_add(1);
        *allocated += 1;
        if *current as i64 > *peak as i64 {
            *peak = *current;
        }
    }

    /// An oversize block was given up.
    pub(in crate::pool) fn oversize_given_up(&mut self) {
        self.oversize.current = self.oversize.current.wrapping_sub(1);
    }

    /// Adds to a figure what is not below 0.
    #[inline(always)]
    fn add(&mut self, pool: usize, lane: usize, amount: i64) {
        let figures = &mut self.pools[pool % POOLS];
        figures.added[lane] += amount;
        if figures.added[lane] > figures.bound[lane] {
            self.make_room(pool % POOLS, lane);
        }
    }

    /// Takes off a figure what is not below 0.
    #[inline(always)]
    fn take_off(&mut self, pool: usize, lane: usize, amount: i64) {
        self.pools[pool % POOLS].bound[lane] += amount;
    }

    #[inline(always)]
    fn take_off_count(&mut self, pool: usize) {
        self.take_off(pool, COUNT, 1);
        self.count_room += 1;
    }

    #[cold]
    fn raise_count(&mut self) {
        self.peak[COUNT] -= std::mem::take(&mut self.count_room);
    }

    /// Asks for directions rather than working both out: they go with where the block came from,
    /// which the processor has just learnt.
    #[inline(always)]
    fn change_split(&mut self, pool: usize, split: SplitChange) {
        let SplitChange { blocks, bytes } = split;
        if blocks > 0 {
            self.add(pool, SPLIT, blocks);
        } else if blocks < 0 {
            self.take_off(pool, SPLIT, -blocks);
        }
        if bytes > 0 {
            self.add(pool, SPLIT_BYTES, bytes);
        } else {
            self.take_off(pool, SPLIT_BYTES, -bytes);
        }
    }

    /// A figure of a pool is above its room: notes the peaks, and makes room up to them.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, pool: usize, lane: usize) {
        let [mine, theirs] = if pool == 0 { [0, 1] } else { [1, 0] };
        let current = self.pools[mine].current(lane);
        let other = self.pools[theirs].current(lane);
        self.pools[mine].peak[lane] = self.pools[mine].peak[lane].max(current);
        if lane == COUNT {
            return self.pools[mine].set_room(lane, current);
        }
        self.peak[lane] = self.peak[lane].max(current + other);
        // Most of what is left below the peak of both, as this one is rising.
        let left = self.peak[lane] - current - other;
        let room = self.pools[mine].peak[lane].min(current + left - left / 4);
        self.pools[mine].set_room(lane, room);
        let room = self.pools[theirs].peak[lane].min(self.peak[lane] - room);
        self.pools[theirs].set_room(lane, room);
    }

    /// Active is handed out or retired. While nothing is retired its peak is that of what is
    /// handed out, so only the other moments are looked at.
    #[cold]
    fn note_active(&mut self) {
        for lane in [COUNT, BYTES] {
            let mut sum = 0;
            for pool in &mut self.pools {
                let active = pool.current(lane) + pool.retired[lane];
                pool.active_peak[lane] = pool.active_peak[lane].max(active);
                sum += active;
            }
            self.active_peak[lane] = self.active_peak[lane].max(sum);
        }
    }

    /// The figures of one pool.
    pub(super) fn pool(&self, at: usize) -> &PoolTally {
        &self.pools[at]
    }

    /// The most of a figure, of both pools together.
    pub(super) fn peak(&self, lane: usize) -> i64 {
        self.peak[lane]
    }

    pub(super) fn active_peak(&self, lane: usize) -> i64 {
        self.active_peak[lane]
    }

    pub(super) fn oversize(&self) -> &Stat {
        &self.oversize
    }

    /// Rises with every block that is taken, and changes with every one given up.
    pub(super) fn counted(&self) -> [i64; 2] {
        [self.ever_taken(), self.pools.iter().map(|pool| pool.current(COUNT)).sum()]
    }

    fn ever_taken(&self) -> i64 {
        self.pools.iter().map(|pool| pool.added[COUNT]).sum()
    }

    /// True when a block was taken since the peaks were reset last.
    pub(super) fn is_used(&self) -> bool {
        self.ever_taken() != self.taken_at_reset
    }

    /// Lets every peak begin again at its current figure.
    pub(super) fn reset_peaks(&mut self) {
        for lane in 0..LANES {
            self.begin_peak_anew(lane);
            for pool in &mut self.pools {
                pool.peak[lane] = pool.current(lane);
                pool.set_room(lane, pool.peak[lane]);
            }
        }
        self.active_peak = [0; 2];
        for lane in [COUNT, BYTES] {
            for pool in &mut self.pools {
                pool.active_peak[lane] = pool.current(lane) + pool.retired[lane];
                self.active_peak[lane] += pool.active_peak[lane];
            }
        }
        self.oversize.peak = self.oversize.current;
        self.taken_at_reset = self.ever_taken();
    }

    /// Lets the peak of a figure of both pools together begin again. Gives what it was.
    pub(super) fn begin_peak_anew(&mut self, lane: usize) -> i64 {
        let before = self.peak[lane];
        self.peak[lane] = 0;
        for pool in &mut self.pools {
            let current = pool.current(lane);
            self.peak[lane] += current;
            pool.set_room(lane, if lane == COUNT { pool.peak[lane] } else { current });
        }
        if lane == COUNT {
            self.count_room = 0;
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Take(bool, i64, SplitChange),
        GiveBack(usize, SplitChange),
        Reset,
        ResetBoth(usize),
    }

    fn split() -> impl Strategy<Value = SplitChange> {
        (-2..2i64, -9..9i64).prop_map(|(blocks, bytes)| SplitChange { blocks, bytes })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (any::<bool>(), 1..9i64, split())
                .prop_map(|(large, bytes, split)| Step::Take(large, bytes, split)),
            12 => (any::<usize>(), split()).prop_map(|(at, split)| Step::GiveBack(at, split)),
            1 => Just(Step::Reset),
            1 => (0..LANES).prop_map(Step::ResetBoth),
        ]
    }

    /// Every figure as whoever looks at each step would see it: current and peak of each pool,
    /// and the peak of both.
    #[derive(Default)]
    struct Plain {
        current: [[i64; LANES]; POOLS],
        peak: [[i64; LANES]; POOLS],
        both: [i64; LANES],
    }

    impl Plain {
        fn change(&mut self, pool: usize, change: [i64; LANES]) {
            for (lane, change) in change.into_iter().enumerate() {
                self.current[pool][lane] += change;
                self.peak[pool][lane] = self.peak[pool][lane].max(self.current[pool][lane]);
                self.both[lane] = self.both[lane].max(self.sum(lane));
            }
        }

        fn sum(&self, lane: usize) -> i64 {
            self.current.iter().map(|figures| figures[lane]).sum()
        }
    }

    proptest! {
        #[test]
        fn no_peak_is_missed(steps in prop::collection::vec(step(), 1..200)) {
            let (mut tally, mut plain, mut live) = (Tally::default(), Plain::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Take(large, bytes, split) => {
                        let block = Counted::new(large.into(), bytes as u64 + 1, bytes as u64);
                        tally.taken(block, split);
                        plain.change(large.into(), [1, bytes + 1, bytes, split.blocks, split.bytes]);
                        live.push((large, bytes));
                    }
                    Step::GiveBack(at, split) if !live.is_empty() => {
                        let (large, bytes) = live.swap_remove(at % live.len());
                        let block = Counted::new(large.into(), bytes as u64 + 1, bytes as u64);
                        tally.given_back(block, split);
                        let change = [-1, -bytes - 1, -bytes, split.blocks, split.bytes];
                        plain.change(large.into(), change);
                    }
                    Step::GiveBack(..) => {}
                    Step::Reset => {
                        tally.reset_peaks();
                        plain.peak = plain.current;
                        plain.both = std::array::from_fn(|lane| plain.sum(lane));
                    }
                    Step::ResetBoth(lane) => {
                        prop_assert_eq!(tally.begin_peak_anew(lane), plain.both[lane]);
                        plain.both[lane] = plain.sum(lane);
                    }
                }
                for lane in 0..LANES {
                    for (at, pool) in tally.pools.iter().enumerate() {
                        prop_assert_eq!(pool.current(lane), plain.current[at][lane]);
                        prop_assert_eq!(pool.peak(lane), plain.peak[at][lane]);
                    }
                    prop_assert_eq!(tally.peak(lane), plain.both[lane]);
                }
            }
        }
    }
}
