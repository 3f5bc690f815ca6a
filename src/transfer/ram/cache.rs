//! The cache as its users see it, and as loaders do.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::books::{Books, Key, Need, Offers};
use super::claim::{Claim, Held};
use super::lease::RamLease;
use super::order::{NextUse, victims};
use super::stats::{Meters, RamStats, add};
use crate::base::lock;
use crate::conf::Conf;
use crate::device::Device;
use crate::pinned::PinnedPool;
use crate::transfer::files::FileSet;
use crate::transfer::home::{Home, HomeCell};
use crate::transfer::plan::LoadPlan;

/// Settings of a [`RamCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RamOptions {
    /// The most host memory that weights may take, in bytes. The budgets of the pinned pools hold
    /// beside it: what these refuse is read from its files in every pass.
    pub budget_bytes: u64,
    /// Whether weights that stay on a device keep a copy in host memory, from which they come back
    /// after they had to leave. Without, they are read from their files again.
    pub keep_ram_copy: bool,
}

impl RamOptions {
    /// A budget, and copies kept.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, keep_ram_copy: true }
    }

    /// The same, with copies of what stays on a device or without.
    #[must_use]
    pub fn keep_ram_copy(mut self, keeps: bool) -> Self {
        self.keep_ram_copy = keeps;
        self
    }
}

/// Weights in host memory, under one budget for all models and all devices. Clones share it, and so
/// do the loaders made with it ([`Loader::with_ram`](crate::transfer::Loader::with_ram)): one reads
/// a unit from its files, and all others of the same component, then and later, copy what it read.
/// All methods may be called from any thread; none waits for a device.
///
/// What a component in use needs in every pass never leaves; of the rest, what is needed last
/// leaves first, unit by unit. [`expect`](Self::expect) tells what comes; without it, the
/// component that was used longest ago counts as needed last.
///
/// ```
/// use riverbed::transfer::RamCache;
///
/// let cache = RamCache::new(8 << 30);
/// cache.expect(["text encoder", "transformer", "vae", "text encoder"]);
/// let in_use = cache.begin("text encoder");
/// // load and run it, then
/// drop(in_use);
/// assert_eq!(cache.stats().held_bytes, 0);
/// ```
#[derive(Debug, Clone)]
pub struct RamCache(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    options: RamOptions,
    books: Mutex<Books>,
    held: Arc<Held>,
    peak_bytes: AtomicU64,
    meters: Meters,
    /// Bytes read from files; readers count in it.
    disk_bytes: Arc<AtomicU64>,
    /// One for each device.
    pools: Mutex<Vec<PinnedPool>>,
}

