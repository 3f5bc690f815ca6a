//! Free blocks in the order of search: the smallest first, then the oldest segment, then the
//! lowest address.
//!
//! A queue is a heap of four children to a node. What decides the order lies side by side in it,
//! so that no block is looked at to find the place of another. Putting a block in and taking one
//! out, the first or any other, cost a logarithm at worst. All queues of an index share one list,
//! where each has a room of its own, of a power of two of places; rooms left are used again.

use std::ops::Range;

use super::block::{Block, BlockId};

/// Children to a node.
const ARITY: usize = 4;
/// The places in the smallest room, as a power of two.
const LEAST_BITS: usize = 2;
/// Rooms are of fewer sizes.
const SIZES: usize = 1 << (u64::BITS - BITS_SHIFT);

/// A queue: in its low half where its room starts, above that its length, in the highest bits
/// the size of its room as a power of two. A single block takes no room, and stands in the low
/// half itself. As one number, because what is written in parts and read as a whole holds the
/// processor up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queue(u64);

const LEN_SHIFT: u32 = 32;
/// There are fewer blocks than the length has bits for: they would take 8 GiB of host memory.
const BITS_SHIFT: u32 = 59;
const ONE: u64 = 1 << LEN_SHIFT;

impl Queue {
    /// Nothing is queued.
    pub(super) const EMPTY: Self = Self(0);

    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    #[inline(always)]
    fn new(start: u32, len: usize, bits: usize) -> Self {
        Self(u64::from(start) | (len as u64) << LEN_SHIFT | (bits as u64) << BITS_SHIFT)
    }

    #[inline(always)]
    fn alone(id: BlockId) -> Self {
        Self::new(id.0, 1, 0)
    }

    /// The block that is queued, if it is a single one.
    #[inline(always)]
    fn only(self) -> Option<BlockId> {
        (self.0 >> LEN_SHIFT == 1).then_some(BlockId(self.0 as u32))
    }

    #[inline(always)]
    fn start(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    fn len(self) -> usize {
        (self.0 << (u64::BITS - BITS_SHIFT) >> (u64::BITS - BITS_SHIFT + LEN_SHIFT)) as usize
    }

    /// The size of its room, as a power of two.
    #[inline(always)]
    fn bits(self) -> usize {
        (self.0 >> BITS_SHIFT) as usize
    }

    #[inline(always)]
    fn range(self) -> Range<usize> {
        self.start()..self.start() + self.len()
    }
}

/// A block that is queued keeps its place where the first of a bin keeps the queue.
impl Block {
    #[inline(always)]
    fn place(&self) -> usize {
        self.queue.start()
    }

    #[inline(always)]
    fn set_place(&mut self, place: usize) {
        self.queue = Queue(place as u64);
    }
}

/// A queued block, with what it is ordered by.
#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    address: u64,
    serial: u32,
    id: BlockId,
}

const NO_ENTRY: Entry = Entry { bytes: 0, address: 0, serial: 0, id: BlockId::NONE };

impl Entry {
    #[inline(always)]
    fn of(blocks: &[Block], id: BlockId) -> Self {
        let Block { bytes, address, serial, .. } = blocks[id.at()];
        Self { bytes, address, serial, id }
    }

    /// Without a branch, because nobody could foretell which way it goes.
    #[inline(always)]
    fn is_before(&self, other: &Self) -> bool {
        let order = |entry: &Self| u128::from(entry.serial) << 64 | u128::from(entry.address);
        let is_same_size = self.bytes == other.bytes;
        (self.bytes < other.bytes) | (is_same_size & (order(self) < order(other)))
    }
}

/// The queues of an index.
#[derive(Debug)]
pub(super) struct Queues {
    entries: Vec<Entry>,
    /// By size, where the room starts that was left last; its first entry leads to the one left
    /// before it. The first place of all is in no room, and stands for none.
    vacant: [u32; SIZES],
}

/// Leads to no room.
const NO_ROOM: u32 = 0;

impl Default for Queues {
    fn default() -> Self {
        Self { entries: vec![NO_ENTRY], vacant: [NO_ROOM; SIZES] }
    }
}

impl Queues {
    /// Puts `id`, which is in no queue, into the one that `first` keeps.
    #[inline(always)]
    pub(super) fn push(&mut self, blocks: &mut [Block], first: BlockId, queue: Queue, id: BlockId) {
        if queue.is_empty() {
            blocks[first.at()].queue = Queue::alone(id);
        } else {
            self.push_among(blocks, first, queue, id);
        }
    }

