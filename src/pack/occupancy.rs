//! Which bytes are taken in which sections: a tree over time whose nodes hold spans of bytes.
//!
//! A node knows what is taken in *all* of its sections by items that end in it (`whole`), and
//! what is taken in *any* of them (`any`). A range of sections is a few nodes; what is taken
//! anywhere in it is `any` of these and `whole` of what is above them. Spans that touch are one,
//! so a stack of weights costs as much as a single block.

/// Disjoint spans `(start, end)` that do not touch, in ascending order.
#[derive(Debug, Clone, Default)]
struct Spans(Vec<(u64, u64)>);

impl Spans {
    fn add(&mut self, start: u64, end: u64) {
        let spans = &mut self.0;
        let from = spans.partition_point(|&(_, other_end)| other_end < start);
        let to = from + spans[from..].partition_point(|&(other_start, _)| other_start <= end);
        if from == to {
            spans.insert(from, (start, end));
            return;
        }
        spans[from] = (start.min(spans[from].0), end.max(spans[to - 1].1));
        spans.drain(from + 1..to);
    }
}

/// A list of spans that a query goes up along.
#[derive(Debug, Clone, Copy)]
struct Look {
    node: u32,
    is_any: bool,
    /// Spans before this end at or below the offset.
    passed: u32,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Occupancy {
    leaves: usize,
    whole: Vec<Spans>,
    any: Vec<Spans>,
    /// What the query at hand looks at.
    looked_at: Vec<Look>,
    steps: u64,
}

impl Occupancy {
    pub(super) fn new(sections: usize) -> Self {
        let leaves = sections.max(1).next_power_of_two();
        Self {
            leaves,
            whole: vec![Spans::default(); leaves],
            any: vec![Spans::default(); 2 * leaves],
            looked_at: Vec::new(),
            steps: 0,
        }
    }

    /// Calls `visit(node, is_top)` for the nodes that make up `first..end` (`is_top`), and for
    /// all above them, each once.
    fn nodes(leaves: usize, first: usize, end: usize, mut visit: impl FnMut(usize, bool)) {
        let (mut left, mut right) = (first + leaves, end + leaves);
        // The ancestors of the two ends: those above a part that was taken.
        let (mut low, mut high) = (left, right - 1);
        let (mut low_taken, mut high_taken) = (false, false);
        while low >= 1 {
            if low_taken {
                visit(low, false);
            }
            if high_taken && high != low {
                visit(high, false);
            }
            if left < right {
                if left & 1 == 1 {
                    visit(left, true);
                    low_taken = true;
                    left += 1;
                }
                if right & 1 == 1 {
                    right -= 1;
                    visit(right, true);
                    high_taken = true;
                }
                left /= 2;
                right /= 2;
            }
            low /= 2;
            high /= 2;
            if low == high {
                low_taken |= high_taken;
            }
        }
    }

    /// Takes the bytes `start..end` in the sections `first..last`.
    pub(super) fn take(&mut self, sections: std::ops::Range<usize>, start: u64, end: u64) {
        let (whole, any) = (&mut self.whole, &mut self.any);
        Self::nodes(self.leaves, sections.start, sections.end, |node, is_top| {
            any[node].add(start, end);
            // Nothing is below a leaf that could ask.
            if is_top && node < whole.len() {
                whole[node].add(start, end);
            }
        });
    }

    /// The lowest offset at which `bytes` are free in all of `sections`.
    pub(super) fn find(&mut self, sections: std::ops::Range<usize>, bytes: u64) -> u64 {
        let mut looked_at = std::mem::take(&mut self.looked_at);
        looked_at.clear();
        Self::nodes(self.leaves, sections.start, sections.end, |node, is_top| {
            let spans = if is_top { &self.any[node] } else { &self.whole[node] };
            if !spans.0.is_empty() {
                looked_at.push(Look { node: node as u32, is_any: is_top, passed: 0 });
            }
        });
        // High nodes know of most: they bring the offset up in the fewest steps.
        looked_at.reverse();
        let mut offset = 0;
        // Done when every list in turn has let the offset stand.
        let (mut at, mut agreed) = (0, 0);
        while agreed < looked_at.len() {
            let after = self.above(&mut looked_at[at], offset, bytes);
            agreed = if after == offset { agreed + 1 } else { 1 };
            offset = after;
            at = (at + 1) % looked_at.len();
        }
        self.looked_at = looked_at;
        offset
    }

    /// Entries looked at so far.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The lowest offset from `offset` up at which one list of spans leaves `bytes` free.
    fn above(&mut self, look: &mut Look, mut offset: u64, bytes: u64) -> u64 {
        let Self { any, whole, steps, .. } = self;
        let node = look.node as usize;
        let spans = if look.is_any { &any[node].0 } else { &whole[node].0 };
        let rest = &spans[look.passed as usize..];
        // Most often it is one of the next.
        let near = rest.iter().take(4).take_while(|&&(_, end)| end <= offset).count();
        let mut next =
            if near < 4 { near } else { rest.partition_point(|&(_, end)| end <= offset) };
        *steps += 4;
        for &(start, end) in &rest[next..] {
            if start >= offset + bytes {
                break;
            }
            *steps += 1;
            offset = end;
            next += 1;
        }
        look.passed += next as u32;
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_those_of_a_plain_table() {
        let sections = 13;
        let mut tree = Occupancy::new(sections);
        let mut table = vec![vec![false; 4000]; sections];
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let first = random(sections as u64) as usize;
            let end = first + 1 + random((sections - first) as u64) as usize;
            let bytes = 1 + random(20);
            let free = |offset: u64| {
                (first..end).all(|section| {
                    (offset..offset + bytes).all(|byte| !table[section][byte as usize])
                })
            };
            let expected = (0..).find(|&offset| free(offset)).unwrap();
            assert_eq!(tree.find(first..end, bytes), expected);
            tree.take(first..end, expected, expected + bytes);
            for row in &mut table[first..end] {
                row[expected as usize..(expected + bytes) as usize].fill(true);
            }
        }
    }
}
