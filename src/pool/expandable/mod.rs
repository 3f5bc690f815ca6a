//! The mechanism of the expandable policy: physical memory of all streams of a pool in one book,
//! whose handles are mapped where they are needed. `policy::expandable` decides.
//!
//! The default pool has a book, and each private pool one of its own, so that no byte crosses
//! from one to the other but by way of the driver.
//!
//! The book's lock is taken before any heap is entered and held while the driver is called; the
//! hot path never takes it, so a stream that finds a free block of its own goes on meanwhile.
//! Heaps are not entered while the driver makes or maps memory. They are while bytes change their
//! owner: the mark in the giving stream has to stand before anybody there takes the bytes again.

mod address;
mod chain;
mod claim;
mod climb;
mod driver;
mod grow;
mod members;
mod planned;
mod release;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use self::address::Area;
use self::driver::Fresh;
use self::members::{All, Member};
use self::planned::Planner;
pub(in crate::pool) use self::planned::Turn;
pub(in crate::pool) use self::release::Release;
use super::heap::{HeapState, reentered};
use crate::base::{Result, lock, thread_token};
use crate::conf::{CACHING, Conf, EXPANDABLE, PLANNED};
use crate::device::{Device, DeviceInfo, Event, PageId, Stream};
use crate::policy::expandable::{HandleId, Memo, PAGE_BYTES, Pages, Sharing};

/// Views kept. What a driver can hold is not documented; the host's kernel has 65,530.
const MOST_VIEWS: usize = 1 << 14;

/// Physical memory of one pool of an allocator.
#[derive(Debug)]
pub(in crate::pool) struct Expandable {
    book: Mutex<Book>,
    /// The thread that has the book; 0 is nobody.
    reader: AtomicU64,
}

/// What is behind the lock.
#[derive(Debug)]
pub(in crate::pool) struct Book {
    device: Device,
    /// The private pool it is of, or 0.
    pool: u64,
    pages: Pages,
    memo: Memo,
    /// The heaps of the pool, by arena.
    members: Vec<Member>,
    /// The driver's names of the handles.
    physical: HashMap<HandleId, PageId>,
    areas: Vec<Area>,
    /// Streams by their number in `pages`, kept alive while memory may be in use by them.
    streams: Vec<Option<Stream>>,
    /// By arena.
    paces: Vec<Pace>,
    sharing: Sharing,
    /// How many views are kept.
    most_views: usize,
    /// Views of free handles mapped anew, the oldest first.
    by_age: VecDeque<u64>,
    /// Views to unmap once their stream is done with them.
    doomed: Vec<Doomed>,
    /// Handles under raw blocks that were never freed.
    leaked: HashSet<HandleId>,
    /// Physical memory that was never mapped and that the driver would not take back.
    strays: Vec<Fresh>,
    /// What to wait for at the end, beside the streams.
    pending: Vec<Arc<Event>>,
    planner: Planner,
}

/// What happened to an arena since it began anew last.
#[derive(Debug, Default)]
struct Pace {
    /// The name of its last miss, for the memo.
    name: u64,
    /// Misses that growing at home did not serve.
    misses: u64,
    /// Growths at home.
    extends: u64,
    /// The ledger's version by then.
    version: u64,
}

#[derive(Debug)]
struct Doomed {
    address: u64,
    bytes: u64,
    after: Arc<Event>,
}

/// The book, while nobody else has it.
pub(in crate::pool) struct BookGuard<'a> {
    book: MutexGuard<'a, Book>,
    reader: &'a AtomicU64,
}

/// The policy that places blocks on a device under this conf: the conf's own, or `caching` in
/// place of one that maps memory, where the device cannot.
///
/// ```
/// use riverbed::device::Device;
/// let conf: riverbed::conf::Conf = "expandable_segments:True".parse()?;
/// let device = Device::open("sim:1GiB,vmm=off")?;
/// assert_eq!(riverbed::pool::policy_on(device.info(), &conf), "caching");
/// # Ok::<(), riverbed::Error>(())
/// ```
#[must_use]
pub fn policy_on<'a>(info: &DeviceInfo, conf: &'a Conf) -> &'a str {
    let maps = info.virtual_memory && PAGE_BYTES.is_multiple_of(info.granularity_bytes);
    match conf.policy() {
        EXPANDABLE | PLANNED if !maps => CACHING,
        policy => policy,
    }
}

