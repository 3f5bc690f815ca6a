//! A search tree of free blocks, ordered by size, age of the segment and address, whose nodes
//! are the blocks themselves: a treap. The priority of a node is a hash of its id, so a tree's
//! shape depends on nothing but what is in it, and every step takes a logarithm on average.
//!
//! A tree is named by its root. No block has a lower priority than [`BlockId::NONE`], so the
//! searches down need not ask for the end.

use super::block::{Block, BlockId, Rank};

#[inline(always)]
fn priority(id: BlockId) -> u32 {
    // Multiplying by an odd number is a permutation: no two nodes share a priority.
    id.0.wrapping_mul(0x9E37_79B1).rotate_right(15).wrapping_mul(0x85EB_CA6B)
}

/// Makes `id` a tree of its own.
#[inline(always)]
pub(super) fn plant(block: &mut Block) {
    (block.parent, block.left, block.right) = (BlockId::NONE, BlockId::NONE, BlockId::NONE);
}

/// The tree with `id` in it, which was not, and whether that is now the first in it.
#[inline(never)]
pub(super) fn insert(blocks: &mut [Block], root: BlockId, id: BlockId) -> (BlockId, bool) {
    let (rank, own) = (blocks[id.at()].rank(), priority(id));
    let (mut parent, mut is_left, mut at) = (BlockId::NONE, false, root);
    let mut is_first = true;
    while priority(at) > own {
        let node = &blocks[at.at()];
        is_left = rank < node.rank();
        is_first &= is_left;
        (parent, at) = (at, if is_left { node.left } else { node.right });
    }
    split(blocks, at, id, rank);
    let node = &mut blocks[id.at()];
    node.parent = parent;
    is_first &= node.left == BlockId::NONE;
    if parent == BlockId::NONE {
        return (id, is_first);
    }
    let above = &mut blocks[parent.at()];
    *(if is_left { &mut above.left } else { &mut above.right }) = id;
    (root, is_first)
}

/// The tree without `id`, which is in it.
#[inline(never)]
pub(super) fn remove(blocks: &mut [Block], root: BlockId, id: BlockId) -> BlockId {
    let Block { parent, left, right, .. } = blocks[id.at()];
    let joined = join(blocks, left, right);
    blocks[joined.at()].parent = parent;
    if parent == BlockId::NONE {
        return joined;
    }
    let above = &mut blocks[parent.at()];
    *(if above.left == id { &mut above.left } else { &mut above.right }) = joined;
    root
}

/// The block after the first one of a tree.
#[inline(always)]
pub(super) fn second(blocks: &[Block], first: BlockId) -> BlockId {
    let Block { parent, right, .. } = blocks[first.at()];
    if right == BlockId::NONE { parent } else { leftmost(blocks, right) }
}

/// Makes the parts of the tree `at` before and after `rank` the children of `id`.
#[inline(always)]
fn split(blocks: &mut [Block], mut at: BlockId, id: BlockId, rank: Rank) {
    (blocks[id.at()].left, blocks[id.at()].right) = (BlockId::NONE, BlockId::NONE);
    // The last node of each part, below which the part goes on.
    let (mut before, mut after) = (id, id);
    while at != BlockId::NONE {
        let node = &mut blocks[at.at()];
        if node.rank() < rank {
            let next = node.right;
            node.parent = before;
            let last = &mut blocks[before.at()];
            *(if before == id { &mut last.left } else { &mut last.right }) = at;
            (before, at) = (at, next);
        } else {
            let next = node.left;
            node.parent = after;
            let last = &mut blocks[after.at()];
            *(if after == id { &mut last.right } else { &mut last.left }) = at;
            (after, at) = (at, next);
        }
    }
    if before != id {
        blocks[before.at()].right = BlockId::NONE;
    }
    if after != id {
        blocks[after.at()].left = BlockId::NONE;
    }
}

/// One tree of two, all of `left` before all of `right`. Whose its root is is left open.
#[inline(always)]
fn join(blocks: &mut [Block], mut left: BlockId, mut right: BlockId) -> BlockId {
    let mut from_left = priority(left) > priority(right);
    let root = if from_left { left } else { right };
    let mut last = root;
    while left != BlockId::NONE && right != BlockId::NONE {
        // The rest of the tree `last` came from, and the other one, go on below it.
        let node = &mut blocks[last.at()];
        let open = if from_left {
            left = node.right;
            &mut node.right
        } else {
            right = node.left;
            &mut node.left
        };
        from_left = priority(left) > priority(right);
        let next = if from_left { left } else { right };
        *open = next;
        blocks[next.at()].parent = last;
        last = next;
    }
    root
}

/// The first block of a tree, of a rank of at least `from`; none there may be.
pub(super) fn first_from(blocks: &[Block], root: BlockId, from: Rank) -> BlockId {
    first(blocks, root, |block| block.rank() >= from)
}

/// The first block of a tree that holds `bytes`; none there may be.
#[inline(always)]
pub(super) fn first_of(blocks: &[Block], root: BlockId, bytes: u64) -> BlockId {
    first(blocks, root, |block| block.bytes >= bytes)
}

/// The first block of a tree from which on all are `far` enough.
#[inline(always)]
fn first(blocks: &[Block], root: BlockId, far: impl Fn(&Block) -> bool) -> BlockId {
    let (mut found, mut at) = (BlockId::NONE, root);
    while at != BlockId::NONE {
        let block = &blocks[at.at()];
        if far(block) {
            found = at;
            at = block.left;
        } else {
            at = block.right;
        }
    }
    found
}

#[inline(always)]
pub(super) fn leftmost(blocks: &[Block], mut at: BlockId) -> BlockId {
    while let Some(left) = blocks[at.at()].left.some() {
        at = left;
    }
    at
}

pub(super) fn rightmost(blocks: &[Block], mut at: BlockId) -> BlockId {
    while let Some(right) = blocks[at.at()].right.some() {
        at = right;
    }
    at
}

/// How many blocks a tree has, with each one's parent looked at: `None` if one is wrong.
/// Recursion as deep as the tree.
pub(super) fn count(blocks: &[Block], root: BlockId, parent: BlockId) -> Option<usize> {
    if root == BlockId::NONE {
        return Some(0);
    }
    let block = &blocks[root.at()];
    if block.parent != parent {
        return None;
    }
    Some(1 + count(blocks, block.left, root)? + count(blocks, block.right, root)?)
}
