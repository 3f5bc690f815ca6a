//! A problem in the form the algorithms work on: time cut into *sections*.
//!
//! Between two events the set of live buffers does not change, and of two neighbouring sets
//! where one contains the other only the larger one restrains a packing. What is left are the
//! sections: at most one for each buffer.

use super::Buffer;

/// A buffer, alive in the sections `first..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Item {
    pub(super) first: u32,
    pub(super) end: u32,
    pub(super) bytes: u64,
    /// In the caller's time, which sections have lost.
    pub(super) lifetime: u64,
}

impl Item {
    /// The sections it is alive in.
    pub(super) fn sections(&self) -> std::ops::Range<usize> {
        self.first as usize..self.end as usize
    }
}

/// All buffers of a problem, in the caller's order.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) items: Vec<Item>,
    /// Bytes alive in each section.
    pub(super) loads: Vec<u64>,
}

impl Instance {
    /// `sizes` are those of `buffers`, rounded.
    pub(super) fn new(buffers: &[Buffer], sizes: &[u64]) -> Self {
        let items = buffers.iter().zip(sizes).map(|(buffer, &bytes)| {
            let lifetime = buffer.upper - buffer.lower;
            (buffer.lower, buffer.upper, Item { first: 0, end: 0, bytes, lifetime })
        });
        Self::cut(items.collect())
    }

    /// The part of the problem that `chosen` are, with sections of its own.
    pub(super) fn part(&self, chosen: &[u32]) -> Self {
        let items = chosen.iter().map(|&at| {
            let item = self.items[at as usize];
            (u64::from(item.first), u64::from(item.end), item)
        });
        Self::cut(items.collect())
    }

    /// Finds the sections of items that live from a moment up to another.
    fn cut(lives: Vec<(u64, u64, Item)>) -> Self {
        let mut events: Vec<(u64, bool, u32)> = Vec::with_capacity(2 * lives.len());
        for (at, &(lower, upper, _)) in lives.iter().enumerate() {
            events.push((lower, true, at as u32));
            events.push((upper, false, at as u32));
        }
        // Ends before starts of the same moment.
        events.sort_unstable();
        let mut items: Vec<Item> = lives.into_iter().map(|(_, _, item)| item).collect();
        let (mut section, mut grown) = (0, false);
        for (_, is_start, at) in events {
            if is_start {
                items[at as usize].first = section;
                grown = true;
            } else {
                section += u32::from(std::mem::take(&mut grown));
                items[at as usize].end = section;
            }
        }
        Self { loads: loads(&items, section as usize), items }
    }

    /// The most bytes alive at one moment: no packing is lower.
    pub(super) fn peak_load(&self) -> u64 {
        self.loads.iter().copied().max().unwrap_or(0)
    }

    /// The highest load during each item's life.
    pub(super) fn peaks(&self) -> Vec<u64> {
        // Row k has the maximum of each 2^k sections in a row.
        let mut rows = vec![self.loads.clone()];
        while let Some(last) = rows.last().filter(|row| row.len() > 1 << (rows.len() - 1)) {
            let span = 1 << (rows.len() - 1);
            rows.push((0..last.len() - span).map(|at| last[at].max(last[at + span])).collect());
        }
        let peak = |item: &Item| {
            let level = (item.end - item.first).ilog2() as usize;
            let row = &rows[level];
            row[item.first as usize].max(row[item.end as usize - (1 << level)])
        };
        self.items.iter().map(peak).collect()
    }

    /// The height of a packing.
    pub(super) fn height(&self, offsets: &[u64]) -> u64 {
        let tops = self.items.iter().zip(offsets).map(|(item, offset)| offset + item.bytes);
        tops.max().unwrap_or(0)
    }
}

fn loads(items: &[Item], sections: usize) -> Vec<u64> {
    let mut loads = vec![0_u64; sections + 1];
    for item in items {
        loads[item.first as usize] = loads[item.first as usize].wrapping_add(item.bytes);
        loads[item.end as usize] = loads[item.end as usize].wrapping_sub(item.bytes);
    }
    for at in 1..loads.len() {
        loads[at] = loads[at].wrapping_add(loads[at - 1]);
    }
    loads.truncate(sections);
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sections_that_no_neighbour_contains_are_kept() {
        let buffer = |lower, upper| Buffer { lower, upper, bytes: 1 };
        // 0 rises to three alive, falls to one, rises to two.
        let buffers = [buffer(0, 100), buffer(10, 40), buffer(20, 30), buffer(50, 60)];
        let instance = Instance::new(&buffers, &[1, 1, 1, 1]);
        assert_eq!(instance.loads, [3, 2]);
        let ranges: Vec<_> = instance.items.iter().map(|item| (item.first, item.end)).collect();
        assert_eq!(ranges, [(0, 2), (0, 1), (0, 1), (1, 2)]);
    }
}
