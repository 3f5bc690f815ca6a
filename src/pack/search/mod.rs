//! Exact search for a packing within a capacity. `docs/packing.md` has the argument.
//!
//! The *head* of an item is the least offset it can still have. The search takes an item under
//! which nothing more can come and places it at its head; when that fails the item is *delayed*:
//! it must then rest on something that is not placed yet. Heads rise by what is placed, by
//! delays, and by what the sections say ([`sections`]). Each head has a *reason*, the set of
//! decisions it follows from, so that a dead end is taken back to the decision that caused it
//! ([`backjump`]).

mod backjump;
mod sections;
mod tables;

pub(super) use tables::{Lists, neighbours};

use super::instance::Instance;

/// How a search ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An offset for each item.
    Found(Vec<u64>),
    /// There is no packing: the search was complete.
    Impossible,
    /// A limit was reached, or the search was stopped.
    Unknown,
}

/// Where a search ends without an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) conflicts: u64,
    /// In steps: entries of tables looked at.
    pub(super) steps: u64,
}

/// Words of old reasons kept to take changes back, at most: 256 MiB.
const OLD_REASONS_MAX: usize = 1 << 25;

/// A dead end; why is in [`Search::conflict`].
struct DeadEnd;

/// A change to be taken back.
#[derive(Debug, Clone, Copy)]
enum Undo {
    /// The head of an item rose; its old reason lies on `old_reasons`.
    Head { item: u32, head: u64 },
    /// An item was placed.
    Place { item: u32 },
    /// An item became delayed, or ceased to be; its old reason lies on `old_reasons`.
    Delay { item: u32, was: bool },
}

/// The state of a search. It can be run again with other orders.
#[derive(Debug)]
pub(super) struct Search<'a> {
    instance: &'a Instance,
    capacity: u64,
    near: Lists,
    within: Lists,
    twin: Vec<u32>,

    head: Vec<u64>,
    is_placed: Vec<bool>,
    /// The decision that placed an item.
    level: Vec<u32>,
    is_delayed: Vec<bool>,
    delayed_count: usize,
    /// Bytes not placed yet, by section.
    rest: Vec<u64>,

    /// Length of a set of decisions, in words; the sets below lie one behind the other.
    words: usize,
    reason: Vec<u64>,
    delay_reason: Vec<u64>,
    conflict: Vec<u64>,
    scratch: Vec<u64>,

    trail: Vec<Undo>,
    old_reasons: Vec<u64>,
    /// Where each decision begins on the trail, and the item it placed.
    levels: Vec<(usize, u32)>,

    dirty_sections: Vec<u32>,
    is_dirty: Vec<bool>,
    dirty_delays: Vec<u32>,
    late: Vec<(u64, u32)>,
    steps: u64,
}

impl<'a> Search<'a> {
    pub(super) fn new(instance: &'a Instance, capacity: u64) -> Self {
        let count = instance.items.len();
        let words = count.div_ceil(64).max(1);
        Self {
            instance,
            capacity,
            near: tables::neighbours(instance),
            within: tables::members(instance),
            twin: tables::twins(instance),
            head: vec![0; count],
            is_placed: vec![false; count],
            level: vec![0; count],
            is_delayed: vec![false; count],
            delayed_count: 0,
            rest: instance.loads.clone(),
            words,
            reason: vec![0; count * words],
            delay_reason: vec![0; count * words],
            conflict: vec![0; words],
            scratch: Vec::new(),
            trail: Vec::new(),
            old_reasons: Vec::new(),
            levels: Vec::new(),
            dirty_sections: Vec::new(),
            is_dirty: vec![false; instance.loads.len()],
            dirty_delays: Vec::new(),
            late: Vec::new(),
            steps: 0,
        }
    }

    /// Steps taken in all runs.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Searches within `limits`, of equal heads the one of least `rank` first.
    pub(super) fn run(
        &mut self,
        rank: &[u32],
        limits: Limits,
        is_stopped: impl Fn() -> bool,
    ) -> Outcome {
        self.reset();
        if self.instance.peak_load() > self.capacity || self.propagate().is_err() {
            return Outcome::Impossible;
        }
        let (mut conflicts, steps_end) = (0, self.steps.saturating_add(limits.steps));
        while let Some(item) = self.choose(rank) {
            let is_full = self.old_reasons.len() > OLD_REASONS_MAX;
            if self.steps >= steps_end || is_full || is_stopped() {
                return Outcome::Unknown;
            }
            self.levels.push((self.trail.len(), item));
            let mut state = self.place(item);
            while state.is_err() {
                conflicts += 1;
                if conflicts >= limits.conflicts {
                    return Outcome::Unknown;
                }
                state = match self.jump_back() {
                    None => return Outcome::Impossible,
                    Some(state) => state,
                };
            }
        }
        Outcome::Found(self.head.clone())
    }