impl RamCache {
    /// An empty cache of so many bytes that keeps copies of residents too.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        Self::with_options(RamOptions::new(budget_bytes))
    }

    /// The same with other settings.
    #[must_use]
    pub fn with_options(options: RamOptions) -> Self {
        let books = Books::new(options.budget_bytes);
        Self(Arc::new(Shared {
            options,
            books: Mutex::new(books),
            held: Arc::default(),
            peak_bytes: AtomicU64::new(0),
            meters: Meters::default(),
            disk_bytes: Arc::default(),
            pools: Mutex::default(),
        }))
    }

    /// The settings it was made with.
    #[must_use]
    pub fn options(&self) -> RamOptions {
        self.0.options
    }

    /// The pinned pool of a device, made with `conf` when it is asked for first. It lives as long
    /// as the cache, and so does the device. Loaders of one device should share it: then what one
    /// gives back the next can have.
    #[must_use]
    pub fn pinned(&self, device: &Device, conf: &Conf) -> PinnedPool {
        let mut pools = lock(&self.0.pools);
        if let Some(pool) = pools.iter().find(|pool| pool.device() == device) {
            return pool.clone();
        }
        let pool = PinnedPool::new(device, conf);
        pools.push(pool.clone());
        pool
    }

    /// Tells which components will be used, in order, from now on; in place of what was told
    /// before. Each [`begin`](Self::begin) moves on to the next of its name.
    pub fn expect<N: Into<String>>(&self, components: impl IntoIterator<Item = N>) {
        self.0.books().expect(components.into_iter().map(Into::into).collect());
        self.0.held.note_change();
    }

    /// A component is in use until the lease is dropped.
    #[must_use = "the component is in use for as long as the lease lives"]
    pub fn begin(&self, component: &str) -> RamLease {
        let number = self.0.books().begin(component);
        self.0.held.note_change();
        RamLease::new(Arc::clone(&self.0), number)
    }

    /// Gives it another budget, in bytes. What is too much leaves as soon as nothing uses it; what
    /// a component in use needs in every pass stays.
    pub fn set_budget(&self, budget_bytes: u64) {
        self.0.books().budget_bytes = budget_bytes;
        self.0.held.note_change();
        self.trim(budget_bytes);
    }

    /// Lets go of what is needed last until at most so many bytes are held, as far as nothing uses
    /// it; gives how many bytes went. For when the system is short of memory.
    pub fn trim(&self, target_bytes: u64) -> u64 {
        let books = self.0.books();
        let Offers { kept, homes, .. } = books.kept(None);
        let idle = kept.iter().filter(|kept| kept.next > NextUse::Now);
        let idle_bytes = idle.fold(0u64, |sum, kept| sum.saturating_add(kept.bytes));
        let needed_bytes = self.0.held.bytes().saturating_sub(target_bytes).min(idle_bytes);
        if needed_bytes == 0 {
            return 0;
        }
        let chosen = victims(needed_bytes, NextUse::Now, kept);
        self.0.evict(books, &chosen, &homes)
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> RamStats {
        let (budget_bytes, units) = {
            let books = self.0.books();
            (books.budget_bytes, books.units())
        };
        RamStats {
            budget_bytes,
            units,
            held_bytes: self.0.held.bytes(),
            peak_bytes: self.0.peak_bytes.load(Relaxed),
            disk_bytes: self.0.disk_bytes.load(Relaxed),
            ..self.0.meters.stats()
        }
    }

    /// For loads of a component from these files.
    pub(in crate::transfer) fn keeper(&self, component: &str, files: &Arc<FileSet>) -> Keeper {
        let component = self.0.books().component(component);
        Keeper { shared: Arc::clone(&self.0), component, files: Arc::clone(files) }
    }
}

impl Shared {
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    pub(super) fn end(&self, component: usize) {
        self.books().end(component);
        self.held.note_change();
    }

    /// Has these homes give up their memory, outside of the lock; gives the bytes.
    fn evict(
        &self,
        books: MutexGuard<'_, Books>,
        chosen: &[usize],
        homes: &[Arc<HomeCell>],
    ) -> u64 {
        let taken = chosen.iter().filter_map(|&at| homes.get(at)?.take_idle());
        let taken: Vec<_> = taken.collect();
        drop(books);
        let bytes = taken.iter().map(|memory| memory.landing.len_bytes()).sum();
        add(&self.meters.evictions, taken.len() as u64);
        add(&self.meters.evicted_bytes, bytes);
        tracing::debug!(homes = taken.len(), bytes, "weights leave host memory");
        bytes
    }

    /// Takes bytes of the budget for the home of `key`, of which others that are needed later make
    /// room.
    fn admit(&self, key: &Key, bytes: u64) -> Result<Claim, Refused> {
        let changes = self.held.changes();
        let mut some_busy = false;
        // What the first round makes free somebody else may take.
        for _ in 0..2 {
            let books = self.books();
            let held_bytes = self.held.bytes();
            if held_bytes.saturating_add(bytes) <= books.budget_bytes {
                self.peak_bytes.fetch_max(held_bytes + bytes, Relaxed);
                return Ok(self.held.claim(bytes));
            }
            let needed_bytes = held_bytes.saturating_add(bytes) - books.budget_bytes;
            let made = self.make_room(books, key, needed_bytes, None);
            some_busy |= made.some_busy;
            if made.bytes == 0 {
                break;
            }
        }
        add(&self.meters.refusals, 1);
        Err(Refused { until: (!some_busy).then_some(changes) })
    }

