//! Between two iterations: what was recorded is packed if it came twice, what was packed comes
//! into force.

use std::sync::Arc;

use super::packing::Packing;
use super::{Planner, Turn};
use crate::base::Result;
use crate::device::Stream;
use crate::policy::planned::{Seen, Table, period};
use crate::pool::expandable::members::{All, at_once};
use crate::pool::expandable::{Book, Expandable};
use crate::pool::heap::Heap;
use crate::pool::shared::Shared;

/// An iteration nobody marks has at least so many requests: fewer are joined with the next ones.
const LEAST_REQUESTS: usize = 64;
/// The same iteration is packed again at most so often.
const MOST_AGAIN: u32 = 4;
/// Iterations recorded in vain before recording rests, and after that between two rests: two have
/// to come for one to repeat the other.
const FRUITLESS_FIRST: u32 = 8;
const FRUITLESS_NEXT: u32 = 2;
/// The first rest is so many times as long as an iteration; then each is twice the one before,
/// so often.
const REST: usize = 2;
const MOST_DOUBLED: u32 = 4;

/// What is to be done once no heap is entered.
#[derive(Debug, Default)]
struct Due {
    /// An iteration begins.
    begins: bool,
    /// To be packed.
    pack: Option<Vec<Vec<Seen>>>,
    /// The next iteration is to be recorded.
    records: bool,
    /// Recording is to rest for so many requests.
    rest: usize,
    /// Bytes of the plan may have been lent.
    gathers: bool,
    /// The plan is of no use.
    gives_up: bool,
}

impl Expandable {
    /// Does what is due before a request of `heap`, or because the user says so. Only
    /// [`Turn::Settle`] waits for a packing.
    ///
    /// # Errors
    /// What the driver says.
    pub(in crate::pool) fn turn(
        &self,
        shared: &Shared,
        heap: Option<(&Arc<Heap>, &Stream)>,
        turn: Turn,
    ) -> Result<()> {
        let mut book = self.book()?;
        book.take_turn(shared, heap, turn)?;
        if turn == Turn::Settle
            && let Some(packing) = &book.planner.packing
        {
            let desk = packing.desk();
            drop(book);
            desk.wait();
            self.book()?.take_turn(shared, heap, turn)?;
        }
        Ok(())
    }
}

impl Book {
    fn take_turn(
        &mut self,
        shared: &Shared,
        heap: Option<(&Arc<Heap>, &Stream)>,
        turn: Turn,
    ) -> Result<()> {
        let arena = heap.map(|(heap, stream)| self.meet(heap, stream));
        let heaps = self.heaps()?;
        self.unmap_doomed(shared, false);
        self.see_off(shared);
        let planner = &mut self.planner;
        planner.look_up();
        let due = at_once(&heaps, |all| {
            all.bring_up_to_date(shared);
            planner.due(all, arena, turn)
        })?;
        if due.gives_up {
            self.give_up(&heaps)?;
        }
        if let Some(streams) = due.pack {
            self.planner.packing = Packing::begin(streams);
        }
        if !due.begins {
            return Ok(());
        }
        let (mut records, rest) = (due.records, due.rest);
        if let Some(table) = self.planner.ready.take() {
            records = !self.try_install(shared, &heaps, &table);
        } else if due.gathers {
            self.gather(shared, &heaps)?;
        }
        at_once(&heaps, |all| {
            for state in all.states() {
                let active_bytes = state.ledger.totals().active_bytes;
                let Some(planned) = state.planned() else { continue };
                match turn {
                    Turn::End => planned.pause(),
                    _ => planned.begin(active_bytes, records),
                }
                if rest > 0 {
                    planned.rest(rest);
                }
            }
        })
    }
}

impl Book {
    /// Brings a plan into force, if that can be done: what the driver says against it is no
    /// request's failure.
    fn try_install(&mut self, shared: &Shared, heaps: &[Arc<Heap>], table: &Arc<Table>) -> bool {
        self.install(shared, heaps, table).unwrap_or_else(|error| {
            tracing::warn!(%error, "a plan does not come into force");
            self.planner.planned = None;
            false
        })
    }
}

impl Planner {
    /// Takes over what was packed meanwhile.
    fn look_up(&mut self) {
        if let Some(outcome) = self.packing.as_ref().and_then(Packing::outcome) {
            self.packing = None;
            self.ready = outcome.map(Arc::new);
            self.known = self.planned.zip(self.ready.clone());
        }
    }

