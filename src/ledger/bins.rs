//! The free blocks of one class, by size: what best fit searches.
//!
//! A bin for every multiple of 512 bytes up to 2 MiB, then 32 to each power of two; a bitmap in
//! two levels finds the next bin that holds anything. Within a bin blocks are ordered by size,
//! age of the segment and address, in a treap whose nodes are the blocks themselves: nearly
//! always there is one, and a hundred thousand of one size still cost a logarithm.
//!
//! The priority of a node is a hash of its id, so a tree's shape depends on nothing but what is
//! in it.

use super::block::{Block, BlockId};

/// Sizes below this many units of 512 bytes have a bin of their own.
const EXACT_BINS: usize = 4096;
const EXACT_BITS: u32 = EXACT_BINS.trailing_zeros();
const UNIT_BITS: u32 = 9;
/// Bins to a power of two above that.
const SUB_BITS: u32 = 5;
const BINS: usize = EXACT_BINS + ((64 - UNIT_BITS - EXACT_BITS) << SUB_BITS) as usize;
const WORDS: usize = BINS.div_ceil(64);
const SUMMARY_WORDS: usize = WORDS.div_ceil(64);

/// Free blocks of one class, findable by size. Holds ids only: the blocks are passed in.
#[derive(Debug)]
pub(super) struct Bins {
    roots: [BlockId; BINS],
    /// A bit for each bin that holds anything.
    filled: [u64; WORDS],
    /// A bit for each word of `filled` that is not 0.
    summary: [u64; SUMMARY_WORDS],
    count: usize,
}

impl Default for Bins {
    fn default() -> Self {
        Self {
            roots: [BlockId::NONE; BINS],
            filled: [0; WORDS],
            summary: [0; SUMMARY_WORDS],
            count: 0,
        }
    }
}

