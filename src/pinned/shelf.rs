//! Shelves: free blocks at hand, in front of the ledger. A thread puts what it drops on its own
//! shelf and finds it there again when it asks for the same size, so threads that work apart
//! share no cache line. To the ledger these blocks are in use.

use std::sync::{Mutex, MutexGuard};

use super::block::Range;
use crate::base::{lock, thread_token};

/// How many shelves there are. Threads are numbered as they come, so as many started together have
/// one each.
pub(super) const SHELVES: usize = 16;
/// How many blocks a shelf holds; the oldest makes room for one more.
const PLACES: usize = 16;

/// The shelves of a pool.
#[derive(Debug)]
pub(super) struct Shelves([Shelf; SHELVES]);

/// Two cache lines: processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Shelf(Mutex<Things>);

#[derive(Debug)]
struct Things {
    /// Oldest first. Never more than it was made for, so that it takes no memory from the heap.
    ranges: Vec<Range>,
    taken: u64,
    taken_bytes: u64,
    put: u64,
    turned_out: u64,
}

/// What all shelves hold and did, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ShelvesTotals {
    /// Bytes on them.
    pub(super) bytes: u64,
    /// Blocks ever taken from one.
    pub(super) taken: u64,
    /// Their bytes.
    pub(super) taken_bytes: u64,
    /// Blocks ever put on one.
    pub(super) put: u64,
    /// Blocks that made room for others.
    pub(super) turned_out: u64,
}

impl Shelves {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| {
            let ranges = Vec::with_capacity(PLACES);
            Shelf(Mutex::new(Things { ranges, taken: 0, taken_bytes: 0, put: 0, turned_out: 0 }))
        }))
    }

    /// The number of this thread's shelf, below [`SHELVES`].
    #[inline]
    pub(super) fn place() -> usize {
        thread_token() as usize % SHELVES
    }

    fn mine(&self) -> MutexGuard<'_, Things> {
        lock(&self.0[Self::place()].0)
    }

    /// The block of exactly `bytes` that this thread dropped last.
    #[inline]
    pub(super) fn take(&self, bytes: u64) -> Option<Range> {
        let mut things = self.mine();
        let at = things.ranges.iter().rposition(|range| range.bytes == bytes)?;
        things.taken += 1;
        things.taken_bytes += bytes;
        Some(things.ranges.remove(at))
    }

    /// Puts a block down; gives the one that found no place.
    #[inline]
    pub(super) fn put(&self, range: Range) -> Option<Range> {
        let mut things = self.mine();
        things.put += 1;
        let oldest = (things.ranges.len() == PLACES).then(|| things.ranges.remove(0));
        things.turned_out += u64::from(oldest.is_some());
        things.ranges.push(range);
        oldest
    }

    /// Hands every block on any shelf to `each`, which must not come back here.
    pub(super) fn clear(&self, mut each: impl FnMut(Range)) {
        for Shelf(shelf) in &self.0 {
            lock(shelf).ranges.drain(..).for_each(&mut each);
        }
    }

    pub(super) fn totals(&self) -> ShelvesTotals {
        // All at once: a block may move from one to the other.
        let all: [_; SHELVES] = std::array::from_fn(|at| lock(&self.0[at].0));
        let mut totals = ShelvesTotals::default();
        for things in &all {
            totals.bytes += things.ranges.iter().map(|range| range.bytes).sum::<u64>();
            totals.taken += things.taken;
            totals.taken_bytes += things.taken_bytes;
            totals.put += things.put;
            totals.turned_out += things.turned_out;
        }
        totals
    }
}
