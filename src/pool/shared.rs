//! What all heaps of an allocator share: the device, the settings, the limit, the counters.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::capture::Captures;
use super::driver_pool::DriverPool;
use super::expandable::Expandable;
use super::hooks::Hooks;
use super::options::{Lifetime, LifetimeStats};
use super::page_table::PageTable;
use super::private::PrivatePoolStats;
use super::stats::{Stat, Stats};
use super::stats_scope::ScopeStats;
use super::tally::{Tallies, TallyRef};
use crate::base::{lock, thread_token, wait};
use crate::conf::Conf;
use crate::device::{Device, DevicePtr, DeviceResult, Stream};
use crate::event::{Recorder, TraceEvent};
use crate::fence::EventPool;
use crate::policy::expandable::CLASS;

/// Shared by the heaps of one allocator.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: Device,
    pub(super) conf: Conf,
    pub(super) limit_bytes: Option<u64>,
    pub(super) events: EventPool,
    pub(super) captures: Captures,
    pub(super) hooks: Hooks,
    pages: PageTable,
    /// Where segments come from, if not from the device itself.
    pub(super) driver_pool: Option<DriverPool>,
    pub(super) recorder: Option<Arc<dyn Recorder>>,
    /// Searches that let cached segments age.
    pub(super) searches: AtomicU64,
    /// Physical memory of the default pool, where the policy maps it.
    pub(super) expandable: Option<Arc<Expandable>>,
    pub(super) cross_stream_waits: AtomicU64,
    /// Over all heaps; wraps while one counts down before another counts up.
    pub(super) stranded_blocks: AtomicU64,
    segments: AtomicU32,
    /// What the driver last said when it did not take memory back, since somebody ran short.
    refusal: Mutex<Option<String>>,
    books: Mutex<Books>,
    /// Signalled when segments are back with the driver.
    released: Condvar,
}

/// Figures that change where the driver is called, and the threads' tallies.
#[derive(Debug, Default)]
struct Books {
    stats: Stats,
    tallies: Tallies,
    /// Promised to callers of the driver, or on the way back to it.
    in_transit_bytes: u64,
    releasing: usize,
    /// Behind the pages of paged spaces; counted as reserved.
    paged_bytes: u64,
    /// Bytes by [`Lifetime`], in the order of its declaration.
    lifetimes: [Stat; Lifetime::ALL.len()],
    pools_made: u64,
    /// Private pools that are open or hold something.
    pools: BTreeMap<u64, PoolBook>,
}

/// Bytes held for a private pool.
#[derive(Debug, Default)]
struct PoolBook {
    reserved_bytes: Stat,
    is_closed: bool,
}

impl Shared {
    pub(super) fn new(
        device: Device,
        conf: Conf,
        limit_bytes: Option<u64>,
        driver_pool: Option<DriverPool>,
        recorder: Option<Arc<dyn Recorder>>,
    ) -> Self {
        Self {
            expandable: Expandable::of(&device, &conf),
            events: EventPool::new(&device),
            captures: Captures::default(),
            hooks: Hooks::default(),
            device,
            conf,
            limit_bytes,
            pages: PageTable::default(),
            driver_pool,
            recorder,
            searches: AtomicU64::new(0),
            cross_stream_waits: AtomicU64::new(0),
            stranded_blocks: AtomicU64::new(0),
            segments: AtomicU32::new(0),
            refusal: Mutex::default(),
            books: Mutex::default(),
            released: Condvar::new(),
        }
    }

    /// Memory stays although it was to go back: logged, and told to whoever runs short.
    pub(super) fn memory_stays(&self, error: &dyn fmt::Display, what: &str) {
        tracing::warn!(%error, "{what}");
        *lock(&self.refusal) = Some(format!("{what} ({error})"));
    }

    /// What else was done for whoever runs short, to be told if that was not enough.
    pub(super) fn explain(&self, tried: String) {
        *lock(&self.refusal) = Some(tried);
    }

    /// What was said since this was asked last.
    pub(super) fn take_refusal(&self) -> Option<String> {
        lock(&self.refusal).take()
    }

