//! From what was recorded to a plan: every request's place, packed over all streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::UNIT_BYTES;
use super::recording::Seen;
use crate::base::Result;
use crate::pack::{Buffer, Options, Packing, Watch, pack};
use crate::policy::expandable::PAGE_BYTES;

/// Work a packing may do, twice at most: some seconds of one core each.
const BUDGET_STEPS: u64 = 1_000_000_000;
/// A packing is good enough if it is above the bound by no more than one part in so many.
const SLACK_PART: u64 = 256;

/// A request of the plan. Sizes and offsets are in units of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// What it asks for.
    pub(crate) units: u32,
    /// Where it goes; [`Row::UNPLACED`] if it outlives the plan, and is served online.
    pub(crate) offset: u32,
    /// The free block its place lies in, when all goes as planned: see [`Names`].
    pub(crate) within: u32,
    /// The name of the block made for it, if it does not begin where that free block does.
    pub(crate) name: u32,
    /// The name of what is left free behind it.
    pub(crate) rear: u32,
}

impl Row {
    /// No place.
    pub(crate) const UNPLACED: u32 = u32::MAX;
    /// Behind the last row: of no request, for none asks for 0 units.
    pub(crate) const END: Self =
        Self { units: 0, offset: u32::MAX, within: u32::MAX, name: u32::MAX, rear: u32::MAX };

    /// True if the plan has a place for it.
    #[inline]
    pub(crate) fn is_placed(&self) -> bool {
        self.offset != Self::UNPLACED
    }
}

/// The part of a plan that is one stream's.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Its requests in order, and [`Row::END`].
    pub(crate) rows: Arc<[Row]>,
    /// How many names of blocks the rows use.
    pub(crate) names: u32,
    /// Bytes of it live at most.
    pub(crate) peak_bytes: u64,
}

/// An iteration, packed.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// By stream, as recorded.
    pub(crate) parts: Vec<Part>,
    /// What the places take.
    pub(crate) height_bytes: u64,
}

/// Plans one iteration: of each stream, what was recorded of it.
///
/// # Errors
/// Sizes that together cannot be counted.
pub(crate) fn lay_out(streams: &[Vec<Seen>], watch: &Arc<Watch>) -> Result<Table> {
    let (mut buffers, mut rows) = (Vec::new(), Vec::new());
    for (stream, seen) in streams.iter().enumerate() {
        for (at, seen) in seen.iter().enumerate() {
            if let Some(freed) = seen.freed().filter(|&freed| seen.units > 0 && freed > seen.taken)
            {
                let bytes = u64::from(seen.units) * UNIT_BYTES;
                buffers.push(Buffer { lower: seen.taken, upper: freed, bytes });
                rows.push((stream, at));
            }
        }
    }
    let (packing, most_bytes) = packed(&buffers, watch)?;
    let mut offsets: Vec<Vec<u32>> =
        streams.iter().map(|seen| vec![Row::UNPLACED; seen.len()]).collect();
    let mut height_bytes = 0;
    for ((&(stream, at), &offset), buffer) in rows.iter().zip(&packing.offsets).zip(&buffers) {
        let end = offset + buffer.bytes;
        if end <= most_bytes {
            // The end has to be counted too: see `Names`.
            if let (Ok(offset), Ok(_)) =
                (u32::try_from(offset / UNIT_BYTES), u32::try_from(end / UNIT_BYTES))
            {
                offsets[stream][at] = offset;
                height_bytes = height_bytes.max(end);
            }
        }
    }
    let parts = streams.iter().zip(&offsets).map(|(seen, offsets)| part(seen, offsets)).collect();
    Ok(Table { parts, height_bytes })
}

/// Packs within the pages the bound takes or, where that is not found, within a little more; what
/// then ends above that, which is given too, is to be served online.
fn packed(buffers: &[Buffer], watch: &Arc<Watch>) -> Result<(Packing, u64)> {
    let bound = peak_bytes(buffers);
    let mut options = Options::default();
    (options.align_bytes, options.threads) = (UNIT_BYTES, 1);
    (options.budget_steps, options.watch) = (BUDGET_STEPS, Some(Arc::clone(watch)));
    let capacity = bound.next_multiple_of(PAGE_BYTES);
    options.capacity_bytes = Some(capacity);
    let tight = pack(buffers, &options)?;
    let slack = capacity.max(bound + bound / SLACK_PART);
    if tight.height_bytes <= slack || watch.is_cancelled() {
        return Ok((tight, slack));
    }
    options.capacity_bytes = Some(slack);
    let loose = pack(buffers, &options)?;
    let lower = if loose.height_bytes < tight.height_bytes { loose } else { tight };
    Ok((lower, slack))
}

/// The most bytes live at once.
fn peak_bytes(buffers: &[Buffer]) -> u64 {
    let mut changes: Vec<(u64, bool, u64)> = Vec::with_capacity(2 * buffers.len());
    for buffer in buffers {
        changes.push((buffer.lower, true, buffer.bytes));
        changes.push((buffer.upper, false, buffer.bytes));
    }
    // Ends before beginnings of the same moment.
    changes.sort_unstable();
    let (mut live, mut peak) = (0, 0);
    for (_, begins, bytes) in changes {
        live = if begins { live + bytes } else { live - bytes };
        peak = peak.max(live);
    }
    peak
}

