//! Private pools: memory apart from the rest, that goes back as one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::allocator::{Allocator, Inner};
use super::expandable::Expandable;
use super::scope::{self, PoolScope};
use super::stats::Stat;
use super::stream_allocator::StreamAllocator;
use crate::base::Result;
use crate::device::Stream;

/// What is special about a private pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrivatePoolOptions {
    /// See [`use_on_oom`](Self::use_on_oom).
    pub use_on_oom: bool,
    /// See [`no_split`](Self::no_split).
    pub no_split: bool,
}

impl PrivatePoolOptions {
    /// Where memory is otherwise out, what the pool has cached serves requests from outside it,
    /// and goes back to the device on the last rung. Not for the pool of a captured graph whose
    /// launches still write to blocks that were freed.
    #[must_use]
    pub fn use_on_oom(mut self) -> Self {
        self.use_on_oom = true;
        self
    }

    /// A request gets a whole segment: 1000 bytes get 2 MiB, 3 MiB get 20.
    #[must_use]
    pub fn no_split(mut self) -> Self {
        self.no_split = true;
        self
    }
}

/// Memory apart from the allocator's other memory: a block freed here serves only requests made
/// here. For a captured graph, whose addresses must stay its own, and for memory that comes and
/// goes as a group. Clones share one pool; the limit, the statistics and the device are the
/// allocator's.
///
/// The pool lives as long as any clone, any handle of [`on`](Self::on) and any scope of
/// [`Allocator::enter_pool`]. After that its cached segments go back at once, in the background,
/// and each one in use as soon as its last block is freed. Until then only
/// [`trim`](Self::trim) gives its segments back, unless [`PrivatePoolOptions::use_on_oom`] says
/// otherwise.
///
/// ```
/// use riverbed::device::{Device, Priority, Stream};
/// use riverbed::pool::{Allocator, PrivatePoolOptions};
///
/// let device = Device::open("host:vram=64MiB")?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let allocator = Allocator::builder(&device).build()?;
/// let pool = allocator.private_pool(PrivatePoolOptions::default());
/// drop(pool.on(&stream)?.alloc::<f32>(1000)?);
/// assert_eq!(pool.reserved_bytes().current, 2 << 20); // cached, for this pool alone
/// drop(pool);
/// allocator.close()?;
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PrivatePool(Arc<Handle>);

/// A private pool's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PrivatePoolStats {
    /// See [`PrivatePool::id`].
    pub id: u64,
    /// Bytes held from the device for it.
    pub reserved_bytes: Stat,
}

/// Closes the pool when it goes.
#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
    pool: Arc<PoolInfo>,
}

/// A pool as its heaps know it.
#[derive(Debug)]
pub(super) struct PoolInfo {
    /// Above 0, which is the default pool.
    pub(super) id: u64,
    pub(super) options: PrivatePoolOptions,
    /// Its physical memory, where the policy maps it.
    pub(super) expandable: Option<Arc<Expandable>>,
    closed: AtomicBool,
}

impl PoolInfo {
    /// Nobody can ask for memory of it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// True when what is cached in it is for its own requests alone.
    pub(super) fn keeps_cache(&self) -> bool {
        !self.is_closed() && !self.options.use_on_oom
    }
}

impl Allocator {
    /// A new private pool, empty.
    #[must_use = "the pool goes with its last handle"]
    pub fn private_pool(&self, options: PrivatePoolOptions) -> PrivatePool {
        let shared = &self.inner().shared;
        let id = shared.open_pool();
        let maps = shared.expandable.is_some() && !options.no_split;
        let expandable = maps.then(|| Expandable::of_pool(&shared.device, id));
        let closed = AtomicBool::new(false);
        let pool = Arc::new(PoolInfo { id, options, expandable, closed });
        PrivatePool(Arc::new(Handle { inner: Arc::clone(self.inner()), pool }))
    }

    /// Sends what the calling thread asks this allocator for to `pool`, until the scope is
    /// dropped. Of several scopes the one begun last counts. Handles of [`on`](Self::on) that
    /// were made before stay with their pool. Other threads are not affected, and requests
    /// outside any scope pay nothing for it.
    ///
    /// # Errors
    /// A pool of another allocator.
    pub fn enter_pool(&self, pool: &PrivatePool) -> Result<PoolScope> {
        scope::enter(self, pool)
    }

    /// The private pools that are alive or still hold memory, by id.
    #[must_use]
    pub fn private_pools(&self) -> Vec<PrivatePoolStats> {
        self.inner().shared.pools()
    }
}

impl PrivatePool {
    /// A number no other pool of the allocator has or had; above 0.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.pool.id
    }

    /// What it was made with.
    #[must_use]
    pub fn options(&self) -> PrivatePoolOptions {
        self.0.pool.options
    }

    /// The way to allocate from the pool on `stream`; keeps the pool alive.
    ///
    /// # Errors
    /// As [`Allocator::on`].
    pub fn on(&self, stream: &Stream) -> Result<StreamAllocator> {
        self.0.inner.on(Some(self), stream)
    }

    /// Gives everything cached in the pool back to the device; waits for its streams. Does
    /// nothing during a capture. Gives the bytes released.
    pub fn trim(&self) -> u64 {
        let before = self.reserved_bytes().freed;
        self.0.inner.poll();
        self.0.inner.release_cached(|pool| pool.is_some_and(|pool| pool.id == self.id()), None);
        self.reserved_bytes().freed.saturating_sub(before)
    }

    /// Bytes held from the device for the pool.
    #[must_use]
    pub fn reserved_bytes(&self) -> Stat {
        self.0.inner.shared.pool(self.id())
    }

    pub(super) fn info(&self) -> &Arc<PoolInfo> {
        &self.0.pool
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }
}

impl Drop for Handle {
    /// Never waits for a stream or the driver.
    fn drop(&mut self) {
        self.pool.closed.store(true, Ordering::Relaxed);
        self.inner.heaps.close_pool(self.pool.id);
        self.inner.shared.close_pool(self.pool.id);
    }
}
