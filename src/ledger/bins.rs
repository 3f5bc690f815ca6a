//! The free blocks of one class, by size: what best fit searches.
//!
//! A bin for every multiple of 512 bytes up to 2 MiB, then 256 to each power of two; a bitmap in
//! two levels finds the next bin that holds anything. Within a bin blocks are ordered by size,
//! age of the segment and address, in a [tree](super::tree) whose nodes are the blocks
//! themselves: nearly always there is one, and a hundred thousand of one size still cost a
//! logarithm.

use super::block::{Block, BlockId};
use super::tree;

/// Sizes below this many units of 512 bytes have a bin of their own.
const EXACT_BINS: usize = 4096;
const EXACT_BITS: u32 = EXACT_BINS.trailing_zeros();
const UNIT_BITS: u32 = 9;
/// Bins to a power of two above that, as a power of two.
const SUB_BITS: u32 = 8;
/// From this power of two on, 16 TiB, all blocks share the last bin.
const MOST_BITS: u32 = 44;
const BINS: usize = EXACT_BINS + ((MOST_BITS - UNIT_BITS - EXACT_BITS) << SUB_BITS) as usize;
const _: () = assert!(BINS <= 1 << u16::BITS);
const WORDS: usize = BINS.div_ceil(64);
const SUMMARY_WORDS: usize = WORDS.div_ceil(64);

/// Free blocks of one class, findable by size. Holds ids only: the blocks are passed in.
#[derive(Debug)]
pub(super) struct Bins {
    /// A bit for each word of `filled` that is not 0.
    summary: [u64; SUMMARY_WORDS],
    /// A bit for each bin that holds anything.
    filled: [u64; WORDS],
    bins: [Bin; BINS],
}

/// A tree of blocks, and the first in it.
#[derive(Debug, Clone, Copy)]
struct Bin {
    root: BlockId,
    first: BlockId,
}

const EMPTY: Bin = Bin { root: BlockId::NONE, first: BlockId::NONE };

impl Default for Bins {
    fn default() -> Self {
        Self { summary: [0; SUMMARY_WORDS], filled: [0; WORDS], bins: [EMPTY; BINS] }
    }
}

/// The bin of blocks of `bytes`; grows with `bytes`.
#[inline(always)]
fn bin_of(bytes: u64) -> usize {
    let units = bytes >> UNIT_BITS;
    if units < EXACT_BINS as u64 { units as usize } else { shared_bin(units) }
}

/// The bin of blocks of so many units, from [`EXACT_BINS`] on, in which there are other sizes too.
#[inline(always)]
fn shared_bin(units: u64) -> usize {
    const FIRST: usize = EXACT_BINS - ((EXACT_BITS as usize + 1) << SUB_BITS);
    // As `ilog2`, in the form that the compiler makes least of.
    let octave = 63 ^ units.leading_zeros();
    // The leading bit counts for one more octave.
    let within = (units >> (octave - SUB_BITS)) as usize;
    (FIRST + ((octave as usize) << SUB_BITS) + within).min(BINS - 1)
}

