//! Packing within a capacity, hardest part first.
//!
//! In a large problem most moments have room to spare. The *core* is what is alive in the
//! fullest sections: it is cut into pieces and searched; the rest is placed around it greedily.
//! What then does not fit joins the core, which grows until all fits or nothing is left outside.

use super::decompose::decompose;
use super::effort::Effort;
use super::first_fit::{UNPLACED, first_fit};
use super::instance::Instance;
use super::orders::Order;
use super::race::{Lost, race};
use super::restarts::solve;
use super::search::Outcome;

/// Items of the first core. Up to here a problem is searched whole.
const CORE_FIRST: usize = 600;
/// From core to core it grows by this factor.
const CORE_GROWTH: usize = 2;
/// A piece of more items is not searched: reasons take a bit for each pair of items.
const PIECE_MAX: usize = 16_384;
/// Orders in which the rest is tried: each costs as much as packing everything greedily.
const REST_ORDERS: usize = 3;
/// A core may have no more pairs that overlap: tables and steps grow with them.
pub(super) const PAIRS_MAX: u64 = 10_000_000;

/// Looks for a packing of everything within `capacity`, which is at least the peak load.
pub(super) fn pack_within(instance: &Instance, capacity: u64, effort: &mut Effort<'_>) -> Outcome {
    let mut core = Core::new(instance);
    core.grow(CORE_FIRST);
    while effort.left() > 0 && core.pairs() <= PAIRS_MAX {
        let offsets = match pack_core(&core, capacity, effort) {
            Outcome::Found(offsets) => offsets,
            // Where a part cannot be packed, the whole cannot.
            other => return other,
        };
        if core.items.len() == instance.items.len() {
            return Outcome::Found(offsets);
        }
        match pack_rest(instance, capacity, &offsets, effort) {
            Some(Ok(offsets)) => return Outcome::Found(offsets),
            Some(Err(above)) => core.add(&above),
            None => break,
        }
        core.grow(core.items.len() * CORE_GROWTH);
    }
    Outcome::Unknown
}

/// Offsets of the core; what is not in it has none.
fn pack_core(core: &Core<'_>, capacity: u64, effort: &mut Effort<'_>) -> Outcome {
    let mut offsets = vec![UNPLACED; core.instance.items.len()];
    let mut pieces = decompose(core.instance, core.items.clone(), &mut offsets);
    // The hardest first: most often it is the one that fails.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.base + piece.instance.peak_load()));
    if pieces.iter().any(|piece| piece.items.len() > PIECE_MAX) {
        return Outcome::Unknown;
    }
    for piece in pieces {
        match solve(&piece, capacity - piece.base, effort) {
            Outcome::Found(found) => {
                for (&item, offset) in piece.items.iter().zip(found) {
                    offsets[item as usize] = piece.base + offset;
                }
            }
            other => return other,
        }
    }
    Outcome::Found(offsets)
}

/// Places what has no offset yet in the first order that fits. Else gives the items that end
/// above the capacity, in the order that has least of them; `None` when stopped.
fn pack_rest(
    instance: &Instance,
    capacity: u64,
    fixed: &[u64],
    effort: &mut Effort<'_>,
) -> Option<Result<Vec<u64>, Vec<u32>>> {
    let stop = effort.stop();
    let run = |(): &mut (), job: usize, lost: &Lost<'_>| {
        let mut offsets = fixed.to_vec();
        let order = Order::ALL[job].sorted(instance);
        let is_stopped = || lost.is_lost() || stop.is_set();
        let steps = first_fit(instance, &order, &mut offsets, is_stopped)?;
        let ends = instance.items.iter().zip(&offsets).map(|(item, offset)| offset + item.bytes);
        let above = (0..).zip(ends).filter(|&(_, end)| end > capacity).map(|(at, _)| at);
        Some((above.collect::<Vec<u32>>(), offsets, steps))
    };
    let fits = |placed: &Option<(Vec<u32>, _, _)>| {
        placed.as_ref().is_some_and(|(above, _, _)| above.is_empty())
    };
    let results = race(REST_ORDERS, effort.threads(), || (), run, fits);
    effort.spend(results.iter().flatten().map(|(_, _, steps)| steps).sum());
    let (above, offsets, _) =
        results.into_iter().flatten().min_by_key(|(above, ..)| above.len())?;
    Some(if above.is_empty() { Ok(offsets) } else { Err(above) })
}

/// The items that are searched.
pub(super) struct Core<'a> {
    instance: &'a Instance,
    pub(super) items: Vec<u32>,
    is_in: Vec<bool>,
    /// All items, those alive in the fullest sections first.
    by_peak: Vec<u32>,
}

impl<'a> Core<'a> {
    pub(super) fn new(instance: &'a Instance) -> Self {
        let peaks = instance.peaks();
        let mut by_peak: Vec<u32> = (0..instance.items.len() as u32).collect();
        // Among equally full sections those of one stretch of time belong together.
        by_peak.sort_by_key(|&at| {
            (std::cmp::Reverse(peaks[at as usize]), instance.items[at as usize].first)
        });
        Self { instance, items: Vec::new(), is_in: vec![false; by_peak.len()], by_peak }
    }

    pub(super) fn add(&mut self, items: &[u32]) {
        for &item in items {
            if !std::mem::replace(&mut self.is_in[item as usize], true) {
                self.items.push(item);
            }
        }
    }

    /// Adds items until there are `wanted`; all, where few would be left.
    pub(super) fn grow(&mut self, wanted: usize) {
        let all = self.by_peak.len();
        let wanted = if wanted + wanted / 2 >= all { all } else { wanted };
        let missing = wanted.saturating_sub(self.items.len());
        let open = self.by_peak.iter().filter(|&&item| !self.is_in[item as usize]);
        let more: Vec<u32> = open.copied().take(missing).collect();
        self.add(&more);
    }

    /// Pairs of items that overlap.
    pub(super) fn pairs(&self) -> u64 {
        let mut events: Vec<(u32, bool)> = Vec::with_capacity(2 * self.items.len());
        for &item in &self.items {
            let item = self.instance.items[item as usize];
            events.extend([(item.first, true), (item.end, false)]);
        }
        events.sort_unstable();
        let (mut live, mut pairs) = (0, 0);
        for (_, is_start) in events {
            if is_start {
                pairs += live;
                live += 1;
            } else {
                live -= 1;
            }
        }
        pairs
    }
}
