//! The pool's insides: the books of what is pinned, and what happens to a block that is dropped.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::background::Background;
use super::block::{Piece, Range};
use super::budget::Budget;
use super::capture::Captures;
use super::growth::OWN_SLAB;
use super::options::PinnedOptions;
use super::pressure::PressureWatch;
use super::release::release;
use super::shelf::Shelves;
use super::slab::{Kind, Slab, Source};
use super::stats::Flow;
use super::uses::Uses;
use crate::base::{lock, sync::try_lock};
use crate::conf::Conf;
use crate::device::{Device, reap};
use crate::fence::{EventPool, RetireQueue};
use crate::ledger::{BlockId, Ledger};

/// What all handles, blocks and graphs of a pool share.
pub(super) struct Shared {
    pub(super) device: Device,
    pub(super) budget: Budget,
    pub(super) sizes: Sizes,
    pub(super) options: PinnedOptions,
    pub(super) source: Source,
    pub(super) shelves: Shelves,
    pub(super) captures: Captures,
    pub(super) core: Mutex<Core>,
    /// Signalled when memory went back to the system.
    pub(super) released: Condvar,
    pub(super) pressure: PressureWatch,
    pub(super) events: EventPool,
    /// Frees for whoever holds the lock next. Held for a push or a swap only, so that dropping
    /// a block never waits.
    mailbox: Mutex<Vec<(BlockId, Uses)>>,
    background: Option<Background>,
    /// The moment that ages are counted from.
    epoch: Instant,
    /// The smallest request the system refused to pin since something was last unpinned.
    pub(super) refused_bytes: AtomicU64,
    /// That was said.
    pub(super) warned: AtomicBool,
    /// That a caller's memory was not pinned was said.
    pub(super) warned_of_adopted: AtomicBool,
}

/// What the conf says of sizes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// The first slab is at least this large.
    pub(super) reserve_bytes: u64,
    /// Blocks above this have a slab of their own, which goes when they do.
    pub(super) max_cached_bytes: u64,
}

/// The books. What is held is always `ledger + pinning + releasing + adopted`.
#[derive(Debug, Default)]
pub(super) struct Core {
    pub(super) ledger: Ledger,
    pub(super) retired: RetireQueue<BlockId>,
    /// The slabs of the ledger by address.
    pub(super) slabs: BTreeMap<u64, Slab>,
    /// Slabs on their way to the system, or refused by the driver.
    pub(super) outgoing: Vec<Slab>,
    /// Being taken from the system right now.
    pub(super) pinning_bytes: u64,
    /// In `outgoing`, or just being given back by somebody.
    pub(super) releasing_bytes: u64,
    /// Of these, what somebody is just giving back.
    pub(super) in_release_bytes: u64,
    /// Registered memory of others.
    pub(super) adopted_bytes: u64,
    /// The first slab was made.
    pub(super) has_grown: bool,
    /// Counts slabs, so that older ones are preferred.
    pub(super) serial: u32,
    pub(super) peak_bytes: u64,
    pub(super) flow: Flow,
    /// What the mailbox is swapped with, and what is found free: kept, so that they take
    /// nothing from the heap.
    incoming: Vec<(BlockId, Uses)>,
    free: Vec<BlockId>,
}

impl Core {
    /// What counts against the budget.
    pub(super) fn held_bytes(&self) -> u64 {
        self.ledger.totals().reserved_bytes
            + self.pinning_bytes
            + self.releasing_bytes
            + self.adopted_bytes
    }

    pub(super) fn note_peak(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.held_bytes());
    }

    fn give_back(&mut self, id: BlockId, now: u64) {
        self.ledger.give_back(id, now);
        self.flow.out -= 1;
    }
}

impl Shared {
    pub(super) fn new(device: &Device, conf: &Conf, options: PinnedOptions) -> Arc<Self> {
        let shared = Arc::new(Self {
            device: device.clone(),
            budget: Budget::from_conf(conf),
            sizes: Sizes {
                reserve_bytes: conf.pinned_reserve_segment_size_bytes.unwrap_or(0),
                max_cached_bytes: conf.pinned_max_cached_size_bytes.unwrap_or(u64::MAX),
            },
            options,
            source: Source::new(device, conf),
            shelves: Shelves::new(),
            captures: Captures::default(),
            core: Mutex::default(),
            released: Condvar::new(),
            pressure: PressureWatch::default(),
            events: EventPool::new(device),
            mailbox: Mutex::default(),
            background: conf.pinned_use_background_threads.then(Background::new),
            epoch: Instant::now(),
            refused_bytes: AtomicU64::new(u64::MAX),
            warned: AtomicBool::new(false),
            warned_of_adopted: AtomicBool::new(false),
        });
        if let Some(background) = &shared.background {
            background.start(&shared);
        }
        shared
    }

    /// Seconds since the pool was made.
    pub(super) fn clock(&self) -> u64 {
        self.epoch.elapsed().as_secs()
    }

    /// Takes a dropped block back: to a shelf where nothing uses it any more. Never waits.
    #[inline]
    pub(super) fn put_back(piece: Piece, uses: Uses) {
        let Range { bytes, kind, .. } = piece.range;
        let shared = &piece.anchor.0;
        if !uses.is_none() || kind != Kind::Pinned || bytes > shared.sizes.max_cached_bytes {
            return Self::put_back_slowly(piece, uses);
        }
        if let Some(other) = shared.shelves.put(piece.range) {
            shared.leave(other.id, Uses::default());
        }
    }

    #[cold]
    fn put_back_slowly(piece: Piece, mut uses: Uses) {
        let anchor = Arc::clone(&piece.anchor);
        let shared = &anchor.0;
        match uses.take_graph() {
            Some(graph) => shared.captures.keep(&graph, piece, uses),
            None => shared.leave(piece.range.id, uses),
        }
    }