impl Bins {
    /// True when no block is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.summary.iter().all(|&word| word == 0)
    }

    /// How many blocks are in it, by counting them; `None` if they are not linked as they
    /// should be.
    pub(super) fn count(&self, blocks: &[Block]) -> Option<usize> {
        let bins = std::iter::successors(self.next_filled(0), |bin| self.next_filled(bin + 1));
        let counts = bins.map(|bin| {
            let Bin { root, first } = self.bins[bin];
            let is_first = tree::leftmost(blocks, root) == first;
            tree::count(blocks, root, BlockId::NONE).filter(|_| is_first)
        });
        counts.sum()
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, blocks: &mut [Block], id: BlockId) {
        let block = &mut blocks[id.at()];
        let bin = bin_of(block.bytes);
        block.bin = bin as u16;
        let place = &mut self.bins[bin];
        if place.root == BlockId::NONE {
            tree::plant(block);
            *place = Bin { root: id, first: id };
            self.filled[bin / 64] |= 1 << (bin % 64);
            self.summary[bin / 4096] |= 1 << (bin / 64 % 64);
        } else {
            let (root, is_first) = tree::insert(blocks, place.root, id);
            place.root = root;
            if is_first {
                place.first = id;
            }
        }
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, blocks: &mut [Block], id: BlockId) {
        let block = &blocks[id.at()];
        let bin = usize::from(block.bin);
        let place = &mut self.bins[bin];
        let is_alone = place.root == id && block.left.0 | block.right.0 == BlockId::NONE.0;
        if is_alone {
            *place = EMPTY;
            let word = self.filled[bin / 64] & !(1 << (bin % 64));
            self.filled[bin / 64] = word;
            if word == 0 {
                self.summary[bin / 4096] &= !(1 << (bin / 64 % 64));
            }
        } else {
            if place.first == id {
                place.first = tree::second(blocks, id);
            }
            place.root = tree::remove(blocks, place.root, id);
        }
    }

    /// The first block in the order of search that holds `bytes`.
    #[inline(always)]
    pub(super) fn best_fit(&self, blocks: &[Block], bytes: u64) -> Option<BlockId> {
        let mut bin = bin_of(bytes);
        // Of such a bin not every block holds them.
        if bin >= EXACT_BINS || !bytes.is_multiple_of(1 << UNIT_BITS) {
            let Bin { root, first } = self.bins[bin];
            if blocks[first.at()].bytes >= bytes {
                return Some(first);
            }
            if let Some(found) = tree::first_of(blocks, root, bytes).some() {
                return Some(found);
            }
            bin += 1;
        }
        Some(self.bins[self.next_filled(bin)?].first)
    }

    /// The next block after `id` in the order of search.
    pub(super) fn after(&self, blocks: &[Block], id: BlockId) -> Option<BlockId> {
        let (bytes, order) = blocks[id.at()].rank();
        let bin = bin_of(bytes);
        let found = tree::first_from(blocks, self.bins[bin].root, (bytes, order + 1)).some();
        found.or_else(|| Some(self.bins[self.next_filled(bin + 1)?].first))
    }

    /// The largest block.
    pub(super) fn largest(&self, blocks: &[Block]) -> Option<BlockId> {
        let summary = self.summary.iter().rposition(|&word| word != 0)?;
        let word = summary * 64 + 63 - self.summary[summary].leading_zeros() as usize;
        let bin = word * 64 + 63 - self.filled[word].leading_zeros() as usize;
        Some(tree::rightmost(blocks, self.bins[bin].root))
    }

    pub(super) fn contains(&self, blocks: &[Block], id: BlockId) -> bool {
        let rank = blocks[id.at()].rank();
        tree::first_from(blocks, self.bins[bin_of(rank.0)].root, rank) == id
    }

    /// The first bin from this one on that holds anything.
    #[inline(always)]
    fn next_filled(&self, from: usize) -> Option<usize> {
        let word = from / 64;
        let here = self.filled.get(word)? & (!0 << (from % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        self.next_filled_word(word + 1)
    }

    /// The first bin in this word of `filled`, or in a later one.
    #[inline(always)]
    fn next_filled_word(&self, from: usize) -> Option<usize> {
        let mut summary = from / 64;
        let mut words = *self.summary.get(summary)? & (!0 << (from % 64));
        while words == 0 {
            summary += 1;
            words = *self.summary.get(summary)?;
        }
        let word = summary * 64 + words.trailing_zeros() as usize;
        Some(word * 64 + self.filled[word].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_grow_with_size_and_cover_everything() {
        let sizes = (0..64).flat_map(|bit| {
            let power = 1u64 << bit;
            [power.saturating_sub(1), power, power + power / 3]
        });
        let mut sizes: Vec<u64> = sizes.chain([u64::MAX]).collect();
        sizes.sort_unstable();
        assert!(sizes.windows(2).all(|pair| bin_of(pair[0]) <= bin_of(pair[1])));
        assert_eq!(bin_of(u64::MAX), BINS - 1);
        for units in 0..EXACT_BINS as u64 {
            assert_eq!(bin_of(units * 512), units as usize);
        }
        // No bin is left out, up to the last.
        for bin in EXACT_BINS..BINS {
            let step = (bin - EXACT_BINS) as u64;
            let (octave, part) = (step >> SUB_BITS, step & ((1 << SUB_BITS) - 1));
            let units = ((1 << SUB_BITS) + part) << (octave + u64::from(EXACT_BITS - SUB_BITS));
            assert_eq!(bin_of(units << UNIT_BITS), bin, "{units} units");
        }
    }
}