    /// Frees so many bytes for the home of `key`, or none; of memory of this device.
    fn make_room(
        &self,
        books: MutexGuard<'_, Books>,
        key: &Key,
        needed_bytes: u64,
        device: Option<&Device>,
    ) -> Made {
        let Some(standing) = books.standing(key) else { return Made::default() };
        let Offers { kept, homes, some_busy } = books.kept(device);
        let chosen = victims(needed_bytes, books.next_use(standing), kept);
        if chosen.is_empty() {
            return Made { bytes: 0, some_busy };
        }
        Made { bytes: self.evict(books, &chosen, &homes), some_busy }
    }
}

/// What [`Shared::make_room`] made.
#[derive(Debug, Default)]
struct Made {
    bytes: u64,
    /// There is more that cannot be had now.
    some_busy: bool,
}

/// No room.
#[derive(Debug, Clone, Copy)]
pub(in crate::transfer) struct Refused {
    /// While [`Place::changes`] is this, asking again is in vain. None where what is in the way is
    /// busy, and nobody will tell when it no longer is.
    pub(in crate::transfer) until: Option<u64>,
}

/// Where a home stands in a cache.
#[derive(Debug)]
pub(in crate::transfer) struct Place {
    /// The homes are the cache's, so they do not keep it.
    shared: Weak<Shared>,
    held: Arc<Held>,
    key: Key,
}

impl Place {
    /// What an admission depends on; while it is the same, a refusal would be too.
    pub(in crate::transfer) fn changes(&self) -> u64 {
        self.held.changes()
    }

    /// Takes bytes of the budget, if there are or others make room.
    pub(in crate::transfer) fn admit(&self, bytes: u64) -> Result<Claim, Refused> {
        let shared = self.shared.upgrade().ok_or(Refused { until: None })?;
        shared.admit(&self.key, bytes)
    }

    /// Has others make room of so many bytes in the pinned memory of a device.
    pub(in crate::transfer) fn make_room(&self, bytes: u64, device: &Device) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        shared.make_room(shared.books(), &self.key, bytes, Some(device)).bytes > 0
    }
}

/// A loader's side of a cache.
#[derive(Debug)]
pub(in crate::transfer) struct Keeper {
    shared: Arc<Shared>,
    component: usize,
    files: Arc<FileSet>,
}

impl Keeper {
    fn key(&self, plan: &LoadPlan) -> Key {
        let (files, spans) = (Arc::clone(&self.files), Arc::clone(&plan.spans));
        Key { component: self.component, files, spans }
    }

    /// The home of a unit: the one there is, or a new one.
    pub(in crate::transfer) fn home(&self, plan: &Arc<LoadPlan>, need: Need) -> Home {
        let (key, mut books) = (self.key(plan), self.shared.books());
        if let Some(home) = books.find(&key, Some(need)) {
            return Home(home);
        }
        let place = Place {
            shared: Arc::downgrade(&self.shared),
            held: Arc::clone(&self.shared.held),
            key: key.clone(),
        };
        let home = Arc::new(HomeCell::new(plan, &self.files, Some(place)));
        books.enter(key, need, &home);
        Home(home)
    }

    /// The home of a unit, if there is one with all of its bytes.
    pub(in crate::transfer) fn kept(&self, plan: &LoadPlan) -> Option<Home> {
        self.shared.books().find(&self.key(plan), None).map(Home).filter(Home::is_whole)
    }

    /// Whether residents keep a copy in host memory.
    pub(in crate::transfer) fn keeps_ram_copy(&self) -> bool {
        self.shared.options.keep_ram_copy
    }

    /// Lets go of the home of a unit, once whoever has it drops it.
    pub(in crate::transfer) fn forget(&self, plan: &LoadPlan) {
        let home = {
            let mut books = self.shared.books();
            let key = self.key(plan);
            let home = books.find(&key, None);
            books.forget(&key);
            home
        };
        drop(home);
    }

    /// Counts a load of so many bytes.
    pub(in crate::transfer) fn note_load(&self, bytes: u64, is_hit: bool) {
        self.shared.meters.note_load(bytes, is_hit);
    }

    /// What readers count the bytes in that they read from files.
    pub(in crate::transfer) fn disk_bytes(&self) -> &Arc<AtomicU64> {
        &self.shared.disk_bytes
    }
}
