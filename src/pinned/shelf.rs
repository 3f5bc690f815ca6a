//! Shelves: free blocks at hand, in front of the ledger. A thread puts what it drops on its own
//! shelf and finds it there again when it asks for the same size, so threads that work apart
//! share no cache line, and its own shelf costs it no atomic read-modify-write. To the ledger
//! these blocks are in use.

use super::block::Range;
use crate::base::{Biased, thread_token};

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
struct Shelf(Biased<Things>);

#[derive(Debug, Default)]
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
            Shelf(Biased::new(Things { ranges, ..Things::default() }))
        }))
    }

    /// The number of this thread's shelf, below [`SHELVES`].
    #[inline]
    pub(super) fn place() -> usize {
        thread_token() as usize % SHELVES
    }

    /// Lets `work` at this thread's shelf. It must not come back here: then it gets `None`.
    #[inline]
    fn at_mine<R>(&self, work: impl FnOnce(&mut Things) -> R) -> Option<R> {
        let me = thread_token();
        let Shelf(shelf) = &self.0[Self::place()];
        if let Some(mut things) = shelf.as_owner(me) {
            return Some(work(things.get()));
        }
        Some(work(&mut *shelf.enter(me).ok()?))
    }

    /// The block of exactly `bytes` that this thread dropped last.
    #[inline]
    pub(super) fn take(&self, bytes: u64) -> Option<Range> {
        self.at_mine(|things| {
            let at = things.ranges.iter().rposition(|range| range.bytes == bytes)?;
            things.taken += 1;
            things.taken_bytes += bytes;
            Some(things.ranges.remove(at))
        })?
    }

    /// Puts a block down; gives the one that found no place.
    #[inline]
    pub(super) fn put(&self, range: Range) -> Option<Range> {
        let turned_out = self.at_mine(|things| {
            things.put += 1;
            let oldest = (things.ranges.len() == PLACES).then(|| things.ranges.remove(0));
            things.turned_out += u64::from(oldest.is_some());
            things.ranges.push(range);
            oldest
        });
        turned_out.unwrap_or(Some(range))
    }

    /// Hands every block on any shelf to `each`, which must not come back here.
    pub(super) fn clear(&self, mut each: impl FnMut(Range)) {
        let me = thread_token();
        for Shelf(shelf) in &self.0 {
            if let Ok(mut things) = shelf.enter(me) {
                things.ranges.drain(..).for_each(&mut each);
            }
        }
    }

    pub(super) fn totals(&self) -> ShelvesTotals {
        let me = thread_token();
        // All at once: a block may move from one to the other.
        let all: [_; SHELVES] = std::array::from_fn(|at| self.0[at].0.enter(me));
        let mut totals = ShelvesTotals::default();
        for things in all.iter().flatten() {
            totals.bytes += things.ranges.iter().map(|range| range.bytes).sum::<u64>();
            totals.taken += things.taken;
            totals.taken_bytes += things.taken_bytes;
            totals.put += things.put;
            totals.turned_out += things.turned_out;
        }
        totals
    }
}
