//! Free handles to map behind one another, for a request that nothing mapped can serve. Reads the
//! pages, decides, changes nothing.

use std::collections::HashSet;

use super::PAGE_BYTES;
use super::pages::{Free, HandleId, Ledgers, Pages, Range, RangeId};
use crate::base::MIB;

/// Room a range must have beyond twice the request for a chain to go on at its end.
const ROOM_BYTES: u64 = 256 * MIB;
/// A chain goes on at a range whose free end is at least this part of the request.
const PREFIX_PART: u64 = 4;

/// Free handles to map one behind another, and a new one where they do not suffice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The range to go on with; a new one if none.
    pub(crate) range: Option<RangeId>,
    /// Free bytes at its end that the request begins with.
    pub(crate) prefix_bytes: u64,
    /// Bytes of the first handle that come before the request.
    pub(crate) skip_bytes: u64,
    /// What to map first.
    pub(crate) maps: Vec<HandleId>,
    /// What to make anew behind that.
    pub(crate) create_bytes: u64,
    /// What to map last: its start is free.
    pub(crate) last: Option<HandleId>,
}

/// Free handles as a plan sees them.
#[derive(Debug, Default)]
struct Stock {
    wholes: Vec<Whole>,
    /// The longest free end of a partly used handle: bytes and handle.
    tail: Option<(u64, HandleId)>,
    /// Free starts of partly used handles.
    heads: Vec<(u64, HandleId)>,
}

/// A wholly free handle: ordered by the size of the free block it lies in, then by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Whole {
    block_bytes: u64,
    home: u64,
    handle: HandleId,
    bytes: u64,
}

/// Handles to map so that, with what is free at the end of a range, `bytes` lie together. Unless
/// streams `may_wait` for each other, only of handles that the arena's stream need not wait for.
pub(crate) fn chain(
    pages: &Pages,
    ledgers: &mut dyn Ledgers,
    arena: u32,
    bytes: u64,
    may_wait: bool,
) -> Plan {
    let free = Free::now(pages, ledgers);
    let on = go_on_at(pages, &free, arena, bytes);
    let taker = pages.arenas[arena as usize].stream;
    let stock = Stock::of(pages, ledgers, &free, |id| may_wait || pages.is_ready(id, taker));
    let going_on = stock.plan(pages, bytes, on);
    let Some(range) = going_on.range else { return going_on };
    // Handles are mapped whole, so they may need more room than what is asked of them.
    let Range { end, limit, .. } = pages.ranges[range];
    let has_room = going_on.mapped_bytes(pages) < limit - end;
    if has_room && going_on.create_bytes == 0 {
        return going_on;
    }
    let anew = stock.plan(pages, bytes, Prefix::default());
    if has_room && going_on.create_bytes <= anew.create_bytes { going_on } else { anew }
}

impl Plan {
    /// How much address space it maps handles in.
    pub(crate) fn mapped_bytes(&self, pages: &Pages) -> u64 {
        let known = self.maps.iter().chain(&self.last);
        self.create_bytes + known.map(|&id| pages.handles[id].bytes).sum::<u64>()
    }
}

/// The free end of a range.
#[derive(Debug, Default)]
struct Prefix {
    range: Option<RangeId>,
    bytes: u64,
    handles: HashSet<HandleId>,
}

/// The range with the longest free end, if it is long enough to be worth it.
fn go_on_at(pages: &Pages, free: &Free, arena: u32, bytes: u64) -> Prefix {
    let mut best = Prefix::default();
    for &id in &pages.arenas[arena as usize].runs {
        let Range { end, limit, .. } = pages.ranges[id];
        let room = bytes.saturating_mul(2).saturating_add(ROOM_BYTES);
        if limit - end <= room {
            continue;
        }
        let found = free_end(pages, free, id);
        if found.bytes < bytes && found.bytes > best.bytes {
            best = found;
        }
    }
    if best.bytes * PREFIX_PART < bytes { Prefix::default() } else { best }
}

fn free_end(pages: &Pages, free: &Free, id: RangeId) -> Prefix {
    let Range { start, end, .. } = pages.ranges[id];
    let mut found = Prefix { range: Some(id), ..Prefix::default() };
    let mut reached = end;
    for (&address, view) in pages.views.range(start..end).rev() {
        let bytes = pages.handles[view.handle].bytes;
        if address + bytes != reached || found.handles.contains(&view.handle) {
            break;
        }
        match free.runs(view.handle).last() {
            Some(&(from, to)) if to == bytes => {
                found.bytes += bytes - from;
                found.handles.insert(view.handle);
                if from > 0 {
                    break;
                }
            }
            _ => break,
        }
        reached = address;
    }
    found
}

impl Stock {
    fn of(
        pages: &Pages,
        ledgers: &mut dyn Ledgers,
        free: &Free,
        may: impl Fn(HandleId) -> bool,
    ) -> Self {
        let mut stock = Self::default();
        for (id, handle) in &pages.handles {
            let runs = free.runs(id);
            let (Some(&first), Some(&last)) = (runs.first(), runs.last()) else { continue };
            if !may(id) {
                continue;
            }
            if first == (0, handle.bytes) {
                let block_bytes = handle.sole_owner().map_or(0, |view| {
                    let range = pages.ranges[pages.views[&view].range];
                    let block = ledgers.of(range.arena).free_at(range.segment, view);
                    block.map_or(0, |(_, bytes)| bytes)
                });
                let (home, bytes) = (handle.home, handle.bytes);
                stock.wholes.push(Whole { block_bytes, home, handle: id, bytes });
                continue;
            }
            let tail_bytes = last.1 - last.0;
            if last.1 == handle.bytes && stock.tail.is_none_or(|(most, _)| most < tail_bytes) {
                stock.tail = Some((tail_bytes, id));
            }
            if first.0 == 0 {
                stock.heads.push((first.1, id));
            }
        }
        stock.heads.sort_unstable();
        stock
    }