    /// Looks at all streams and says what is due.
    fn due(&mut self, all: &mut All<'_>, arena: Option<u32>, turn: Turn) -> Due {
        self.is_marked |= matches!(turn, Turn::Begin | Turn::End);
        let is_marked = matches!(turn, Turn::Begin | Turn::End);
        if !is_marked && (self.is_marked || !self.is_between(all, arena)) {
            return self.within(all, arena);
        }
        let (mut misses, mut lost, mut follows, mut cut) = (0, false, false, false);
        let (mut digest, mut recorded, mut rests) = (0, 0, true);
        let mut streams = Vec::new();
        for state in all.states() {
            let seen = state.planned().and_then(|planned| {
                misses += planned.misses();
                lost |= planned.is_lost();
                follows |= planned.follows();
                rests &= planned.rests();
                cut |= planned.rests();
                planned.take_recording()
            });
            let seen = seen.unwrap_or_default();
            digest = mix(digest, seen.digest());
            cut |= seen.is_cut();
            recorded += seen.seen().len();
            streams.push(seen);
        }
        let is_short = recorded < LEAST_REQUESTS && !is_marked && turn != Turn::Settle;
        if recorded > 0 && is_short && !follows {
            let begun = all.states().zip(streams);
            begun.for_each(|(state, seen)| {
                if let Some(planned) = state.planned() {
                    planned.record_on(seen);
                }
            });
            return Due::default();
        }
        let mut due = Due { begins: true, gathers: misses > 0, gives_up: lost, ..Due::default() };
        if lost {
            self.planned = None;
        }
        due.records = !rests && (!self.is_in_force() || misses > 0 || lost);
        if recorded > 0 && !cut && !is_short {
            let repeats = self.last.replace(digest) == Some(digest);
            due.rest = self.rest_after(repeats, recorded);
            self.recall(digest);
            let is_new = self.planned != Some(digest);
            let is_other = !is_new && misses > 0 && self.again < MOST_AGAIN;
            if repeats && (is_new || is_other) && self.packing.is_none() && self.ready.is_none() {
                self.again = if is_new { 0 } else { self.again + 1 };
                self.planned = Some(digest);
                due.pack = Some(streams.into_iter().map(|seen| seen.into_seen()).collect());
            }
        }
        due
    }

    /// Lets a plan that was given up come into force again for the iteration it was made for.
    fn recall(&mut self, digest: u64) {
        let is_idle = self.planned.is_none() && self.packing.is_none() && self.ready.is_none();
        let known = self.known.as_ref().filter(|(known, _)| is_idle && *known == digest);
        if let Some((_, table)) = known {
            (self.ready, self.planned) = (Some(Arc::clone(table)), Some(digest));
        }
    }

    /// For how many requests recording should rest after an iteration of `recorded` requests.
    fn rest_after(&mut self, repeats: bool, recorded: usize) -> usize {
        self.fruitless = if repeats { 0 } else { self.fruitless.saturating_add(1) };
        match self.fruitless.checked_sub(FRUITLESS_FIRST) {
            Some(more) if more.is_multiple_of(FRUITLESS_NEXT) => {
                (recorded * REST) << (more / FRUITLESS_NEXT).min(MOST_DOUBLED)
            }
            _ => 0,
        }
    }

    /// True where all that came in an iteration is gone, or a period found before begins again.
    fn is_between(&self, all: &mut All<'_>, arena: Option<u32>) -> bool {
        let in_phase = arena.is_some_and(|arena| {
            self.ready.is_some()
                && all.state(arena).planned().is_some_and(|planned| planned.is_in_phase())
        });
        in_phase
            || all.states().all(|state| {
                let active_bytes = state.ledger.totals().active_bytes;
                state.planned().is_none_or(|planned| planned.is_between(active_bytes))
            })
    }

    /// In the midst of an iteration: a stream goes through its part again before the others are
    /// done, or a period is found in what never came to an end.
    fn within(&mut self, all: &mut All<'_>, arena: Option<u32>) -> Due {
        let mut due = Due::default();
        let Some(arena) = arena else { return due };
        let Some(planned) = all.state(arena).planned() else { return due };
        if planned.is_adrift() {
            self.planned = None;
            due.gives_up = true;
            return due;
        }
        planned.wrap();
        if !planned.is_long() || self.is_marked || self.packing.is_some() || self.ready.is_some() {
            return due;
        }
        let units: Vec<u32> = planned.seen().iter().map(|seen| seen.units).collect();
        let Some(length) = period(&units) else { return due };
        let end = least_live(planned.seen(), length);
        let (Some(first), Some(last)) = (planned.seen().get(end - length), planned.seen().get(end))
        else {
            return due;
        };
        let span = first.taken..last.taken;
        planned.set_phase(end, length);
        let cut = |seen: &[Seen]| -> Vec<Seen> {
            let within = seen.iter().filter(|seen| span.contains(&seen.taken));
            within.map(|seen| seen.until(span.end)).collect()
        };
        let streams = all.states().map(|state| state.planned().map(|planned| cut(planned.seen())));
        due.pack = Some(streams.map(Option::unwrap_or_default).collect());
        (self.planned, self.again) = (None, 0);
        due
    }
}

/// Where in the last period of `length` the fewest bytes that came in it are live: the number of
/// the request there.
fn least_live(seen: &[Seen], length: usize) -> usize {
    let last = seen.len() - 1;
    let first = last.saturating_sub(length).max(length);
    let candidates = (first..last).step_by((length / 64).max(1));
    let live = |at: &usize| {
        let now = seen[*at].taken;
        let before = seen[at.saturating_sub(length)..*at].iter();
        let open = before.filter(|seen| seen.freed().is_none_or(|freed| freed > now));
        open.map(|seen| u64::from(seen.units)).sum::<u64>()
    };
    candidates.min_by_key(live).unwrap_or(first)
}

fn mix(digest: u64, other: u64) -> u64 {
    (digest.rotate_left(17) ^ other).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_while_nothing_repeats_and_end_when_something_does() {
        let mut planner = Planner::default();
        let mut rests = |repeats: &[bool]| -> Vec<usize> {
            repeats.iter().map(|&repeats| planner.rest_after(repeats, 100)).collect()
        };
        assert_eq!(rests(&[false; 7]), [0; 7]);
        assert_eq!(rests(&[false; 5]), [200, 0, 400, 0, 800]);
        assert_eq!(rests(&[false; 40]).into_iter().max(), Some(3200));
        assert_eq!(rests(&[true]), [0]);
        assert_eq!(rests(&[false; 7]), [0; 7]);
    }
}
