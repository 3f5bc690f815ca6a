//! What fits in the room there is: a pure function. The ladder and the way back up are the same
//! question, asked with less room and with more.
//!
//! Where the plan does not fit, the ring gets smaller first, down to two of the largest unit, then
//! residents go, those worth least first, and at last the ring holds one unit at a time.

use super::pieces::Pieces;
use super::space::Places;
use crate::base::align_up;
use crate::plan::Retention;

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) pieces: &'a Pieces,
    pub(super) places: &'a Places,
    /// Rings are rounded up to this.
    pub(super) page_bytes: u64,
    pub(super) phase: usize,
    /// For residents and ring together.
    pub(super) room_bytes: u64,
    /// Of all units, which have a lease: their residents cannot go.
    pub(super) is_leased: &'a dyn Fn(usize) -> bool,
    /// The ring, where it cannot be changed now.
    pub(super) fixed_ring: Option<FixedRing<'a>>,
    /// Which pieces are on the device already.
    pub(super) there: &'a [bool],
    /// What may stay of other components.
    pub(super) retention: Retention,
}

/// A ring that is in use.
#[derive(Clone, Copy)]
pub(super) struct FixedRing<'a> {
    pub(super) bytes: u64,
    /// Which pieces it streams in one with the rest of their unit.
    pub(super) is_of_unit: &'a dyn Fn(usize) -> bool,
}

/// What fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) ring_bytes: u64,
    /// By piece: whether it is on the device.
    pub(super) keep: Vec<bool>,
    /// The ring holds one unit at a time, though the plan wanted two.
    pub(super) is_single: bool,
}

/// A way to keep the first of the phase's own residents.
struct Step {
    /// Memory of the residents.
    resident_bytes: u64,
    /// The most that is streamed of a unit, and of all.
    largest_bytes: u64,
    streamed_bytes: u64,
    /// The least ring that the pieces of every unit fit in side by side, wherever the first of
    /// them comes to lie.
    side_by_side_bytes: u64,
}

impl Step {
    /// The least ring, for two units or one.
    fn least(&self, units: u64, page_bytes: u64) -> u64 {
        let bytes = self.largest_bytes.saturating_mul(units).min(self.streamed_bytes);
        align_up(bytes, page_bytes).unwrap_or(u64::MAX)
    }
}

/// What to keep, or `None` where not even the least fits.
pub(super) fn fit(question: &Question<'_>) -> Option<Fit> {
    let own = own_pieces(question);
    let least = own.iter().filter(|&&at| (question.is_leased)(question.pieces.pieces[at].unit));
    let least = least.count();
    let steps = steps(question, &own);
    let page = question.page_bytes;
    let wanted = align_up(question.pieces.phases[question.phase].ring_bytes, page)?;
    let all = steps.last()?;
    let planned_single = wanted < all.least(2, page);
    for units in [2, 1] {
        if units == 2 && planned_single {
            continue;
        }
        for (kept, step) in steps.iter().enumerate().skip(least).rev() {
            let Some(left) = question.room_bytes.checked_sub(step.resident_bytes) else { continue };
            let ring_bytes = match question.fixed_ring {
                Some(FixedRing { bytes, .. }) => {
                    if bytes > left || bytes < step.side_by_side_bytes {
                        continue;
                    }
                    bytes
                }
                None => {
                    let floor = step.least(if planned_single { 1 } else { units }, page);
                    // What the plan itself is content with is enough for it.
                    let floor = if kept == own.len() { floor.min(wanted) } else { floor };
                    if left < floor {
                        continue;
                    }
                    let most = if step.streamed_bytes == 0 { 0 } else { wanted.max(floor) };
                    (left / page * page).min(most)
                }
            };
            let mut keep = vec![false; question.pieces.pieces.len()];
            own[..kept].iter().for_each(|&at| keep[at] = true);
            keep_others(question, left - ring_bytes, &mut keep);
            let is_single = units == 1 && !planned_single;
            return Some(Fit { ring_bytes, keep, is_single });
        }
    }
    None
}

/// What the plan has stay in this phase, the most valuable first; what is leased before it all.
fn own_pieces(question: &Question<'_>) -> Vec<usize> {
    let pieces = &question.pieces.pieces;
    let mut own: Vec<usize> =
        (0..pieces.len()).filter(|&at| pieces[at].stays[question.phase]).collect();
    own.sort_by(|&a, &b| {
        let leased = |at: usize| (question.is_leased)(pieces[at].unit);
        leased(b).cmp(&leased(a)).then(pieces[b].value.total_cmp(&pieces[a].value))
    });
    own
}