impl Expandable {
    /// The book of an allocator's default pool under this conf; `None` where another policy
    /// places blocks, or stands in because the device cannot map memory.
    pub(in crate::pool) fn of(device: &Device, conf: &Conf) -> Option<Arc<Self>> {
        if !matches!(conf.policy(), EXPANDABLE | PLANNED) {
            return None;
        }
        if policy_on(device.info(), conf) != conf.policy() {
            tracing::warn!(
                device = %device.info().name,
                "the device cannot map memory in pages of 2 MiB: the caching policy stands in for \
                 the {} one",
                conf.policy()
            );
            return None;
        }
        Some(Self::new(device, 0, MOST_VIEWS))
    }

    /// The book of a private pool. A graph may use every address the pool ever gave out, so all
    /// its views stay.
    pub(in crate::pool) fn of_pool(device: &Device, pool: u64) -> Arc<Self> {
        Self::new(device, pool, usize::MAX)
    }

    fn new(device: &Device, pool: u64, most_views: usize) -> Arc<Self> {
        let book = Book {
            device: device.clone(),
            pool,
            pages: Pages::default(),
            memo: Memo::default(),
            members: Vec::new(),
            physical: HashMap::new(),
            areas: Vec::new(),
            streams: Vec::new(),
            paces: Vec::new(),
            sharing: Sharing::default(),
            most_views,
            by_age: VecDeque::new(),
            doomed: Vec::new(),
            leaked: HashSet::new(),
            strays: Vec::new(),
            pending: Vec::new(),
            planner: Planner::default(),
        };
        Arc::new(Self { book: Mutex::new(book), reader: AtomicU64::new(0) })
    }

    /// Must not be called with a heap entered.
    ///
    /// # Errors
    /// The thread has the book already: a recorder called the allocator.
    pub(in crate::pool) fn book(&self) -> Result<BookGuard<'_>> {
        let me = thread_token();
        if self.reader.load(Ordering::Relaxed) == me {
            return Err(reentered());
        }
        let book = lock(&self.book);
        self.reader.store(me, Ordering::Relaxed);
        Ok(BookGuard { book, reader: &self.reader })
    }
}

impl Drop for BookGuard<'_> {
    fn drop(&mut self) {
        self.reader.store(0, Ordering::Relaxed);
    }
}

impl Deref for BookGuard<'_> {
    type Target = Book;

    fn deref(&self) -> &Book {
        &self.book
    }
}

impl DerefMut for BookGuard<'_> {
    fn deref_mut(&mut self) -> &mut Book {
        &mut self.book
    }
}

impl Book {
    /// Proves the book against the insides of all heaps, by their numbers; gives the bytes that
    /// are in none.
    pub(in crate::pool) fn check<'a>(
        &self,
        states: impl Iterator<Item = (u32, &'a mut HeapState)>,
    ) -> Result<u64, String> {
        let mut all = All::of(&self.members, states).ok_or("a heap of the book is gone")?;
        self.pages.check(&mut all)?;
        if self.physical.len() != self.pages.handles.len() {
            return Err("a handle has no physical memory".into());
        }
        Ok(self.unowned_bytes())
    }

    /// The private pool it is of, or 0.
    pub(in crate::pool) fn pool(&self) -> u64 {
        self.pool
    }

    /// Bytes that are held and in no ledger.
    pub(in crate::pool) fn unowned_bytes(&self) -> u64 {
        let stray_bytes: u64 = self.strays.iter().map(|fresh| fresh.bytes).sum();
        self.pages.idle_bytes() + stray_bytes
    }
}
