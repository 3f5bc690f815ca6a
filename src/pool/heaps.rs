//! The heaps of an allocator: by stream, by number, and all of them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::heap::{Heap, HeapState};
use super::shared::Shared;
use crate::base::{BiasedGuard, Error, Result, lock};
use crate::device::Stream;
use crate::fence::StreamKey;
use crate::policy;

const ROWS: usize = 64;
const ROW: usize = 64;

/// Heaps are made when a stream first asks, found without a lock, and serve another stream once
/// nothing is left in them.
#[derive(Debug)]
pub(super) struct Heaps {
    /// Names this set among all of the process.
    id: u64,
    table: Box<[OnceLock<Box<Row>>; ROWS]>,
    index: Mutex<Index>,
}

/// A heap and what is in it.
pub(super) type Held<'a> = (&'a Arc<Heap>, BiasedGuard<'a, HeapState>);

type Row = [OnceLock<Arc<Heap>>; ROW];

#[derive(Debug, Default)]
struct Index {
    by_key: HashMap<u64, u32>,
    count: u32,
    vacant: Vec<u32>,
}

/// Where a thread found a stream's heap last.
#[derive(Debug, Clone, Copy)]
struct Found {
    heaps: u64,
    key: u64,
    number: u32,
}

thread_local! {
    static LAST: Cell<Found> = const { Cell::new(Found { heaps: 0, key: 0, number: 0 }) };
}

impl Heaps {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            table: Box::new(std::array::from_fn(|_| OnceLock::new())),
            index: Mutex::default(),
        }
    }

    /// The heap of `stream`. It may have become another stream's by the time it is entered,
    /// which its key then tells.
    ///
    /// # Errors
    /// Too many streams at once; what the policy's factory says.
    #[inline]
    pub(super) fn of(&self, shared: &Arc<Shared>, stream: &Stream) -> Result<&Arc<Heap>> {
        let key = StreamKey::of(stream).raw();
        let last = LAST.get();
        if (last.heaps, last.key) == (self.id, key)
            && let Some(heap) = self.get(last.number)
        {
            return Ok(heap);
        }
        self.search(shared, stream)
    }

    /// As [`of`](Self::of), by the index alone.
    #[cold]
    pub(super) fn search(&self, shared: &Arc<Shared>, stream: &Stream) -> Result<&Arc<Heap>> {
        let key = StreamKey::of(stream).raw();
        let mut index = lock(&self.index);
        let number = match index.by_key.get(&key) {
            Some(&number) => number,
            None => {
                let number = self.make(&mut index, shared, stream)?;
                index.by_key.insert(key, number);
                number
            }
        };
        LAST.set(Found { heaps: self.id, key, number });
        self.get(number).ok_or_else(too_many)
    }

    /// The heap of a number.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Arc<Heap>> {
        self.table.get(number as usize / ROW)?.get()?[number as usize % ROW].get()
    }

    /// Every heap there is.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Heap>> {
        let count = lock(&self.index).count;
        (0..count).filter_map(|number| self.get(number))
    }

    /// Shows `look` the insides of every heap at one moment, for which all of them stand still.
    ///
    /// # Errors
    /// The thread is inside one of them already.
    pub(super) fn at_once<R>(&self, look: impl FnOnce(&mut [Held<'_>]) -> R) -> Result<R> {
        // Whoever else is in several heaps, or makes one, holds the index too.
        let index = lock(&self.index);
        let heaps = (0..index.count).filter_map(|number| self.get(number));
        let mut held =
            heaps.map(|heap| Ok((heap, heap.enter()?))).collect::<Result<Vec<Held<'_>>>>()?;
        Ok(look(&mut held))
    }

    /// Lets heaps that hold nothing, and that nobody has a handle of, serve other streams; their
    /// streams are let go.
    pub(super) fn vacate(&self) {
        let mut index = lock(&self.index);
        for number in 0..index.count {
            let Some(heap) = self.get(number) else { continue };
            if index.vacant.contains(&number) {
                continue;
            }
            let Ok(mut state) = heap.enter() else { continue };
            // Looked at inside: whoever took a clone before looks at the key after.
            if state.is_vacant() && Arc::strong_count(heap) == 1 {
                index.by_key.remove(&state.key);
                index.vacant.push(number);
                state.stream = None;
                state.key = u64::MAX;
            }
        }
    }

    fn make(&self, index: &mut Index, shared: &Arc<Shared>, stream: &Stream) -> Result<u32> {
        if let Some(number) = index.vacant.pop()
            && let Some(heap) = self.get(number)
        {
            let mut state = heap.enter()?;
            state.key = StreamKey::of(stream).raw();
            state.stream = Some(stream.clone());
            return Ok(number);
        }
        let number = index.count;
        let row = self.table.get(number as usize / ROW).ok_or_else(too_many)?;
        let row = row.get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new())));
        let policy = policy::choose(&shared.conf)?;
        row[number as usize % ROW]
            .get_or_init(|| Arc::new(Heap::new(shared, number, policy, stream)));
        index.count += 1;
        Ok(number)
    }
}

#[cold]
fn too_many() -> Error {
    Error::invalid(
        "streams of one allocator",
        ROWS * ROW + 1,
        format!("at most {} may hold memory at once; trim() lets unused ones go", ROWS * ROW),
    )
}
