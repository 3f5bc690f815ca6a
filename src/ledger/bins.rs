//! The free blocks of one class, by size: what best fit searches.
//!
//! A bin for every multiple of 512 bytes up to 2 MiB, then 256 to each power of two; a bitmap in
//! two levels finds the next bin that holds anything. Within a bin blocks are ordered by size,
//! age of the segment and address: the first is at hand, and knows the [queue](super::queue) of
//! the others. Nearly always there is one, and a hundred thousand of one size still cost a
//! logarithm. Only a request larger than the first block of a bin of several sizes looks at all
//! in it.

use super::block::{Block, BlockId};
use super::queue::{Queue, Queues};

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
    /// The first block of each bin, which knows where the others are queued.
    firsts: [BlockId; BINS],
    queues: Queues,
}

impl Default for Bins {
    fn default() -> Self {
        Self {
            summary: [0; SUMMARY_WORDS],
            filled: [0; WORDS],
            firsts: [BlockId::NONE; BINS],
            queues: Queues::default(),
        }
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

    /// How many blocks are in it, by counting them; `None` if one is not where it should be.
    pub(super) fn count(&self, blocks: &[Block]) -> Option<usize> {
        let bins = self.filled_from(0).map(|bin| {
            let first = &blocks[self.firsts[bin].at()];
            let is_first = self.queued(first).all(|id| first.rank() < blocks[id.at()].rank());
            let is_sound = is_first && self.queues.is_sound(blocks, first.queue);
            is_sound.then(|| 1 + self.queued(first).count())
        });
        bins.sum()
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, blocks: &mut [Block], id: BlockId) {
        let block = &mut blocks[id.at()];
        let bin = bin_of(block.bytes);
        block.bin = bin as u16;
        let first = &mut self.firsts[bin];
        if *first == BlockId::NONE {
            *first = id;
            block.queue = Queue::EMPTY;
            self.filled[bin / 64] |= 1 << (bin % 64);
            self.summary[bin / 4096] |= 1 << (bin / 64 % 64);
        } else {
            self.insert_among(blocks, bin, id);
        }
    }

    /// Puts a block into a bin that holds others.
    #[inline(never)]
    fn insert_among(&mut self, blocks: &mut [Block], bin: usize, id: BlockId) {
        let first = self.firsts[bin];
        let queue = blocks[first.at()].queue;
        let comes_first = blocks[id.at()].rank() < blocks[first.at()].rank();
        let (first, other) = if comes_first { (id, first) } else { (first, id) };
        self.firsts[bin] = first;
        self.queues.push(blocks, first, queue, other);
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, blocks: &mut [Block], id: BlockId) {
        let block = &blocks[id.at()];
        let bin = usize::from(block.bin);
        let is_alone = self.firsts[bin] == id && block.queue.is_empty();
        if is_alone {
            self.firsts[bin] = BlockId::NONE;
            let word = self.filled[bin / 64] & !(1 << (bin % 64));
            self.filled[bin / 64] = word;
            if word == 0 {
                self.summary[bin / 4096] &= !(1 << (bin / 64 % 64));
            }
        } else {
            self.remove_among(blocks, bin, id);
        }
    }

    /// Takes a block out of a bin that holds others.
    #[inline(never)]
    fn remove_among(&mut self, blocks: &mut [Block], bin: usize, id: BlockId) {
        let first = self.firsts[bin];
        let queue = blocks[first.at()].queue;
        if first == id {
            self.firsts[bin] = self.queues.pop(blocks, queue);
        } else {
            self.queues.remove(blocks, first, queue, id);
        }
    }

    /// The first block in the order of search that holds `bytes`.
    #[inline(always)]
    pub(super) fn best_fit(&self, blocks: &[Block], bytes: u64) -> Option<BlockId> {
        let mut bin = bin_of(bytes);
        // Of such a bin not every block holds them.
        if bin >= EXACT_BINS || !bytes.is_multiple_of(1 << UNIT_BITS) {
            let first = self.firsts[bin];
            let Block { bytes: first_bytes, queue, .. } = blocks[first.at()];
            if first_bytes >= bytes {
                return Some(first);
            }
            if !queue.is_empty()
                && let Some(found) = self.queues.first_of(blocks, queue, bytes).some()
            {
                return Some(found);
            }
            bin += 1;
        }
        Some(self.firsts[self.next_filled(bin)?])
    }

    /// The blocks that hold `bytes`, in the order of search.
    pub(super) fn fits<'a>(
        &'a self,
        blocks: &'a [Block],
        bytes: u64,
    ) -> impl Iterator<Item = BlockId> + 'a {
        let ids = self.filled_from(bin_of(bytes)).flat_map(move |bin| {
            let first = self.firsts[bin];
            let mut others: Vec<_> = self.queued(&blocks[first.at()]).collect();
            others.sort_unstable_by_key(|id| blocks[id.at()].rank());
            std::iter::once(first).chain(others)
        });
        ids.skip_while(move |id| blocks[id.at()].bytes < bytes)
    }

    /// The largest block's size; 0 if there is none.
    pub(super) fn largest_bytes(&self, blocks: &[Block]) -> u64 {
        let Some(summary) = self.summary.iter().rposition(|&word| word != 0) else { return 0 };
        let word = summary * 64 + 63 - self.summary[summary].leading_zeros() as usize;
        let bin = word * 64 + 63 - self.filled[word].leading_zeros() as usize;
        let first = &blocks[self.firsts[bin].at()];
        let others = self.queued(first).map(|id| blocks[id.at()].bytes);
        others.fold(first.bytes, u64::max)
    }

    pub(super) fn contains(&self, blocks: &[Block], id: BlockId) -> bool {
        let bin = bin_of(blocks[id.at()].bytes);
        let first = self.firsts[bin];
        first == id || self.queued(&blocks[first.at()]).any(|other| other == id)
    }

    /// The others in the bin of its first block.
    fn queued(&self, first: &Block) -> impl Iterator<Item = BlockId> + '_ {
        self.queues.ids(first.queue)
    }

    /// The bins from this one on that hold anything.
    fn filled_from(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.next_filled(from), |bin| self.next_filled(bin + 1))
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
        for (bin, step) in (EXACT_BINS..BINS).zip(0_u64..) {
            let (octave, part) = (step >> SUB_BITS, step & ((1 << SUB_BITS) - 1));
            let units = ((1 << SUB_BITS) + part) << (octave + u64::from(EXACT_BITS - SUB_BITS));
            assert_eq!(bin_of(units << UNIT_BITS), bin, "{units} units");
        }
    }
}