    fn reset(&mut self) {
        self.head.fill(0);
        self.is_placed.fill(false);
        self.is_delayed.fill(false);
        self.delayed_count = 0;
        self.rest.copy_from_slice(&self.instance.loads);
        self.reason.fill(0);
        self.delay_reason.fill(0);
        self.trail.clear();
        self.old_reasons.clear();
        self.levels.clear();
        self.clear_dirt();
        for section in 0..self.instance.loads.len() as u32 {
            self.soil(section);
        }
    }

    fn bytes(&self, item: u32) -> u64 {
        self.instance.items[item as usize].bytes
    }

    fn top(&self, item: u32) -> u64 {
        self.head[item as usize] + self.bytes(item)
    }

    /// The item to decide on: the lowest that may be placed now, by rank where several are.
    fn choose(&mut self, rank: &[u32]) -> Option<u32> {
        self.steps += self.head.len() as u64 / 4;
        let mut best: Option<(u64, u32, u32)> = None;
        for (item, (&head, &rank)) in self.head.iter().zip(rank).enumerate() {
            if self.is_placed[item] || self.is_delayed[item] {
                continue;
            }
            let candidate = (head, rank, item as u32);
            if best.is_none_or(|best| candidate < best) && self.may_be_placed(item as u32) {
                best = Some(candidate);
            }
        }
        best.map(|(_, _, item)| item)
    }

    /// True when nothing that is not placed could lie below it.
    fn may_be_placed(&self, item: u32) -> bool {
        let head = self.head[item as usize];
        let is_no_support = |&other: &u32| self.is_placed[other as usize] || self.top(other) > head;
        self.near.list(item).iter().all(is_no_support)
    }

    /// Places an item at its head, as the youngest decision.
    fn place(&mut self, item: u32) -> Result<(), DeadEnd> {
        let level = self.levels.len() - 1;
        let top = self.top(item);
        self.is_placed[item as usize] = true;
        self.level[item as usize] = level as u32;
        self.trail.push(Undo::Place { item });
        let Self { instance, rest, .. } = self;
        let placed = instance.items[item as usize];
        rest[placed.sections()].iter_mut().for_each(|rest| *rest -= placed.bytes);
        self.steps += self.near.range(item).len() as u64;
        for place in self.near.range(item) {
            let other = self.near.get(place);
            if self.is_placed[other as usize] {
                continue;
            }
            // What is placed now may be what it rests on.
            if self.is_delayed[other as usize] {
                self.set_delayed(other, false);
            }
            if self.head[other as usize] < top {
                self.set_head(other, top);
                let (from, to) = (item as usize * self.words, other as usize * self.words);
                self.reason.copy_within(from..from + self.words, to);
                self.reason[to + level / 64] |= 1 << (level % 64);
                self.check_top(other)?;
            }
        }
        self.propagate()
    }

    /// Raises a head, with the old value on the trail. The caller sets the reason.
    fn set_head(&mut self, item: u32, head: u64) {
        let from = item as usize * self.words;
        self.old_reasons.extend_from_slice(&self.reason[from..from + self.words]);
        self.trail.push(Undo::Head { item, head: self.head[item as usize] });
        self.head[item as usize] = head;
        let sections = self.instance.items[item as usize].sections();
        self.steps += self.words as u64 + sections.len() as u64;
        for section in sections {
            self.soil(section as u32);
        }
        if self.delayed_count == 0 {
            return;
        }
        self.steps += self.near.range(item).len() as u64;
        for &other in self.near.list(item) {
            if self.is_delayed[other as usize] {
                self.dirty_delays.push(other);
            }
        }
        if self.is_delayed[item as usize] {
            self.dirty_delays.push(item);
        }
    }

    /// Raises a head for `reason`.
    fn raise(&mut self, item: u32, head: u64, reason: &[u64]) -> Result<(), DeadEnd> {
        if head > self.capacity {
            self.conflict.copy_from_slice(reason);
            return Err(DeadEnd);
        }
        self.set_head(item, head);
        let from = item as usize * self.words;
        self.reason[from..from + self.words].copy_from_slice(reason);
        self.check_top(item)
    }

    fn check_top(&mut self, item: u32) -> Result<(), DeadEnd> {
        if self.top(item) <= self.capacity {
            return Ok(());
        }
        let from = item as usize * self.words;
        self.conflict.copy_from_slice(&self.reason[from..from + self.words]);
        Err(DeadEnd)
    }

    fn set_delayed(&mut self, item: u32, is_delayed: bool) {
        let from = item as usize * self.words;
        let was = std::mem::replace(&mut self.is_delayed[item as usize], is_delayed);
        self.delayed_count = self.delayed_count + usize::from(is_delayed) - usize::from(was);
        self.old_reasons.extend_from_slice(&self.delay_reason[from..from + self.words]);
        self.trail.push(Undo::Delay { item, was });
    }
}

/// Adds a set of decisions to another.
fn add(set: &mut [u64], other: &[u64]) {
    set.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
}