    /// Wholly free handles, as few bytes of them as possible. Only where all of them are too few
    /// the free end of a partly used one goes first, and the free start of one last.
    fn plan(&self, pages: &Pages, bytes: u64, on: Prefix) -> Plan {
        let free = |id: &HandleId| !on.handles.contains(id);
        let wholes: Vec<Whole> =
            self.wholes.iter().copied().filter(|whole| free(&whole.handle)).collect();
        let heads = self.heads.iter().copied().filter(|(_, id)| free(id));
        let total: u64 = wholes.iter().map(|whole| whole.bytes).sum();
        let mut plan = Plan { range: on.range, prefix_bytes: on.bytes, ..Plan::default() };
        let mut need = bytes - on.bytes;
        let mut first = None;
        if total < need
            && on.range.is_none()
            && let Some((tail_bytes, id)) = self.tail
        {
            let used = tail_bytes.min(need);
            plan.maps.push(id);
            plan.skip_bytes = pages.handles[id].bytes - used;
            need -= used;
            first = Some(id);
        }
        if total >= need {
            plan.maps.extend(least_sum(wholes, need).iter().map(|whole| whole.handle));
            return plan;
        }
        plan.maps.extend(by_home(wholes).iter().map(|whole| whole.handle));
        let rest = need - total;
        // A handle can be first and last, if its free end and start are apart.
        let heads: Vec<_> =
            heads.filter(|&(end, id)| Some(id) != first || end <= plan.skip_bytes).collect();
        let enough = heads.iter().find(|&&(head_bytes, _)| head_bytes >= rest);
        if let Some(&(head_bytes, id)) = enough.or(heads.last()) {
            plan.create_bytes = (rest - head_bytes.min(rest)).next_multiple_of(PAGE_BYTES);
            plan.last = (rest > plan.create_bytes).then_some(id);
        } else {
            plan.create_bytes = rest.next_multiple_of(PAGE_BYTES);
        }
        plan
    }
}

/// Wholly free handles of `bytes` together, as near as they come without being less, and how many
/// bytes have to be made anew where all of them are too few. `bytes` is a multiple of the page.
pub(crate) fn cover(pages: &Pages, ledgers: &mut dyn Ledgers, bytes: u64) -> (Vec<HandleId>, u64) {
    let free = Free::now(pages, ledgers);
    let wholes = Stock::of(pages, ledgers, &free, |_| true).wholes;
    let total: u64 = wholes.iter().map(|whole| whole.bytes).sum();
    let chosen = if total < bytes { by_home(wholes) } else { least_sum(wholes, bytes) };
    (chosen.iter().map(|whole| whole.handle).collect(), bytes.saturating_sub(total))
}

fn by_home(mut wholes: Vec<Whole>) -> Vec<Whole> {
    wholes.sort_unstable_by_key(|whole| whole.home);
    wholes
}

/// Handles whose bytes sum to the least that is at least `wanted`, which all of them reach;
/// those in small free blocks are preferred. In order of their homes.
fn least_sum(mut wholes: Vec<Whole>, wanted: u64) -> Vec<Whole> {
    const UNREACHED: u32 = u32::MAX;
    wholes.sort_unstable();
    let goal = wanted.div_ceil(PAGE_BYTES) as usize;
    if goal == 0 {
        return Vec::new();
    }
    let pages = |whole: &Whole| (whole.bytes / PAGE_BYTES) as usize;
    let top = goal + wholes.iter().map(pages).max().unwrap_or(0);
    // By sum in pages: the handle that reached it first.
    let mut by = vec![UNREACHED; top + 1];
    for (at, whole) in wholes.iter().enumerate() {
        let more = pages(whole);
        for sum in (more..=top).rev() {
            let before = sum - more;
            let reached = before == 0
                || (before < goal && by[before] != UNREACHED && by[before] != at as u32);
            if by[sum] == UNREACHED && reached {
                by[sum] = at as u32;
            }
        }
        if by[goal] != UNREACHED {
            break;
        }
    }
    let mut sum = (goal..=top).find(|&sum| by[sum] != UNREACHED).unwrap_or(0);
    let mut chosen = Vec::new();
    while sum > 0 {
        let whole = wholes[by[sum] as usize];
        sum -= pages(&whole);
        chosen.push(whole);
    }
    by_home(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wholes(pages: &[u64]) -> Vec<Whole> {
        let whole = |(at, &pages): (usize, &u64)| Whole {
            block_bytes: pages * PAGE_BYTES,
            home: at as u64,
            handle: at,
            bytes: pages * PAGE_BYTES,
        };
        pages.iter().enumerate().map(whole).collect()
    }

    #[test]
    fn the_least_sum_is_found() {
        for (pages, wanted, sum) in [
            (&[1, 1, 1, 1][..], 3, 3),
            (&[8, 3, 5], 8, 8),
            (&[8, 3, 5], 9, 11),
            (&[32, 1, 1], 3, 32),
            (&[10, 7, 7], 14, 14),
            (&[4], 1, 4),
        ] {
            let chosen = least_sum(wholes(pages), wanted * PAGE_BYTES);
            let found: u64 = chosen.iter().map(|whole| whole.bytes / PAGE_BYTES).sum();
            assert_eq!(found, sum, "{pages:?} for {wanted}");
        }
        assert_eq!(least_sum(wholes(&[8, 3, 5]), 8 * PAGE_BYTES - 1)[0].handle, 1);
    }
}