fn part(seen: &[Seen], offsets: &[u32]) -> Part {
    let row = |(seen, &offset): (&Seen, &u32)| Row { units: seen.units, offset, ..Row::END };
    let mut rows: Vec<Row> = seen.iter().zip(offsets).map(row).collect();
    let mut events: Vec<(u64, Option<usize>, usize)> = Vec::new();
    for (at, seen) in seen.iter().enumerate().filter(|&(at, _)| rows[at].is_placed()) {
        events.push((seen.taken, Some(at), at));
        events.extend(seen.freed().map(|freed| (freed, None, at)));
    }
    events.sort_unstable_by_key(|&(time, ..)| time);
    let (mut names, mut live, mut peak) = (Names::default(), 0, 0);
    for (_, taken, at) in events {
        match taken {
            Some(_) => {
                names.take(&mut rows[at]);
                live += u64::from(rows[at].units);
                peak = peak.max(live);
            }
            None => {
                names.give_back(&rows[at]);
                live -= u64::from(rows[at].units);
            }
        }
    }
    rows.push(Row::END);
    Part { rows: rows.into(), names: names.made, peak_bytes: peak * UNIT_BYTES }
}

/// The names of the blocks of a range, as the ledger gives them when all goes as planned: a block
/// keeps its name while its front does not change, so that the block a place is cut from can be
/// told beforehand. Names are used again; the range begins as one free block of name 0.
#[derive(Debug)]
struct Names {
    /// By first unit: its end, name, and whether it is free.
    blocks: BTreeMap<u32, (u32, u32, bool)>,
    vacant: Vec<u32>,
    made: u32,
}

impl Default for Names {
    fn default() -> Self {
        Self { blocks: BTreeMap::from([(0, (u32::MAX, 0, true))]), vacant: Vec::new(), made: 1 }
    }
}

impl Names {
    fn name(&mut self) -> u32 {
        self.vacant.pop().unwrap_or_else(|| {
            self.made += 1;
            self.made - 1
        })
    }

    /// Notes in `row` the names that taking its place needs.
    fn take(&mut self, row: &mut Row) {
        let (start, end) = (row.offset, row.offset + row.units);
        let Some((&from, &(to, within, _))) = self.blocks.range(..=start).next_back() else {
            return;
        };
        debug_assert!(end <= to, "the packing is sound");
        row.within = within;
        let mut name = within;
        if from < start {
            name = self.name();
            row.name = name;
            self.blocks.insert(from, (start, within, true));
        }
        self.blocks.insert(start, (end, name, false));
        if end < to {
            row.rear = self.name();
            self.blocks.insert(end, (to, row.rear, true));
        }
    }

    /// Merges as the ledger does.
    fn give_back(&mut self, row: &Row) {
        let start = row.offset;
        let Some(&(mut end, name, _)) = self.blocks.get(&start) else { return };
        if let Some(&(to, next, true)) = self.blocks.get(&end) {
            self.blocks.remove(&end);
            self.vacant.push(next);
            end = to;
        }
        let before = self.blocks.range(..start).next_back();
        if let Some((&from, &(_, previous, true))) = before {
            self.blocks.remove(&start);
            self.vacant.push(name);
            self.blocks.insert(from, (end, previous, true));
        } else {
            self.blocks.insert(start, (end, name, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Recording;
    use super::*;

    /// What is recorded of steps: a size takes a block, 0 frees the one of that number.
    fn recorded(steps: &[(u64, usize)]) -> Vec<Seen> {
        recorded_from(0, steps)
    }

    fn recorded_from(start: u64, steps: &[(u64, usize)]) -> Vec<Seen> {
        let mut recording = Recording::default();
        for (time, &(units, block)) in (start..).zip(steps) {
            match units {
                0 => recording.gave_up(time, block),
                _ => recording.took(units * UNIT_BYTES, time, block),
            }
        }
        recording.seen().to_vec()
    }

    fn laid_out(streams: &[Vec<Seen>]) -> Table {
        lay_out(streams, &Arc::new(Watch::new())).unwrap()
    }

    #[test]
    fn places_are_packed_over_all_streams() {
        // The second stream's block comes when the first one's is gone.
        let first = recorded(&[(4, 0), (2, 1), (0, 0)]);
        let second = recorded_from(3, &[(4, 0), (0, 0)]);
        let table = laid_out(&[first, second]);
        assert_eq!(table.height_bytes, 4 * UNIT_BYTES);
        let rows = &table.parts[0].rows;
        assert!(rows[0].is_placed() && !rows[1].is_placed(), "what is never freed has no place");
        assert_eq!(rows[2], Row::END);
        assert_eq!(table.parts[1].rows[0].offset, rows[0].offset);
        assert_eq!(table.parts[1].peak_bytes, 4 * UNIT_BYTES);
    }

    #[test]
    fn names_are_few_and_used_again() {
        let mut steps = Vec::new();
        for round in 0..100_u64 {
            steps.extend([(8, 0), (8, 1), (0, 0), (1 + round % 8, 2), (0, 1), (0, 2)]);
        }
        let table = laid_out(&[recorded(&steps)]);
        assert_eq!(table.parts[0].rows.len(), 301);
        assert!(table.parts[0].names <= 5, "{} names", table.parts[0].names);
        assert_eq!(table.height_bytes, 16 * UNIT_BYTES);
    }

    #[test]
    fn nothing_to_plan_is_a_plan() {
        let table = laid_out(&[Vec::new()]);
        assert_eq!((table.height_bytes, table.parts[0].rows.len()), (0, 1));
    }
}
