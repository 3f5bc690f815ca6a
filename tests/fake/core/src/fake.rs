//! One fake driver: its settings, its book, and the tables of everything alive.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use riverbed::device::Device;

use crate::Vendor;
use crate::capture::Capture;
use crate::device::Gpu;
use crate::event::Event;
use crate::faults::Faults;
use crate::log::Log;
use crate::mapping::Mapping;
use crate::memory::{Block, SmallPages};
use crate::module::{Function, Module};
use crate::physical::Page;
use crate::pinned::Pinned;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::status::Status;
use crate::stream::Stream;
use crate::virtual_memory::Reservation;

/// A fake driver. There is one in each copy of its library.
#[derive(Debug)]
pub struct Fake {
    pub vendor: Vendor,
    pub(crate) settings: Settings,
    log: Mutex<Log>,
    faults: Mutex<Faults>,
    /// Locked after `live`.
    state: Mutex<State>,
    /// Held to read while a stream touches memory, to write while memory goes away.
    live: RwLock<()>,
}

/// Everything alive.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) started: bool,
    pub(crate) gpus: Vec<Gpu>,
    /// Keeps address space and what is mapped there.
    pub(crate) space: Option<Device>,
    last_number: u64,
    pub(crate) streams: BTreeMap<u64, Arc<Stream>>,
    /// Destroyed streams, whose work goes on.
    pub(crate) given_up: Vec<Arc<Stream>>,
    pub(crate) per_thread: HashMap<(usize, std::thread::ThreadId), Arc<Stream>>,
    pub(crate) events: BTreeMap<u64, Arc<Event>>,
    pub(crate) blocks: BTreeMap<u64, Block>,
    pub(crate) small: Vec<SmallPages>,
    /// Where something was freed and nothing has come since.
    pub(crate) freed: BTreeSet<u64>,
    pub(crate) reservations: BTreeMap<u64, Reservation>,
    pub(crate) mappings: BTreeMap<u64, Mapping>,
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) pinned: BTreeMap<u64, Pinned>,
    pub(crate) pools: BTreeMap<u64, Pool>,
    pub(crate) modules: BTreeMap<u64, Module>,
    pub(crate) functions: BTreeMap<u64, Function>,
    pub(crate) graphs: BTreeMap<u64, usize>,
    pub(crate) captures: Vec<Arc<Capture>>,
}

/// What a handle is of; its upper bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Context = 1,
    Stream,
    Event,
    Page,
    Pool,
    Module,
    Function,
    Graph,
    /// No handle: tells one use of an address from the next.
    Serial,
}

const KIND_SHIFT: u32 = 40;

impl State {
    /// A number no other handle had or will have. It looks like a pointer to nothing.
    pub(crate) fn number(&mut self, kind: Kind) -> u64 {
        self.last_number += 1;
        ((kind as u64) << KIND_SHIFT) | (self.last_number << 4)
    }

    /// What to say of a handle that is not alive: its kind of misuse, and words.
    pub(crate) fn not_alive(&self, kind: Kind, handle: u64) -> (&'static str, String) {
        let number = (handle & ((1 << KIND_SHIFT) - 1)) >> 4;
        let was = handle >> KIND_SHIFT == kind as u64 && number > 0 && number <= self.last_number;
        if was {
            ("destroyed_handle", format!("{kind:?} {handle:#x} is gone"))
        } else {
            ("unknown_handle", format!("{handle:#x} never was a {kind:?}"))
        }
    }
}

impl Fake {
    pub(crate) fn new(vendor: Vendor, settings: Settings) -> Self {
        Self {
            vendor,
            settings,
            log: Mutex::default(),
            faults: Mutex::default(),
            state: Mutex::default(),
            live: RwLock::default(),
        }
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Held by streams while they touch memory.
    pub(crate) fn touching(&self) -> RwLockReadGuard<'_, ()> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while memory goes away.
    pub(crate) fn removing(&self) -> RwLockWriteGuard<'_, ()> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lost(&self) -> Option<Status> {
        self.faults().lost()
    }

    pub(crate) fn is_started(&self) -> bool {
        self.state().started
    }

    /// What was never given back, by kind.
    pub(crate) fn leaks(&self) -> BTreeMap<&'static str, u64> {
        let state = self.state();
        let pinned = |registered| {
            state.pinned.values().filter(|pinned| pinned.registered == registered).count()
        };
        let contexts = match self.vendor {
            Vendor::Cuda => state.gpus.iter().map(|gpu| gpu.retains).sum(),
            Vendor::Hip => 0,
        };
        let held = [
            ("allocations", state.blocks.len()),
            ("reservations", state.reservations.len()),
            ("mappings", state.mappings.len()),
            ("physical_handles", state.pages.values().filter(|page| page.held).count()),
            ("streams", state.streams.len()),
            ("events", state.events.len()),
            ("pinned", pinned(false)),
            ("registered", pinned(true)),
            ("pools", state.pools.values().filter(|pool| !pool.is_default).count()),
            ("modules", state.modules.len()),
            ("graphs", state.graphs.len()),
            ("captures", state.captures.len()),
            ("context_retains", contexts as usize),
        ];
        held.into_iter()
            .filter(|&(_, count)| count > 0)
            .map(|(kind, count)| (kind, count as u64))
            .collect()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
