//! The mechanism of the expandable policy: physical memory of all streams in one book, whose
//! handles are mapped where they are needed. `policy::expandable` decides.
//!
//! The book's lock is taken before any heap is entered and held while the driver is called; the
//! hot path never takes it, so a stream that finds a free block of its own goes on meanwhile.
//! Heaps are not entered while the driver makes or maps memory. They are while bytes change their
//! owner: the mark in the giving stream has to stand before anybody there takes the bytes again.

mod address;
mod chain;
mod climb;
mod driver;
mod grow;
mod release;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use self::address::Area;
use self::driver::Fresh;
pub(in crate::pool) use self::release::{Release, leave};
use super::heap::HeapState;
use super::shared::Shared;
use crate::base::{BiasedGuard, Result, lock};
use crate::conf::{Conf, EXPANDABLE};
use crate::device::{Device, Event, PageId, Stream};
use crate::fence::StreamKey;
use crate::ledger::{Ledger, SplitChange};
use crate::policy::expandable::{CLASS, HandleId, Ledgers, Memo, PAGE_BYTES, Pages};

/// Views kept. What a driver can hold is not documented; the host's kernel has 65,530.
const MOST_VIEWS: usize = 1 << 14;

/// Physical memory of one allocator.
#[derive(Debug)]
pub(in crate::pool) struct Expandable {
    book: Mutex<Book>,
}

/// What is behind the lock.
#[derive(Debug)]
pub(in crate::pool) struct Book {
    device: Device,
    pages: Pages,
    memo: Memo,
    /// The driver's names of the handles.
    physical: HashMap<HandleId, PageId>,
    areas: Vec<Area>,
    /// Streams by their number in `pages`, kept alive while memory may be in use by them.
    streams: Vec<Option<Stream>>,
    pace: Pace,
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
}

/// What happened since nothing was in use last.
#[derive(Debug, Default)]
struct Pace {
    /// The most bytes handed out, as seen at misses.
    peak_bytes: u64,
    /// Bytes ever given up by then.
    freed_before: u64,
    /// Misses that growing at home did not serve.
    misses: u64,
    /// Growths at home.
    extends: u64,
    /// Each ledger's version by then.
    versions: Vec<u64>,
}

#[derive(Debug)]
struct Doomed {
    address: u64,
    bytes: u64,
    after: Arc<Event>,
}

impl Expandable {
    /// The book of an allocator with this conf; `None` where another policy places blocks, or
    /// stands in because the device cannot map memory.
    pub(in crate::pool) fn of(device: &Device, conf: &Conf) -> Option<Self> {
        if conf.policy() != EXPANDABLE {
            return None;
        }
        let info = device.info();
        if !info.virtual_memory || !PAGE_BYTES.is_multiple_of(info.granularity_bytes) {
            tracing::warn!(
                device = %info.name,
                "the device cannot map memory in pages of 2 MiB: the caching policy stands in for \
                 the expandable one"
            );
            return None;
        }
        let book = Book {
            device: device.clone(),
            pages: Pages::default(),
            memo: Memo::default(),
            physical: HashMap::new(),
            areas: Vec::new(),
            streams: Vec::new(),
            pace: Pace::default(),
            most_views: MOST_VIEWS,
            by_age: VecDeque::new(),
            doomed: Vec::new(),
            leaked: HashSet::new(),
            strays: Vec::new(),
            pending: Vec::new(),
        };
        Some(Self { book: Mutex::new(book) })
    }

    /// Must not be called with a heap entered.
    pub(in crate::pool) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

impl Book {
    /// Proves the book against the ledgers of all heaps; gives the bytes that are in none.
    pub(in crate::pool) fn check(
        &self,
        states: &mut [BiasedGuard<'_, HeapState>],
    ) -> Result<u64, String> {
        self.pages.check(&mut All(states))?;
        if self.physical.len() != self.pages.handles.len() {
            return Err("a handle has no physical memory".into());
        }
        let stray_bytes: u64 = self.strays.iter().map(|fresh| fresh.bytes).sum();
        Ok(self.pages.idle_bytes() + stray_bytes)
    }

    /// Lets the arena of a heap be the one of `stream`.
    fn meet(&mut self, number: u32, stream: &Stream) {
        let at = number as usize;
        if self.pages.arenas.len() <= at {
            self.pages.arenas.resize_with(at + 1, || {
                let stream = u32::MAX;
                crate::policy::expandable::Arena { stream, ..Default::default() }
            });
            self.pace.versions.resize(at + 1, 0);
        }
        let key = StreamKey::of(stream);
        let known = self.streams.get(self.pages.arenas[at].stream as usize);
        let same = known
            .is_some_and(|known| known.as_ref().is_some_and(|known| StreamKey::of(known) == key));
        if !same {
            self.streams.push(Some(stream.clone()));
            self.pages.arenas[at].stream = self.streams.len() as u32 - 1;
        }
    }

    /// Makes `taker` wait, on the device, for everything the streams of these numbers were given.
    fn order(&mut self, shared: &Shared, users: &[u32], taker: u32) -> Result<()> {
        for &user in users {
            let stream = |number: u32| self.streams.get(number as usize).and_then(Option::as_ref);
            if let (Some(before), Some(after)) = (stream(user), stream(taker)) {
                shared.events.order(before, after)?;
                shared.cross_stream_waits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            self.pages.note_order(user, taker);
        }
        Ok(())
    }
}

/// The ledgers of all heaps, by number.
struct All<'a, 'b>(&'a mut [BiasedGuard<'b, HeapState>]);

impl Ledgers for All<'_, '_> {
    fn of(&mut self, arena: u32) -> &mut Ledger {
        &mut self.0[arena as usize].ledger
    }

    fn changed(&mut self, arena: u32, split: SplitChange) {
        self.0[arena as usize].note_moved(CLASS, split);
    }
}

/// The ledger of one heap, for steps that touch no other.
struct One<'a>(&'a mut HeapState);

impl Ledgers for One<'_> {
    fn of(&mut self, _arena: u32) -> &mut Ledger {
        &mut self.0.ledger
    }

    fn changed(&mut self, _arena: u32, split: SplitChange) {
        self.0.note_moved(CLASS, split);
    }
}