    /// Leaves a free for whoever has the lock next, which is this thread if nobody has it now.
    fn leave(self: &Arc<Self>, id: BlockId, uses: Uses) {
        lock(&self.mailbox).push((id, uses));
        if let Some(mut core) = try_lock(&self.core) {
            self.settle(&mut core);
        }
        if let Some(background) = &self.background {
            background.wake();
        }
    }

    /// The lock, with everything done that others left to be done.
    pub(super) fn enter(self: &Arc<Self>) -> MutexGuard<'_, Core> {
        let mut core = lock(&self.core);
        self.settle(&mut core);
        core
    }

    /// Takes back what was dropped and, unless a thread of its own does, what copies are done
    /// with.
    fn settle(self: &Arc<Self>, core: &mut Core) {
        self.take_mail(core);
        if self.background.is_none() {
            self.poll(core);
        }
    }

    /// Takes back what was dropped.
    pub(super) fn take_mail(self: &Arc<Self>, core: &mut Core) {
        std::mem::swap(&mut *lock(&self.mailbox), &mut core.incoming);
        core.flow.returned += core.incoming.len() as u64;
        let Core { incoming, free, ledger, retired, .. } = core;
        for (id, uses) in incoming.drain(..) {
            if uses.is_none() {
                free.push(id);
                continue;
            }
            ledger.retire(id);
            if self.captures.any() {
                retired.put_off(id, uses.streams());
            } else {
                retired.retire(id, uses.streams(), &self.events);
            }
        }
        self.make_free(core);
    }

    /// Makes free what copies are done with. Asks nothing of the driver during a capture.
    pub(super) fn poll(self: &Arc<Self>, core: &mut Core) {
        if core.retired.is_empty() || self.captures.any() {
            return;
        }
        let Core { free, retired, .. } = core;
        retired.poll(&self.events, |id| free.push(id));
        self.make_free(core);
    }

    fn make_free(self: &Arc<Self>, core: &mut Core) {
        if core.free.is_empty() {
            return;
        }
        let now = self.clock();
        let mut slabs_of_their_own = false;
        while let Some(id) = core.free.pop() {
            slabs_of_their_own |= core.ledger[id].class >= OWN_SLAB;
            core.give_back(id, now);
        }
        if slabs_of_their_own {
            self.send_away(core);
        }
    }

    /// Lets the reaper give the slabs back that go with their blocks.
    fn send_away(self: &Arc<Self>, core: &mut Core) {
        if self.captures.any() {
            return;
        }
        self.detach(core, |block, _| block.class >= OWN_SLAB);
        let shared = Arc::clone(self);
        reap(Vec::new(), move |_| {
            shared.release_outgoing();
        });
    }

    /// Puts what lies on the shelves back into the ledger.
    pub(super) fn unshelve(self: &Arc<Self>, core: &mut Core) {
        let now = self.clock();
        self.shelves.clear(|range| core.give_back(range.id, now));
    }

    /// Does `job` in the background once what is now enqueued on the streams of `uses` is done;
    /// it is told whether that is known.
    pub(super) fn after(
        self: &Arc<Self>,
        uses: &Uses,
        job: impl FnOnce(&Self, bool) + Send + 'static,
    ) {
        let mut queue = RetireQueue::default();
        queue.retire((), uses.streams(), &self.events);
        let is_known = queue.stranded_count() == 0;
        let (_, pending) = queue.take_waiting();
        let shared = Arc::clone(self);
        reap(pending, move |reached| job(&shared, is_known && reached.is_ok()));
    }

    /// See [`PinnedPool::trim`](super::PinnedPool::trim).
    pub(super) fn trim(self: &Arc<Self>) -> u64 {
        let mut core = self.enter();
        self.unshelve(&mut core);
        self.poll(&mut core);
        drop(core);
        self.release_free()
    }

    /// Does what is due now and then: see [`PinnedPool::maintain`](super::PinnedPool::maintain).
    pub(super) fn maintain(self: &Arc<Self>) -> u64 {
        let mut core = self.enter();
        self.unshelve(&mut core);
        self.poll(&mut core);
        drop(core);
        self.release_stale()
    }

    /// True when nothing waits for the end of copies or to be taken back.
    pub(super) fn is_quiet(&self) -> bool {
        lock(&self.mailbox).is_empty() && lock(&self.core).retired.is_empty()
    }
}

impl Drop for Shared {
    /// Hands the slabs to the reaper, which waits for the copies that still use them.
    fn drop(&mut self) {
        let mail = std::mem::take(self.mailbox.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut core = std::mem::take(self.core.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (id, uses) in mail {
            core.retired.retire(id, uses.streams(), &self.events);
        }
        // What was put off waits for its streams too.
        core.retired.poll(&self.events, drop);
        let is_known = core.retired.stranded_count() == 0;
        let (_, pending) = core.retired.take_waiting();
        let slabs = core.slabs.into_values().chain(core.outgoing).collect::<Vec<_>>();
        let device = self.device.clone();
        reap(pending, move |reached| {
            // What the driver refuses to take back, or what some copy may still use, is leaked.
            let leaked = if reached.is_ok() && is_known {
                // Asked twice, for a driver may refuse once. SAFETY: every block was dropped, and
                // every copy is done.
                unsafe { release(&device, release(&device, slabs)) }
            } else {
                slabs
            };
            std::mem::forget(leaked);
        });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = &self.device.info().name;
        f.debug_struct("Shared").field("device", device).field("budget", &self.budget).finish()
    }
}
