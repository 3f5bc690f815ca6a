//! The heaps of an allocator: by stream, by number, and all of them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::heap::{Heap, HeapState, Tenant};
use super::private::PoolInfo;
use super::scope;
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
    by_place: HashMap<Place, u32>,
    count: u32,
    /// Heaps of the default pool are found without a lock, so they never serve another one.
    vacant: Vec<u32>,
    vacant_private: Vec<u32>,
}

/// Whom a heap is for: a pool, 0 for the default one, and a stream's key.
type Place = (u64, u64);

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

    /// Names this set among all of the process.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The heap of `stream`, in the pool this thread is in. A heap of the default pool may have
    /// become another stream's by the time it is entered, which its key then tells.
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

    #[cold]
    fn search(&self, shared: &Arc<Shared>, stream: &Stream) -> Result<&Arc<Heap>> {
        let entered = scope::innermost(self.id);
        let pool = entered.as_ref().map(|pool| pool.info());
        // While a thread is in a pool, the pool's heaps stay its own.
        let number = self.of_pool(shared, pool, stream)?.number;
        LAST.set(Found { heaps: self.id, key: StreamKey::of(stream).raw(), number });
        self.get(number).ok_or_else(too_many)
    }

    /// The heap of `stream` in a pool, by the index. It stays that while this clone is held.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(super) fn of_pool(
        &self,
        shared: &Arc<Shared>,
        pool: Option<&Arc<PoolInfo>>,
        stream: &Stream,
    ) -> Result<Arc<Heap>> {
        let place = (pool.map_or(0, |pool| pool.id), StreamKey::of(stream).raw());
        let mut index = lock(&self.index);
        let number = match index.by_place.get(&place) {
            Some(&number) => number,
            None => {
                let number = self.make(&mut index, shared, pool, stream)?;
                index.by_place.insert(place, number);
                number
            }
        };
        self.get(number).map(Arc::clone).ok_or_else(too_many)
    }

    /// The heaps of `stream` in pools that lend what they have cached.
    pub(super) fn lending(&self, stream: &Stream) -> Vec<Arc<Heap>> {
        let key = StreamKey::of(stream).raw();
        let mut heaps = self.held(|place| place.0 != 0 && place.1 == key);
        heaps.retain(|heap| {
            let lends = |state: BiasedGuard<'_, HeapState>| {
                state.pool.as_ref().is_some_and(|pool| pool.options.use_on_oom)
            };
            heap.enter().is_ok_and(lends)
        });
        heaps
    }

    /// Nobody asks for memory of the pool any more: its heaps give back what is free, now and
    /// whenever something more becomes free.
    pub(super) fn close_pool(&self, id: u64) {
        self.held(|place| place.0 == id).iter().for_each(Heap::close);
        self.vacate();
    }

    fn held(&self, of: impl Fn(&Place) -> bool) -> Vec<Arc<Heap>> {
        let index = lock(&self.index);
        let mut numbers: Vec<u32> =
            index.by_place.iter().filter(|(place, _)| of(place)).map(|(_, &at)| at).collect();
        numbers.sort_unstable();
        numbers.into_iter().filter_map(|number| self.get(number).map(Arc::clone)).collect()
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
        // Whoever else is in several heaps holds the index too, or entered them in this order.
        let index = lock(&self.index);
        let heaps = (0..index.count).filter_map(|number| self.get(number));
        let mut held =
            heaps.map(|heap| Ok((heap, heap.enter()?))).collect::<Result<Vec<Held<'_>>>>()?;
        Ok(look(&mut held))
    }

    /// Lets heaps that hold nothing, and that nobody has a handle of, serve other streams; their
    /// streams are let go. Those of an open private pool stay its own.
    pub(super) fn vacate(&self) {
        let mut index = lock(&self.index);
        let places: Vec<(Place, u32)> = index.by_place.iter().map(|(&p, &at)| (p, at)).collect();
        for (place, number) in places {
            let Some(heap) = self.get(number) else { continue };
            let Ok(mut state) = heap.enter() else { continue };
            let is_open = state.pool.as_ref().is_some_and(|pool| !pool.is_closed());
            // Looked at inside: whoever took a clone before looks at the key after.
            if state.is_vacant() && !is_open && Arc::strong_count(heap) == 1 {
                index.by_place.remove(&place);
                let vacant =
                    if place.0 == 0 { &mut index.vacant } else { &mut index.vacant_private };
                vacant.push(number);
                state.move_out();
            }
        }
    }

    fn make(
        &self,
        index: &mut Index,
        shared: &Arc<Shared>,
        pool: Option<&Arc<PoolInfo>>,
        stream: &Stream,
    ) -> Result<u32> {
        let whole_segments = pool.is_some_and(|pool| pool.options.no_split);
        let policy = policy::choose(&shared.conf, shared.expandable.is_some(), whole_segments)?;
        let tenant = Tenant { stream: stream.clone(), pool: pool.map(Arc::clone), policy };
        let vacant = if pool.is_none() { &mut index.vacant } else { &mut index.vacant_private };
        if let Some(number) = vacant.pop()
            && let Some(heap) = self.get(number)
        {
            heap.open(tenant)?;
            return Ok(number);
        }
        let number = index.count;
        let row = self.table.get(number as usize / ROW).ok_or_else(too_many)?;
        let row = row.get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new())));
        row[number as usize % ROW].get_or_init(|| Arc::new(Heap::new(shared, number, tenant)));
        index.count += 1;
        Ok(number)
    }
}

/// Lets the calling thread search for the heap of its next request.
pub(super) fn forget_last() {
    // A thread that is ending has forgotten.
    let _ = LAST.try_with(|last| last.set(Found { heaps: 0, key: 0, number: 0 }));
}

#[cold]
pub(super) fn too_many() -> Error {
    Error::invalid(
        "streams of one allocator",
        ROWS * ROW + 1,
        format!("at most {} may hold memory at once; trim() lets unused ones go", ROWS * ROW),
    )
}
