//! The public face: greedy first, then searches for less until nothing is left to gain.

use std::sync::Arc;
use std::time::Instant;

use super::buffer::checked_sizes;
use super::core::pack_within;
use super::effort::{Effort, Stop};
use super::first_fit::{UNPLACED, first_fit};
use super::instance::Instance;
use super::orders::Order;
use super::race::race;
use super::search::Outcome;
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
            budget_steps: 4_000_000_000,
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
    /// A packing is within the capacity only if there is none: it was proved that nothing is.
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
    let mut best = Best::greedy(&instance, capacity, &effort);
    match capacity {
        Some(capacity) => best.fit(capacity, &mut effort),
        None => best.lower(&mut effort),
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
/// The search for a packing at the bound may use one part in so many of the budget, each search
/// between the bound and the best the same part of what is left then.
const SHARE: u64 = 4;
/// Gaps below one part in so many of the height are not searched by halving.
const FINE: u64 = 20_000;

/// The best packing so far, and what is proved about any.
struct Best<'a> {
    instance: &'a Instance,
    offsets: Vec<u64>,
    height: u64,
    bound: u64,
}

impl<'a> Best<'a> {
    /// The lowest of the greedy packings; the first that is good enough ends it.
    fn greedy(instance: &'a Instance, capacity: Option<u64>, effort: &Effort<'_>) -> Self {
        let bound = instance.peak_load();
        let goal = capacity.unwrap_or(bound).max(bound);
        let run = |(): &mut (), job: usize, lost: &super::race::Lost<'_>| {
            if lost.is_lost() || (job > 0 && effort.stop().is_set()) {
                return None;
            }
            let mut offsets = vec![UNPLACED; instance.items.len()];
            first_fit(instance, &Order::ALL[job].sorted(instance), &mut offsets);
            Some((instance.height(&offsets), offsets))
        };
        let is_win = |found: &Option<(u64, Vec<u64>)>| {
            found.as_ref().is_some_and(|&(height, _)| height <= goal)
        };
        let found = race(Order::ALL.len(), effort.threads(), || (), run, is_win);
        let lowest = found.into_iter().flatten().min_by_key(|&(height, _)| height);
        let (height, offsets) = lowest.unwrap_or_default();
        effort.stop().watch.report(0, height);
        Self { instance, offsets, height, bound }
    }

    fn verdict(&self, capacity: Option<u64>) -> Verdict {
        if self.height <= self.bound {
            return Verdict::Optimal;
        }
        match capacity {
            Some(capacity) if self.height <= capacity => Verdict::Fits,
            Some(capacity) if self.bound > capacity => Verdict::Impossible,
            _ => Verdict::Best,
        }
    }

    /// Tries to come within `capacity`.
    fn fit(&mut self, capacity: u64, effort: &mut Effort<'_>) {
        if self.height > capacity && self.bound <= capacity {
            self.attempt(capacity, effort);
        }
    }

    /// Tries to come as low as can be.
    fn lower(&mut self, effort: &mut Effort<'_>) {
        let attempt_within = |best: &mut Self, target, effort: &mut Effort<'_>| {
            let steps = effort.left() / SHARE;
            effort.within(steps, |effort| best.attempt(target, effort))
        };
        if self.height > self.bound {
            attempt_within(self, self.bound, effort);
        }
        // Where an attempt fails, the lowest height still hoped for.
        let mut hoped = self.bound;
        while self.height.saturating_sub(hoped) > self.height / FINE && effort.left() > 0 {
            let target = hoped + (self.height - hoped) / 2;
            if !attempt_within(self, target, effort) {
                hoped = target;
            }
            hoped = hoped.max(self.bound);
        }
    }

    /// Looks for a packing within `target`; true when there was one.
    fn attempt(&mut self, target: u64, effort: &mut Effort<'_>) -> bool {
        let outcome = pack_within(self.instance, target, effort);
        let found = match outcome {
            Outcome::Found(offsets) => {
                self.height = self.instance.height(&offsets);
                self.offsets = offsets;
                true
            }
            Outcome::Impossible => {
                self.bound = self.bound.max(target + 1);
                false
            }
            Outcome::Unknown => false,
        };
        effort.stop().watch.report(effort.spent(), self.height);
        found
    }
}
