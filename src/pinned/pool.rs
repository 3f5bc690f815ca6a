//! The pool, as its users see it.

use std::fmt;
use std::sync::Arc;

use super::block::{Anchor, Piece, PinnedBlock, Range};
use super::budget::Budget;
use super::growth::{GRANULE_BYTES, Request};
use super::options::PinnedOptions;
use super::shared::Shared;
use super::shelf::{SHELVES, Shelves};
use super::slab::Kind;
use super::stats::PinnedStats;
use crate::base::{Error, Result};
use crate::conf::Conf;
use crate::device::Device;

/// A pool of pinned host memory for one device. Clones share one; its memory lives as long as any
/// clone or block of it. All methods may be called from any thread.
///
/// A block that nothing uses any more is kept at hand for the thread that dropped it, so asking
/// for the same size again takes neither the system nor the heap. Other sizes and other threads
/// get it before more is pinned.
///
/// ```
/// use riverbed::{device::Device, pinned::PinnedPool};
///
/// let device = Device::open("host:vram=2MiB")?;
/// let pool = PinnedPool::new(&device, &"pinned_limit_mb:16".parse()?);
/// let block = pool.alloc(5_000_000)?;
/// assert_eq!(block.len(), 5_000_000);
/// assert!(pool.alloc(12 << 20).is_err(), "the budget is hard");
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Clone)]
pub struct PinnedPool(Arc<[Arc<Anchor>; SHELVES]>);

impl PinnedPool {
    /// An empty pool for `device`, with the `pinned_*` settings of `conf`.
    #[must_use]
    pub fn new(device: &Device, conf: &Conf) -> Self {
        Self::with_options(device, conf, PinnedOptions::default())
    }

    /// The same with options that are no keys of the conf.
    #[must_use]
    pub fn with_options(device: &Device, conf: &Conf, options: PinnedOptions) -> Self {
        let shared = Shared::new(device, conf, options);
        Self(Arc::new(std::array::from_fn(|_| Arc::new(Anchor(Arc::clone(&shared))))))
    }

    /// A block of exactly `len` bytes, aligned to 4096. Pins more memory only if nothing free
    /// holds it, which takes the system a while; never waits for a stream. Where the system
    /// refuses to pin more the block is pageable: see [`PinnedBlock::is_pinned`].
    ///
    /// # Errors
    /// [`Error::PinnedBudget`] when the budget is spent; a system that has no memory at all.
    #[inline]
    pub fn alloc(&self, len: usize) -> Result<PinnedBlock> {
        let bytes = whole_granules(len)?;
        let anchor = &self.0[Shelves::place()];
        match anchor.0.shelves.take(bytes) {
            Some(range) => Ok(block(anchor, range, len)),
            None => self.alloc_slowly(bytes, len, Kind::Pinned),
        }
    }

    /// As [`alloc`](Self::alloc), for whoever cannot do with less than pinned memory: the window
    /// that pageable memory is copied through.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc), and where the system refuses to pin more.
    pub fn alloc_pinned(&self, len: usize) -> Result<PinnedBlock> {
        let block = self.alloc(len)?;
        if block.is_pinned() {
            return Ok(block);
        }
        Err(Error::Unsupported {
            what: format!("pinning {len} bytes of host memory"),
            by: "the system".into(),
            way_out: "ask for less, or raise what it lets be pinned ('ulimit -l', the \
                      container's limits)"
                .into(),
        })
    }

    /// As [`alloc`](Self::alloc), of write-combined memory where the driver has such: for
    /// memory the host writes once, in order, to be copied to the device. Reading it on the
    /// host is slower than anything, some fifty times.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn alloc_write_combined(&self, len: usize) -> Result<PinnedBlock> {
        self.alloc_slowly(whole_granules(len)?, len, Kind::WriteCombined)
    }

    #[cold]
    fn alloc_slowly(&self, bytes: u64, len: usize, kind: Kind) -> Result<PinnedBlock> {
        let anchor = &self.0[Shelves::place()];
        let own_slab = bytes > anchor.0.sizes.max_cached_bytes;
        let request = Request { bytes, requested_bytes: len as u64, kind, own_slab };
        Ok(block(anchor, anchor.0.take(request)?, len))
    }

    /// The budget in force.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.shared().budget
    }

    /// The device it pins for.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.shared().device
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> PinnedStats {
        self.shared().stats()
    }

    /// Gives every slab that is wholly free to the system; gives the bytes. The driver call may
    /// take a while. Does nothing during a capture.
    pub fn trim(&self) -> u64 {
        self.shared().trim()
    }

    /// Takes back what copies are done with, and gives slabs to the system that were free for
    /// long (see [`PinnedOptions::idle_trim`]), or all free ones if memory is short; gives the
    /// bytes. For a quiet moment, such as the end of a step: the driver may take a while. The
    /// pool does the same on its own when it grows, and a thread does with
    /// `pinned_use_background_threads`.
    pub fn maintain(&self) -> u64 {
        self.shared().maintain()
    }

    /// Proves the bookkeeping.
    ///
    /// # Errors
    /// The first violation, in words: a bug in this crate.
    pub fn check(&self) -> Result<(), String> {
        self.shared().check()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0[0].0
    }
}

impl fmt::Debug for PinnedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedPool").field(self.shared()).finish()
    }
}

#[inline]
fn block(anchor: &Arc<Anchor>, range: Range, len: usize) -> PinnedBlock {
    PinnedBlock::new(Piece { anchor: Arc::clone(anchor), range }, len)
}

#[inline]
fn whole_granules(len: usize) -> Result<u64> {
    (len.max(1) as u64)
        .checked_next_multiple_of(GRANULE_BYTES)
        .ok_or_else(|| Error::invalid("length", len, "it overflows"))
}