    #[inline(never)]
    fn push_among(&mut self, blocks: &mut [Block], first: BlockId, mut queue: Queue, id: BlockId) {
        if queue.bits() == 0 || queue.len() == 1 << queue.bits() {
            queue = self.enlarge(blocks, queue);
        }
        let at = queue.len();
        queue.0 += ONE;
        let entry = Entry::of(blocks, id);
        rise(&mut self.entries[queue.range()], blocks, at, entry);
        blocks[first.at()].queue = queue;
    }

    /// Takes the first out of a queue that is not empty; it keeps the queue from now on.
    #[inline(always)]
    pub(super) fn pop(&mut self, blocks: &mut [Block], queue: Queue) -> BlockId {
        if let Some(only) = queue.only() {
            blocks[only.at()].queue = Queue::EMPTY;
            return only;
        }
        let first = self.entries[queue.start()].id;
        self.remove_at(blocks, first, queue, 0);
        first
    }

    /// Takes `id` out of the queue that `first` keeps.
    #[inline(always)]
    pub(super) fn remove(
        &mut self,
        blocks: &mut [Block],
        first: BlockId,
        queue: Queue,
        id: BlockId,
    ) {
        if queue.only().is_some() {
            blocks[first.at()].queue = Queue::EMPTY;
        } else {
            let at = blocks[id.at()].place();
            self.remove_at(blocks, first, queue, at);
        }
    }

    #[inline(never)]
    fn remove_at(&mut self, blocks: &mut [Block], first: BlockId, mut queue: Queue, at: usize) {
        queue.0 -= ONE;
        if queue.len() == 1 {
            let left = self.entries[queue.start() + (at ^ 1)].id;
            self.leave(queue);
            blocks[first.at()].queue = Queue::alone(left);
            return;
        }
        // The last one fills the place that is left.
        let last = self.entries[queue.range().end];
        let entries = &mut self.entries[queue.range()];
        if at < entries.len() {
            if at > 0 && last.is_before(&entries[(at - 1) / ARITY]) {
                rise(entries, blocks, at, last);
            } else {
                sink(entries, blocks, at, last);
            }
        }
        blocks[first.at()].queue = queue;
    }

    /// The first of a queue that holds `bytes`. Looks at all of it.
    #[inline(never)]
    pub(super) fn first_of(&self, blocks: &[Block], queue: Queue, bytes: u64) -> BlockId {
        if let Some(only) = queue.only() {
            return if blocks[only.at()].bytes >= bytes { only } else { BlockId::NONE };
        }
        let mut first = &Entry { bytes: u64::MAX, address: u64::MAX, ..NO_ENTRY };
        for entry in self.entries(queue) {
            if entry.bytes >= bytes && entry.is_before(first) {
                first = entry;
            }
        }
        first.id
    }

    /// All of a queue, in no order.
    pub(super) fn ids(&self, queue: Queue) -> impl Iterator<Item = BlockId> + '_ {
        let only = queue.only();
        only.into_iter().chain(self.entries(queue).iter().map(|entry| entry.id))
    }

    /// Those that are in a room.
    fn entries(&self, queue: Queue) -> &[Entry] {
        if queue.only().is_none() { &self.entries[queue.range()] } else { &[] }
    }

    /// True if every block of a queue is where it should be, and knows it.
    pub(super) fn is_sound(&self, blocks: &[Block], queue: Queue) -> bool {
        let entries = self.entries(queue);
        entries.iter().enumerate().all(|(at, entry)| {
            let block = &blocks[entry.id.at()];
            let as_it_is = (block.bytes, block.serial, block.address);
            block.place() == at
                && (entry.bytes, entry.serial, entry.address) == as_it_is
                && (at == 0 || !entry.is_before(&entries[(at - 1) / ARITY]))
        })
    }

    /// Moves a queue to a room of twice the size, or to its first one.
    #[inline(never)]
    fn enlarge(&mut self, blocks: &mut [Block], queue: Queue) -> Queue {
        let bits = (queue.bits() + 1).max(LEAST_BITS);
        let vacant = &mut self.vacant[bits];
        let mut start = *vacant;
        if start == NO_ROOM {
            start = self.entries.len() as u32;
            self.entries.resize(start as usize + (1 << bits), NO_ENTRY);
        } else {
            *vacant = self.entries[start as usize].id.0;
        }
        if let Some(only) = queue.only() {
            let entry = Entry::of(blocks, only);
            settle(&mut self.entries[start as usize..], blocks, 0, entry);
        } else {
            self.entries.copy_within(queue.range(), start as usize);
            self.leave(queue);
        }
        Queue::new(start, queue.len(), bits)
    }

    /// Lets the room of a queue be used again.
    #[inline(always)]
    fn leave(&mut self, queue: Queue) {
        let vacant = &mut self.vacant[queue.bits()];
        let start = queue.start();
        self.entries[start].id = BlockId(std::mem::replace(vacant, start as u32));
    }
}