    /// A number for a new segment, above those of all before.
    pub(super) fn next_serial(&self) -> u32 {
        self.segments.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes `bytes` of device memory, for work enqueued on `stream` from now on.
    pub(super) fn take_memory(&self, bytes: u64, stream: &Stream) -> DeviceResult<DevicePtr> {
        match &self.driver_pool {
            Some(pool) => pool.alloc(bytes, stream),
            None => self.device.driver().alloc(bytes),
        }
    }

    /// Lets the addresses of a segment name its heap.
    pub(super) fn enter_addresses(&self, address: u64, bytes: u64, heap: u32) {
        match &self.driver_pool {
            Some(pool) => pool.enter(address, heap),
            None => self.pages.insert(address, bytes, heap),
        }
    }

    /// Forgets the addresses of a segment, before anybody can be given them again.
    pub(super) fn leave_addresses(&self, address: u64) {
        match &self.driver_pool {
            Some(pool) => pool.leave(address),
            None => self.pages.remove(address),
        }
    }

    /// The heap whose segment holds `address`.
    #[inline]
    pub(super) fn heap_at(&self, address: u64) -> Option<u32> {
        // The table is empty where there is a pool.
        self.pages.heap_at(address).or_else(|| self.driver_pool.as_ref()?.heap_at(address))
    }

    /// Sets `bytes` of the limit aside for a call of the driver; false if they are not there.
    pub(super) fn promise(&self, bytes: u64) -> bool {
        let mut books = lock(&self.books);
        let within = self.limit_bytes.is_none_or(|limit| {
            books.held_bytes().checked_add(bytes).is_some_and(|held| held <= limit)
        });
        if within {
            books.in_transit_bytes += bytes;
        }
        within
    }

    /// The driver gave what was promised, as a segment of `class` of the pool of this id.
    pub(super) fn promise_kept(&self, pool: u64, class: u8, bytes: u64) {
        let mut books = lock(&self.books);
        books.in_transit_bytes -= bytes;
        books.stats.segment.add(class, 1);
        books.stats.reserved_bytes.add(class, bytes);
        books.stats.num_device_alloc += 1;
        if let Some(pool) = books.pools.get_mut(&pool) {
            pool.reserved_bytes.add(bytes);
        }
        if self.is_oversize(bytes) {
            books.stats.oversize_segments.add(1);
        }
    }

    /// The driver gave what was promised, as handles for the pool of this id.
    pub(super) fn handles_came(&self, pool: u64, bytes: u64) {
        let mut books = lock(&self.books);
        books.in_transit_bytes -= bytes;
        books.stats.reserved_bytes.add(CLASS, bytes);
        if let Some(pool) = books.pools.get_mut(&pool) {
            pool.reserved_bytes.add(bytes);
        }
    }

    /// A handle of the pool is with the driver again.
    pub(super) fn handle_left(&self, pool: u64, bytes: u64) {
        let mut books = lock(&self.books);
        books.stats.reserved_bytes.take_off(CLASS, bytes);
        books.stats.num_device_free += 1;
        books.pool_gave_back(pool, bytes);
    }

    /// The driver gave what was promised, as pages of a paged space.
    pub(super) fn paged(&self, bytes: u64) {
        let mut books = lock(&self.books);
        books.in_transit_bytes -= bytes;
        books.paged_bytes += bytes;
        books.stats.reserved_bytes.add(CLASS, bytes);
        books.stats.num_device_alloc += 1;
    }

    /// Pages of a paged space are with the driver again.
    pub(super) fn unpaged(&self, bytes: u64) {
        let mut books = lock(&self.books);
        books.paged_bytes -= bytes;
        books.stats.reserved_bytes.take_off(CLASS, bytes);
        books.stats.num_device_free += 1;
    }

    /// Bytes behind the pages of paged spaces.
    pub(super) fn paged_bytes(&self) -> u64 {
        lock(&self.books).paged_bytes
    }

    /// The driver did not give what was promised.
    pub(super) fn promise_broken(&self, bytes: u64) {
        lock(&self.books).in_transit_bytes -= bytes;
    }

    /// A segment left its heap; it counts as reserved until it is [`back`](Self::back).
    pub(super) fn leaving(&self) {
        lock(&self.books).releasing += 1;
    }

    /// A segment that was leaving is with the driver again.
    pub(super) fn back(&self, pool: u64, class: u8, bytes: u64) {
        let mut books = lock(&self.books);
        books.releasing -= 1;
        books.stats.segment.take_off(class, 1);
        books.stats.reserved_bytes.take_off(class, bytes);
        books.stats.num_device_free += 1;
        books.pool_gave_back(pool, bytes);
        if self.is_oversize(bytes) {
            books.stats.oversize_segments.take_off(1);
        }
        self.released.notify_all();
    }

    /// A segment that was leaving is in its heap again, and out of use.
    pub(super) fn kept(&self, class: u8, bytes: u64) {
        let mut books = lock(&self.books);
        books.releasing -= 1;
        books.stats.segment.move_to_large(class, 1);
        books.stats.reserved_bytes.move_to_large(class, bytes);
        self.released.notify_all();
    }

    /// A block was handed out that is said to live so long.
    pub(super) fn label(&self, lifetime: Lifetime, bytes: u64) {
        lock(&self.books).lifetimes[lifetime as usize].add(bytes);
    }

    /// Such a block was given up.
    pub(super) fn unlabel(&self, lifetime: Lifetime, bytes: u64) {
        lock(&self.books).lifetimes[lifetime as usize].take_off(bytes);
    }

    pub(super) fn lifetimes(&self) -> [LifetimeStats; Lifetime::ALL.len()] {
        let books = lock(&self.books);
        Lifetime::ALL.map(|lifetime| LifetimeStats {
            lifetime,
            allocated_bytes: books.lifetimes[lifetime as usize],
        })
    }

    /// A number for a new private pool, above 0.
    pub(super) fn open_pool(&self) -> u64 {
        let mut books = lock(&self.books);
        books.pools_made += 1;
        let id = books.pools_made;
        books.pools.insert(id, PoolBook::default());
        id
    }

    /// The pool's figures are kept for as long as it holds something.
    pub(super) fn close_pool(&self, id: u64) {
        let mut books = lock(&self.books);
        if let Some(pool) = books.pools.get_mut(&id) {
            pool.is_closed = true;
            if pool.is_done() {
                books.pools.remove(&id);
            }
        }
    }

    /// Bytes held for a private pool.
    pub(super) fn pool(&self, id: u64) -> Stat {
        lock(&self.books).pools.get(&id).map(|pool| pool.reserved_bytes).unwrap_or_default()
    }

    /// The private pools, by id.
    pub(super) fn pools(&self) -> Vec<PrivatePoolStats> {
        let books = lock(&self.books);
        let stats = |(&id, pool): (&u64, &PoolBook)| PrivatePoolStats {
            id,
            reserved_bytes: pool.reserved_bytes,
        };
        books.pools.iter().map(stats).collect()
    }

    /// An open private pool that holds memory, and how much.
    pub(super) fn open_pool_in_use(&self) -> Option<(u64, u64)> {
        let books = lock(&self.books);
        let mut open = books.pools.iter().filter(|(_, pool)| !pool.is_closed);
        open.find_map(|(&id, pool)| {
            let bytes = pool.reserved_bytes.current;
            (bytes > 0).then_some((id, bytes))
        })
    }

    /// Waits until every segment on its way back to the driver has arrived.
    pub(super) fn wait_released(&self) {
        let mut books = lock(&self.books);
        while books.releasing > 0 {
            books = wait(&self.released, books);
        }
    }

    /// Held from the device, or promised.
    pub(super) fn held_bytes(&self) -> u64 {
        lock(&self.books).held_bytes()
    }

    /// True while the driver is asked for a segment, or one is on its way back.
    pub(super) fn in_transit(&self) -> bool {
        let books = lock(&self.books);
        books.releasing > 0 || books.in_transit_bytes > 0
    }

    /// Changes the counters that no tally holds.
    pub(super) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.books).stats);
    }

    /// The tally of the calling thread.
    pub(super) fn tally(&self) -> TallyRef {
        lock(&self.books).tallies.of_thread(thread_token())
    }

    /// The counters.
    ///
    /// # Safety
    /// The caller holds every heap.
    pub(super) unsafe fn stats(&self) -> Stats {
        let books = lock(&self.books);
        let cross_stream_waits = self.cross_stream_waits.load(Ordering::Relaxed);
        let mut stats = Stats { cross_stream_waits, ..books.stats };
        // SAFETY: by this function's own contract.
        unsafe { books.tallies.sum(&mut stats) };
        let Stats { active_bytes, allocated_bytes, .. } = stats;
        stats.retired_bytes = active_bytes.all.current.wrapping_sub(allocated_bytes.all.current);
        stats.stranded_blocks = self.stranded_blocks.load(Ordering::Relaxed);
        stats
    }

    /// Begins a scope of statistics; gives its number, above 0.
    ///
    /// # Safety
    /// The caller holds every heap.
    pub(super) unsafe fn open_scope(&self) -> u64 {
        // SAFETY: by this function's own contract.
        unsafe { lock(&self.books).tallies.open_scope() }
    }

    /// What happened in a scope.
    ///
    /// # Safety
    /// The caller holds every heap.
    pub(super) unsafe fn read_scope(&self, id: u64) -> Option<ScopeStats> {
        // SAFETY: by this function's own contract.
        unsafe { lock(&self.books).tallies.read_scope(id) }
    }

    /// Ends a scope.
    pub(super) fn close_scope(&self, id: u64) {
        lock(&self.books).tallies.close_scope(id);
    }

    /// Lets every peak begin again.
    ///
    /// # Safety
    /// The caller holds every heap.
    pub(super) unsafe fn reset_peaks(&self) {
        let mut books = lock(&self.books);
        // SAFETY: by this function's own contract.
        unsafe { books.tallies.reset_peaks() };
        books.stats.reset_peaks();
        books.lifetimes.iter_mut().for_each(Stat::reset_peak);
        books.pools.values_mut().for_each(|pool| pool.reserved_bytes.reset_peak());
    }

    /// Lets every total begin again.
    ///
    /// # Safety
    /// The caller holds every heap.
    pub(super) unsafe fn reset_accumulated(&self) {
        let mut books = lock(&self.books);
        // SAFETY: by this function's own contract.
        unsafe { books.tallies.reset_accumulated() };
        books.stats.reset_accumulated();
        books.lifetimes.iter_mut().for_each(Stat::reset_accumulated);
        books.pools.values_mut().for_each(|pool| pool.reserved_bytes.reset_accumulated());
        self.cross_stream_waits.store(0, Ordering::Relaxed);
    }

    /// How many bytes of segments have gone back to the driver since the counters were reset.
    pub(super) fn given_back_bytes(&self) -> u64 {
        lock(&self.books).stats.reserved_bytes.all.freed
    }

    fn is_oversize(&self, bytes: u64) -> bool {
        bytes >= self.oversize_from()
    }

    /// The size from which on blocks and segments are counted apart.
    pub(super) fn oversize_from(&self) -> u64 {
        self.conf.max_split_size_bytes.unwrap_or(u64::MAX)
    }

    /// The most that could ever be reserved.
    pub(super) fn most_bytes(&self) -> u64 {
        self.device.info().total_bytes.min(self.limit_bytes.unwrap_or(u64::MAX))
    }

    #[inline]
    pub(super) fn note(&self, event: impl FnOnce() -> TraceEvent) {
        if let Some(recorder) = &self.recorder {
            recorder.record(&event());
        }
    }
}

impl PoolBook {
    fn is_done(&self) -> bool {
        self.is_closed && self.reserved_bytes.current == 0
    }
}

impl Books {
    fn pool_gave_back(&mut self, pool: u64, bytes: u64) {
        if let Some(held) = self.pools.get_mut(&pool) {
            held.reserved_bytes.take_off(bytes);
            if held.is_done() {
                self.pools.remove(&pool);
            }
        }
    }

    fn held_bytes(&self) -> u64 {
        self.stats.reserved_bytes.all.current + self.in_transit_bytes
    }
}
