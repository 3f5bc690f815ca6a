//! The public face: greedy first, then searches for less until nothing is left to gain.

use std::sync::Arc;
use std::time::Instant;

use super::buffer::checked_sizes;
use super::core::pack_within;
use super::effort::{Effort, Stop};
use super::first_fit::{UNPLACED, first_fit};
use super::instance::Instance;
use super::orders::Order;
use super::race::{Lost, race};
use super::search::Outcome;
use super::squeaky::Squeaky;
use super::{Buffer, Watch};
use crate::base::Result;

/// How to pack.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The packing is good enough when it ends within this, in bytes. `None`: as low as can be.
    pub capacity_bytes: Option<u64>,
    /// Offsets are multiples of this, and sizes count as rounded up to it.
    pub align_bytes: u64,
    /// Threads to use, the calling one included; 0 means as many as the machine has. The
    /// packing does not depend on it.
    pub threads: usize,
    /// Work the searches may do, in steps: entries of tables looked at. 10^9 are some seconds
    /// of one core. The greedy packings at the beginning do not count.
    pub budget_steps: u64,
    /// When to end, whatever the budget. A packing that was ended by it may differ from run to
    /// run.
    pub deadline: Option<Instant>,
    /// To look on and to cancel.
    pub watch: Option<Arc<Watch>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capacity_bytes: None,
            align_bytes: 1,
            threads: 0,
            budget_steps: 2_000_000_000,
            deadline: None,
            watch: None,
        }
    }
}

/// What is known about a [`Packing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// No packing is lower: proved.
    Optimal,
    /// It is within the capacity asked for; a lower one may exist.
    Fits,
    /// It is above the capacity asked for, and it was proved that every packing is.
    Impossible,
    /// The best found before budget, deadline or cancellation. Without a capacity it may not be
    /// the lowest; with one it is above it, and whether one within it exists is open.
    Best,
}

/// Where every buffer goes. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packing {
    /// One for each buffer, in the order given.
    pub offsets: Vec<u64>,
    /// The highest end of a buffer, sizes rounded up to the alignment.
    pub height_bytes: u64,
    /// No packing is lower than this: the most bytes in use at one moment, or more where a
    /// search proved more.
    pub bound_bytes: u64,
    /// What is known about it.
    pub verdict: Verdict,
    /// Steps of the budget that were used.
    pub steps: u64,
}

impl Packing {
    /// How far the height is above the bound, as a part of the bound.
    #[must_use]
    pub fn gap_ratio(&self) -> f64 {
        if self.bound_bytes == 0 {
            return 0.0;
        }
        (self.height_bytes - self.bound_bytes) as f64 / self.bound_bytes as f64
    }
}

/// Packs `buffers` as low as the budget lets it, or within the capacity asked for. Always gives
/// a valid packing; [`Packing::verdict`] says what it is worth.
///
/// Blocks the calling thread until done. The same buffers and budget give the same packing,
/// whatever the number of threads, unless a deadline or cancellation ends it.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a buffer that is empty in size
/// or time, for sizes that together pass [`TOTAL_BYTES_MAX`](super::TOTAL_BYTES_MAX), for more
/// than [`BUFFERS_MAX`](super::BUFFERS_MAX) buffers and for an alignment of 0.
///
/// ```
/// use riverbed::pack::{Buffer, Options, Verdict, pack};
/// let buffer = |lower, upper, bytes| Buffer { lower, upper, bytes };
/// let buffers = [buffer(0, 4, 100), buffer(0, 2, 50), buffer(2, 4, 50)];
/// let packing = pack(&buffers, &Options::default())?;
/// assert_eq!((packing.height_bytes, packing.verdict), (150, Verdict::Optimal));
/// assert_eq!(packing.offsets[1], packing.offsets[2]);
/// # Ok::<(), riverbed::Error>(())
/// ```
pub fn pack(buffers: &[Buffer], options: &Options) -> Result<Packing> {
    let sizes = checked_sizes(buffers, options.align_bytes)?;
    let instance = Instance::new(buffers, &sizes);
    let unwatched = Watch::new();
    let watch = options.watch.as_deref().unwrap_or(&unwatched);
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads.min(THREADS_MAX),
    };
    let stop = Stop { watch, deadline: options.deadline };
    let mut effort = Effort::new(options.budget_steps, threads, stop);
    // Everything is a multiple of the alignment, the room in use of a capacity too.
    let capacity = options.capacity_bytes.map(|bytes| bytes - bytes % options.align_bytes);
    let goal = capacity.unwrap_or(0).max(instance.peak_load());
    let mut best = Best::new(&instance, goal, &effort);
    if best.height > goal && capacity.is_none_or(|capacity| capacity >= best.bound) {
        best.search(capacity.is_none(), &mut effort);
    }
    Ok(Packing {
        verdict: best.verdict(capacity),
        height_bytes: best.height,
        bound_bytes: best.bound,
        steps: effort.spent(),
        offsets: best.offsets,
    })
}

