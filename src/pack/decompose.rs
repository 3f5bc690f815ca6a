//! Cutting a problem into pieces that can be packed apart, without loss.
//!
//! Two cuts, in turn until neither applies: an item alive in *all* sections may as well lie at
//! the very bottom (whatever is below it can be moved up by its size), which leaves a smaller
//! problem above it; and where no item crosses from a section to the next, both sides are
//! problems of their own.

use super::instance::Instance;

/// Cuts within cuts, at most: each looks at all items, and there could be as many as items.
const DEPTH_MAX: u32 = 64;

/// A problem that cannot be cut further.
#[derive(Debug)]
pub(super) struct Piece {
    /// Its items, as numbers in the whole problem.
    pub(super) items: Vec<u32>,
    /// Where its offsets begin.
    pub(super) base: u64,
    /// The problem itself.
    pub(super) instance: Instance,
}

/// The pieces of the problem that `chosen` are. Items at the bottom get their offset at once.
pub(super) fn decompose(whole: &Instance, chosen: Vec<u32>, offsets: &mut [u64]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut pending = vec![(chosen, 0_u64, 0)];
    while let Some((items, mut base, depth)) = pending.pop() {
        if items.is_empty() {
            continue;
        }
        let instance = whole.part(&items);
        let sections = instance.loads.len() as u32;
        let spans_all = |at: usize| {
            let item = instance.items[at];
            item.first == 0 && item.end == sections
        };
        let (bottom, rest): (Vec<usize>, Vec<usize>) =
            (0..items.len()).partition(|&at| spans_all(at));
        let groups = groups(&instance, &rest);
        if depth == DEPTH_MAX || (bottom.is_empty() && groups.len() == 1) {
            pieces.push(Piece { items, base, instance });
            continue;
        }
        for &at in &bottom {
            offsets[items[at] as usize] = base;
            base += instance.items[at].bytes;
        }
        for group in groups {
            pending.push((group.into_iter().map(|at| items[at]).collect(), base, depth + 1));
        }
    }
    // The order of the work must not depend on the order of the cuts.
    pieces.sort_by_key(|piece| piece.items.first().copied());
    pieces
}

/// `chosen` in groups with no section in common.
fn groups(instance: &Instance, chosen: &[usize]) -> Vec<Vec<usize>> {
    let mut by_first = chosen.to_vec();
    by_first.sort_by_key(|&at| instance.items[at].first);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut end = 0;
    for at in by_first {
        let item = instance.items[at];
        match groups.last_mut().filter(|_| item.first < end) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
        end = end.max(item.end);
    }
    groups
}