/// The bin of blocks of `bytes`; grows with `bytes`.
#[inline]
fn bin_of(bytes: u64) -> usize {
    let units = bytes >> UNIT_BITS;
    if units < EXACT_BINS as u64 {
        return units as usize;
    }
    let octave = 63 - units.leading_zeros();
    let within = (units >> (octave - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    EXACT_BINS + (((octave - EXACT_BITS) << SUB_BITS) as usize) + within as usize
}

fn priority(id: BlockId) -> u32 {
    // Multiplying by an odd number is a permutation: no two nodes share a priority.
    id.0.wrapping_mul(0x9E37_79B1).rotate_right(15).wrapping_mul(0x85EB_CA6B)
}

impl Bins {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, blocks: &mut [Block], id: BlockId) {
        let bin = bin_of(blocks[id.0 as usize].bytes);
        let root = self.roots[bin];
        self.count += 1;
        let block = &mut blocks[id.0 as usize];
        (block.left, block.right) = (BlockId::NONE, BlockId::NONE);
        if root == BlockId::NONE {
            self.roots[bin] = id;
            self.filled[bin / 64] |= 1 << (bin % 64);
            self.summary[bin / 4096] |= 1 << (bin / 64 % 64);
        } else {
            self.roots[bin] = insert(blocks, root, id);
        }
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, blocks: &mut [Block], id: BlockId) {
        let block = &blocks[id.0 as usize];
        let bin = bin_of(block.bytes);
        self.count -= 1;
        let root = self.roots[bin];
        if root == id && block.left == BlockId::NONE && block.right == BlockId::NONE {
            self.roots[bin] = BlockId::NONE;
            self.filled[bin / 64] &= !(1 << (bin % 64));
            if self.filled[bin / 64] == 0 {
                self.summary[bin / 4096] &= !(1 << (bin / 64 % 64));
            }
        } else {
            self.roots[bin] = remove(blocks, root, id);
        }
    }

    /// The first block in the order of search that holds `bytes`.
    #[inline]
    pub(super) fn best_fit(&self, blocks: &[Block], bytes: u64) -> Option<BlockId> {
        let bin = bin_of(bytes);
        let root = self.roots[bin];
        if root != BlockId::NONE
            && let Some(found) = first_from(blocks, root, (bytes, 0, 0))
        {
            return Some(found);
        }
        let bin = self.next_filled(bin + 1)?;
        Some(leftmost(blocks, self.roots[bin]))
    }

    /// The next block after `id` in the order of search.
    pub(super) fn after(&self, blocks: &[Block], id: BlockId) -> Option<BlockId> {
        let (bytes, serial, address) = blocks[id.0 as usize].rank();
        let bin = bin_of(bytes);
        let from = (bytes, serial, address + 1);
        let found = self.roots[bin].some().and_then(|root| first_from(blocks, root, from));
        found.or_else(|| Some(leftmost(blocks, self.roots[self.next_filled(bin + 1)?])))
    }

    /// The largest block.
    pub(super) fn largest(&self, blocks: &[Block]) -> Option<BlockId> {
        let summary = self.summary.iter().rposition(|&word| word != 0)?;
        let word = summary * 64 + 63 - self.summary[summary].leading_zeros() as usize;
        let bin = word * 64 + 63 - self.filled[word].leading_zeros() as usize;
        let mut at = self.roots[bin];
        while let Some(right) = blocks[at.0 as usize].right.some() {
            at = right;
        }
        Some(at)
    }

    pub(super) fn contains(&self, blocks: &[Block], id: BlockId) -> bool {
        let rank = blocks[id.0 as usize].rank();
        let root = self.roots[bin_of(rank.0)].some();
        root.and_then(|root| first_from(blocks, root, rank)) == Some(id)
    }

    #[inline]
    fn next_filled(&self, from: usize) -> Option<usize> {
        if from >= BINS {
            return None;
        }
        let word = from / 64;
        let here = self.filled[word] & (!0 << (from % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let mut summary = (word + 1) / 64;
        let mut words = *self.summary.get(summary)? & (!0 << ((word + 1) % 64));
        while words == 0 {
            summary += 1;
            words = *self.summary.get(summary)?;
        }
        let word = summary * 64 + words.trailing_zeros() as usize;
        Some(word * 64 + self.filled[word].trailing_zeros() as usize)
    }
}

fn leftmost(blocks: &[Block], mut at: BlockId) -> BlockId {
    while let Some(left) = blocks[at.0 as usize].left.some() {
        at = left;
    }
    at
}

/// The first block of the tree whose rank is at least `from`.
#[inline]
fn first_from(blocks: &[Block], root: BlockId, from: (u64, u32, u64)) -> Option<BlockId> {
    let mut found = BlockId::NONE;
    let mut at = root;
    while at != BlockId::NONE {
        let block = &blocks[at.0 as usize];
        if block.rank() >= from {
            found = at;
            at = block.left;
        } else {
            at = block.right;
        }
    }
    found.some()
}

/// The tree with `id` in it, which was not. Expected logarithmic, recursion as deep.
#[cold]
fn insert(blocks: &mut [Block], root: BlockId, id: BlockId) -> BlockId {
    if root == BlockId::NONE {
        return id;
    }
    if priority(id) > priority(root) {
        let (left, right) = split(blocks, root, id);
        let block = &mut blocks[id.0 as usize];
        (block.left, block.right) = (left, right);
        return id;
    }
    if blocks[id.0 as usize].rank() < blocks[root.0 as usize].rank() {
        let left = insert(blocks, blocks[root.0 as usize].left, id);
        blocks[root.0 as usize].left = left;
    } else {
        let right = insert(blocks, blocks[root.0 as usize].right, id);
        blocks[root.0 as usize].right = right;
    }
    root
}

/// The parts of a tree before and after `id`.
fn split(blocks: &mut [Block], root: BlockId, id: BlockId) -> (BlockId, BlockId) {
    if root == BlockId::NONE {
        return (BlockId::NONE, BlockId::NONE);
    }
    if blocks[root.0 as usize].rank() < blocks[id.0 as usize].rank() {
        let (left, right) = split(blocks, blocks[root.0 as usize].right, id);
        blocks[root.0 as usize].right = left;
        (root, right)
    } else {
        let (left, right) = split(blocks, blocks[root.0 as usize].left, id);
        blocks[root.0 as usize].left = right;
        (left, root)
    }
}

/// The tree without `id`, which is in it.
#[cold]
fn remove(blocks: &mut [Block], root: BlockId, id: BlockId) -> BlockId {
    let block = &blocks[root.0 as usize];
    if root == id {
        return join(blocks, block.left, block.right);
    }
    if blocks[id.0 as usize].rank() < block.rank() {
        let left = remove(blocks, block.left, id);
        blocks[root.0 as usize].left = left;
    } else {
        let right = remove(blocks, block.right, id);
        blocks[root.0 as usize].right = right;
    }
    root
}

/// One tree of two, all of `left` before all of `right`.
fn join(blocks: &mut [Block], left: BlockId, right: BlockId) -> BlockId {
    if left == BlockId::NONE {
        return right;
    }
    if right == BlockId::NONE {
        return left;
    }
    if priority(left) > priority(right) {
        let joined = join(blocks, blocks[left.0 as usize].right, right);
        blocks[left.0 as usize].right = joined;
        left
    } else {
        let joined = join(blocks, left, blocks[right.0 as usize].left);
        blocks[right.0 as usize].left = joined;
        right
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
        assert!(bin_of(u64::MAX) < BINS);
        for units in 0..EXACT_BINS as u64 {
            assert_eq!(bin_of(units * 512), units as usize);
        }
    }
}