/// For each number of residents that are kept, what that takes.
fn steps(question: &Question<'_>, own: &[usize]) -> Vec<Step> {
    let Pieces { pieces, units, phases } = question.pieces;
    let range = phases[question.phase].units.clone();
    let mut streamed: Vec<u64> = units[range.clone()].iter().map(|unit| unit.bytes).collect();
    let mut touched = vec![false; question.places.page_bytes().len()];
    let mut resident_bytes = 0;
    let mut steps = Vec::with_capacity(own.len() + 1);
    let step = |resident_bytes: u64, streamed: &[u64]| Step {
        resident_bytes,
        largest_bytes: streamed.iter().copied().max().unwrap_or(0),
        streamed_bytes: streamed.iter().sum(),
        side_by_side_bytes: 0,
    };
    steps.push(step(resident_bytes, &streamed));
    for &at in own {
        resident_bytes += touch(question.places, at, &mut touched);
        streamed[pieces[at].unit - range.start] -= pieces[at].bytes;
        steps.push(step(resident_bytes, &streamed));
    }
    if let Some(ring) = &question.fixed_ring {
        side_by_side(question, ring, own, streamed, &mut steps);
    }
    steps
}

/// What the units need in a ring that streams what leaves apart from the rest of its unit. The
/// largest part of a unit is placed first, and leaves two gaps, so that it takes twice the unit
/// less that part. `streamed` is what each unit streams when all residents are kept.
fn side_by_side(
    question: &Question<'_>,
    ring: &FixedRing<'_>,
    own: &[usize],
    mut streamed: Vec<u64>,
    steps: &mut [Step],
) {
    let Pieces { pieces, phases, .. } = question.pieces;
    let first = phases[question.phase].units.start;
    let mut largest = streamed.clone();
    for &at in own.iter().filter(|&&at| (ring.is_of_unit)(at)) {
        // It passes through the ring in any case until that is made anew.
        let unit = pieces[at].unit - first;
        largest[unit] += pieces[at].bytes;
    }
    let mut needed = largest.iter().copied().max().unwrap_or(0);
    for (kept, step) in steps.iter_mut().enumerate().rev() {
        if let Some(&at) = own.get(kept) {
            let unit = pieces[at].unit - first;
            streamed[unit] += pieces[at].bytes;
            if !(ring.is_of_unit)(at) {
                largest[unit] = largest[unit].max(pieces[at].bytes);
            }
            let twice = streamed[unit].saturating_mul(2);
            needed = needed.max(twice.saturating_sub(largest[unit]).max(largest[unit]));
        }
        step.side_by_side_bytes = needed;
    }
}

/// Marks the pages of a piece; gives the bytes of those that were not marked.
fn touch(places: &Places, piece: usize, touched: &mut [bool]) -> u64 {
    let pages = places.pages(piece);
    let new = pages.filter(|&page| !std::mem::replace(&mut touched[page], true));
    new.map(|page| places.page_bytes()[page]).sum()
}

/// Keeps what other components have in the room that is left: what is used soonest first.
fn keep_others(question: &Question<'_>, left_bytes: u64, keep: &mut [bool]) {
    let (pieces, places, phase) = (&question.pieces.pieces, question.places, question.phase);
    let mut touched = vec![false; places.page_bytes().len()];
    let own_bytes: u64 =
        (0..keep.len()).filter(|&at| keep[at]).map(|at| touch(places, at, &mut touched)).sum();
    let mut left_bytes = match question.retention {
        Retention::OneComponent | Retention::None => return,
        Retention::Watermarks { low_bytes, .. } => {
            left_bytes.min(low_bytes.saturating_sub(own_bytes))
        }
        Retention::Planned | Retention::All => left_bytes,
    };
    let mut others: Vec<(usize, usize)> = (0..pieces.len())
        .filter(|&at| !keep[at] && pieces[at].stays.contains(&true) && !pieces[at].stays[phase])
        .map(|at| (question.pieces.next_use(pieces[at].unit, phase), at))
        .collect();
    others.retain(|&(steps, at)| {
        let wanted = (phase + steps) % question.pieces.phases.len();
        steps > 0 && (pieces[at].stays[wanted] || question.there[at])
    });
    others.sort_by(|&(soon_a, a), &(soon_b, b)| {
        soon_a.cmp(&soon_b).then(pieces[b].value.total_cmp(&pieces[a].value))
    });
    for (_, at) in others {
        let pages = places.pages(at).filter(|&page| !touched[page]);
        let bytes: u64 = pages.map(|page| places.page_bytes()[page]).sum();
        if bytes <= left_bytes {
            left_bytes -= touch(places, at, &mut touched);
            keep[at] = true;
        }
    }
}