/// More threads than this have nothing to do.
const THREADS_MAX: usize = 64;
/// Each search may use one part in so many of the budget that is left then.
const SHARE: u64 = 4;
/// What comes before it often ends it, and must not cost much where it does not.
const SHARE_GLANCE: u64 = 200;
/// Gaps below one part in so many of the height are not searched by halving.
const FINE: u64 = 20_000;
/// Greedy orders tried before the first search. The others seldom do better.
const ORDERS_FIRST: usize = 1;

/// The best packing so far, and what is proved about any.
struct Best<'a> {
    instance: &'a Instance,
    offsets: Vec<u64>,
    height: u64,
    /// Nothing is lower.
    bound: u64,
    /// Good enough.
    goal: u64,
}

impl<'a> Best<'a> {
    fn new(instance: &'a Instance, goal: u64, effort: &Effort<'_>) -> Self {
        let bound = instance.peak_load();
        let mut best = Self { instance, offsets: Vec::new(), height: u64::MAX, bound, goal };
        best.greedy(&Order::ALL[..ORDERS_FIRST], effort);
        best
    }

    /// Packs greedily in each of `orders`; the first that is good enough ends it. The very first
    /// order is never left out: there has to be a packing.
    fn greedy(&mut self, orders: &[Order], effort: &Effort<'_>) {
        let (instance, stop) = (self.instance, effort.stop());
        let is_first = self.offsets.is_empty();
        let run = |(): &mut (), job: usize, lost: &Lost<'_>| {
            let may_stop = !is_first || job > 0;
            let is_stopped = || may_stop && (lost.is_lost() || stop.is_set());
            let mut offsets = vec![UNPLACED; instance.items.len()];
            first_fit(instance, &orders[job].sorted(instance), &mut offsets, is_stopped)?;
            Some((instance.height(&offsets), offsets))
        };
        let is_win = |found: &Option<(u64, Vec<u64>)>| {
            found.as_ref().is_some_and(|&(height, _)| height <= self.goal)
        };
        let found = race(orders.len(), effort.threads(), || (), run, is_win);
        let lowest = found.into_iter().flatten().min_by_key(|&(height, _)| height);
        if let Some((height, offsets)) = lowest.filter(|&(height, _)| height < self.height) {
            (self.height, self.offsets) = (height, offsets);
        }
        stop.watch.report(effort.spent(), self.height);
    }

    fn verdict(&self, capacity: Option<u64>) -> Verdict {
        match capacity {
            Some(capacity) if self.bound > capacity => Verdict::Impossible,
            _ if self.height <= self.bound => Verdict::Optimal,
            Some(capacity) if self.height <= capacity => Verdict::Fits,
            _ => Verdict::Best,
        }
    }

    /// Looks for what the first greedy orders missed. Where there `is_lowest` to find and not
    /// only the goal, the distance between what is known and what is hoped for is halved again
    /// and again.
    fn search(&mut self, is_lowest: bool, effort: &mut Effort<'_>) {
        let mut wheels = Squeaky::new(self.instance, self.goal, self.height);
        if self.squeeze(&mut wheels, SHARE_GLANCE, effort)
            || self.attempt(self.goal, SHARE, effort)
            || !is_lowest && self.bound > self.goal
        {
            return;
        }
        self.greedy(&Order::ALL[ORDERS_FIRST..], effort);
        let share = if is_lowest { SHARE } else { 1 };
        if self.squeeze(&mut wheels, SHARE, effort) || self.attempt(self.goal, share, effort) {
            return;
        }
        // The lowest height not given up yet.
        let mut hoped = self.bound;
        while is_lowest && self.height - hoped > self.height / FINE && effort.left() > 0 {
            if self.squeeze(&mut wheels, SHARE, effort) {
                return;
            }
            let target = hoped + (self.height - hoped) / 2;
            if !self.attempt(target, SHARE, effort) {
                hoped = target;
            }
            hoped = hoped.max(self.bound).min(self.height);
        }
    }

    /// True when there is nothing left to gain.
    fn is_done(&self) -> bool {
        self.height <= self.goal.max(self.bound)
    }

    /// Looks for a lower packing, with one part in `share` of what is left; true when that is the
    /// end.
    fn squeeze(&mut self, wheels: &mut Squeaky<'_>, share: u64, effort: &mut Effort<'_>) -> bool {
        let (goal, height) = (self.goal.max(self.bound), self.height);
        let steps = effort.left() / share;
        let lower = effort.within(steps, |effort| wheels.squeeze(goal, height, effort));
        if let Some(offsets) = lower {
            self.height = self.instance.height(&offsets);
            self.offsets = offsets;
        }
        effort.stop().watch.report(effort.spent(), self.height);
        self.is_done()
    }

    /// Searches for a packing within `target`, likewise; true when there was one.
    fn attempt(&mut self, target: u64, share: u64, effort: &mut Effort<'_>) -> bool {
        let (instance, steps) = (self.instance, effort.left() / share);
        let outcome = effort.within(steps, |effort| pack_within(instance, target, effort));
        let is_found = matches!(outcome, Outcome::Found(_));
        match outcome {
            Outcome::Found(offsets) => {
                self.height = self.instance.height(&offsets);
                self.offsets = offsets;
            }
            Outcome::Impossible => self.bound = self.bound.max(target.saturating_add(1)),
            Outcome::Unknown => {}
        }
        effort.stop().watch.report(effort.spent(), self.height);
        is_found
    }
}