/// Puts `entry` where it belongs between the free place `at` and the top.
#[inline(always)]
fn rise(entries: &mut [Entry], blocks: &mut [Block], mut at: usize, entry: Entry) {
    while at > 0 {
        let above = (at - 1) / ARITY;
        let parent = entries[above];
        if !entry.is_before(&parent) {
            break;
        }
        settle(entries, blocks, at, parent);
        at = above;
    }
    settle(entries, blocks, at, entry);
}

/// Puts `entry` where it belongs in the free place `at` or below.
#[inline(always)]
fn sink(entries: &mut [Entry], blocks: &mut [Block], mut at: usize, entry: Entry) {
    while let Some(below) = first_child(entries, at) {
        let child = entries[below];
        if !child.is_before(&entry) {
            break;
        }
        settle(entries, blocks, at, child);
        at = below;
    }
    settle(entries, blocks, at, entry);
}

/// The child of a node that comes before the others.
#[inline(always)]
fn first_child(entries: &[Entry], at: usize) -> Option<usize> {
    let from = at * ARITY + 1;
    let children = entries.get(from..)?;
    let first = match children {
        [a, b, c, d, ..] => {
            let (left, first_left) = if b.is_before(a) { (1, b) } else { (0, a) };
            let (right, first_right) = if d.is_before(c) { (3, d) } else { (2, c) };
            if first_right.is_before(first_left) { right } else { left }
        }
        few => {
            let mut first = 0;
            for at in 1..few.len() {
                if few[at].is_before(&few[first]) {
                    first = at;
                }
            }
            first
        }
    };
    (!children.is_empty()).then_some(from + first)
}

#[inline(always)]
fn settle(entries: &mut [Entry], blocks: &mut [Block], at: usize, entry: Entry) {
    entries[at] = entry;
    blocks[entry.id.at()].set_place(at);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::block::{NO_BLOCK, Rank};
    use super::*;

    proptest! {
        /// Few sizes and segments, so that each of the three decides; two queues that grow and
        /// shrink, so that rooms change hands.
        #[test]
        fn blocks_come_out_in_order_whatever_is_taken_out_between(
            steps in proptest::collection::vec(
                (0..7u8, 0..2usize, any::<u16>(), 1..4u64, 0..3u32), 1..600)
        ) {
            let mut queues = Queues::default();
            let mut blocks = vec![NO_BLOCK; 3];
            let keepers = [BlockId(1), BlockId(2)];
            let mut models: [BTreeMap<Rank, BlockId>; 2] = Default::default();
            for (step, which, noise, bytes, serial) in steps {
                let (keeper, model) = (keepers[which], &mut models[which]);
                let queue = blocks[keeper.at()].queue;
                if step < 4 {
                    let id = BlockId(blocks.len() as u32);
                    let address = u64::from(noise) << 32 | u64::from(id.0);
                    blocks.push(Block { address, bytes, serial, ..NO_BLOCK });
                    model.insert(blocks[id.at()].rank(), id);
                    queues.push(&mut blocks, keeper, queue, id);
                } else if step == 4 && !model.is_empty() {
                    let first = queues.pop(&mut blocks, queue);
                    prop_assert_eq!(model.pop_first().map(|(_, id)| id), Some(first));
                    blocks[keeper.at()].queue = blocks[first.at()].queue;
                } else if !model.is_empty() {
                    let rank = *model.keys().nth(usize::from(noise) % model.len()).unwrap();
                    let id = model.remove(&rank).unwrap();
                    queues.remove(&mut blocks, keeper, queue, id);
                }
                let queue = blocks[keeper.at()].queue;
                prop_assert!(queues.is_sound(&blocks, queue));
                let mut ids: Vec<_> = queues.ids(queue).collect();
                ids.sort_unstable_by_key(|id| blocks[id.at()].rank());
                prop_assert_eq!(ids, model.values().copied().collect::<Vec<_>>());
                let fit = model.range((bytes, 0)..).next().map(|(_, &id)| id);
                if !queue.is_empty() {
                    prop_assert_eq!(queues.first_of(&blocks, queue, bytes).some(), fit);
                }
            }
        }
    }
}
