//! The pool: slabs, the blocks carved from them, and the budget.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::block::PinnedBlock;
use super::budget::Budget;
use crate::base::{Error, MIB, Result, align_up, lock};
use crate::conf::Conf;
use crate::device::{Device, Stream, reap};
use crate::fence::{EventPool, RetireQueue};
use crate::ledger::{BlockId, Ledger, NewSegment};

/// Blocks are multiples of this: the alignment direct disk reads need.
const GRANULE_BYTES: u64 = 4096;
/// Small requests share slabs of this size; at least four fit, so that little is wasted.
const SHARED_SLAB_BYTES: u64 = 2 * MIB;
/// Larger requests get a slab of their own size: half-used slabs would spend the budget.
const SMALL_REQUEST_BYTES: u64 = SHARED_SLAB_BYTES / 4;

/// A pool of pinned host memory for one device. Clones share one; it lives as long as any clone
/// or block of it. All methods may be called from any thread.
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
#[derive(Debug, Clone)]
pub struct PinnedPool(Arc<Shared>);

/// A snapshot of a pool's counters, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PinnedStats {
    /// Pinned now: slabs.
    pub reserved_bytes: u64,
    /// The most that was pinned.
    pub reserved_peak_bytes: u64,
    /// Handed out now.
    pub active_bytes: u64,
    /// Freed, but some copy may still use it.
    pub retired_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    device: Device,
    budget: Budget,
    /// Slabs are at least this large, if the conf says so.
    slab_bytes: u64,
    events: EventPool,
    core: Mutex<Core>,
    /// Frees that found the lock taken: whoever holds it next carries them out. Held for a push
    /// or a swap only, so that dropping a block never waits.
    mailbox: Mutex<Vec<(BlockId, Vec<Stream>)>>,
}

#[derive(Debug, Default)]
struct Core {
    ledger: Ledger,
    retired: RetireQueue<BlockId>,
    peak_bytes: u64,
}

impl PinnedPool {
    /// An empty pool for `device`, with the `pinned_*` settings of `conf`.
    #[must_use]
    pub fn new(device: &Device, conf: &Conf) -> Self {
        conf.warn_of_unmet_pinning();
        Self(Arc::new(Shared {
            device: device.clone(),
            budget: Budget::from_conf(conf),
            slab_bytes: conf.pinned_reserve_segment_size_bytes.unwrap_or(0),
            events: EventPool::new(device),
            core: Mutex::default(),
            mailbox: Mutex::default(),
        }))
    }

    /// A block of exactly `len` bytes, aligned to 4096. Pins more memory only if nothing free
    /// holds it; never waits for a stream.
    ///
    /// # Errors
    /// [`Error::PinnedBudget`] when the budget is spent; what the driver says.
    pub fn alloc(&self, len: usize) -> Result<PinnedBlock> {
        let (id, ptr) = match align_up(len.max(1) as u64, GRANULE_BYTES) {
            Some(bytes) => self.0.take(bytes, len as u64)?,
            None => return Err(Error::invalid("length", len, "it overflows")),
        };
        Ok(PinnedBlock::new(self.clone(), id, ptr, len))
    }

    /// The budget in force.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// The device it pins for.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> PinnedStats {
        let core = self.0.enter();
        let totals = core.ledger.totals();
        PinnedStats {
            reserved_bytes: totals.reserved_bytes,
            reserved_peak_bytes: core.peak_bytes,
            active_bytes: totals.active_bytes,
            retired_bytes: totals.retired_bytes,
        }
    }

    /// Unpins every slab that is wholly free; gives the bytes unpinned. The driver call may
    /// take a while.
    pub fn trim(&self) -> u64 {
        let mut core = self.0.enter();
        let before = core.ledger.totals().reserved_bytes;
        self.0.unpin_free(&mut core);
        before - core.ledger.totals().reserved_bytes
    }

    /// Proves the bookkeeping.
    ///
    /// # Errors
    /// The first violation, in words: a bug in this crate.
    pub fn check(&self) -> Result<(), String> {
        self.0.enter().ledger.check()
    }

    /// Takes a block back without ever waiting.
    pub(super) fn free_block(&self, id: BlockId, uses: Vec<Stream>) {
        lock(&self.0.mailbox).push((id, uses));
        let mut core = match self.0.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.0.settle(&mut core);
    }
}

impl Shared {
    fn take(&self, bytes: u64, requested_bytes: u64) -> Result<(BlockId, NonNull<u8>)> {
        let mut core = self.enter();
        let found = core.ledger.best_fit(0, bytes);
        let block = match found {
            Some(block) => block,
            None => self.grow(&mut core, bytes)?,
        };
        core.ledger.take(block, bytes, requested_bytes);
        NonNull::new(core.ledger[block].address as *mut u8)
            .map(|start| (block, start))
            .ok_or_else(|| Error::invalid("pinned address", 0, "the driver gave a null slab"))
    }

    /// Pins a slab for `bytes`: shared by small requests, exact for others.
    fn grow(&self, core: &mut Core, bytes: u64) -> Result<BlockId> {
        let room =
            |core: &Core| self.budget.bytes.saturating_sub(core.ledger.totals().reserved_bytes);
        if bytes > room(core) {
            self.unpin_free(core);
        }
        if bytes > room(core) {
            return Err(Error::PinnedBudget {
                requested_bytes: bytes,
                reserved_bytes: core.ledger.totals().reserved_bytes,
                budget_bytes: self.budget.bytes,
            });
        }
        let own = if bytes <= SMALL_REQUEST_BYTES { SHARED_SLAB_BYTES } else { bytes };
        let wanted = own.max(self.slab_bytes);
        let slab_bytes = wanted.min(room(core) / GRANULE_BYTES * GRANULE_BYTES);
        let start = self.device.driver().alloc_pinned(slab_bytes)?;
        let address = start.as_ptr() as u64;
        let slab = NewSegment { address, bytes: slab_bytes, class: 0, stream: 0, serial: 0 };
        let block = core.ledger.add_segment(slab, 0);
        core.peak_bytes = core.peak_bytes.max(core.ledger.totals().reserved_bytes);
        Ok(block)
    }

    /// The lock, with everything done that others left to be done.
    fn enter(&self) -> std::sync::MutexGuard<'_, Core> {
        let mut core = lock(&self.core);
        self.settle(&mut core);
        core
    }

    /// Takes back what was dropped, and makes free what copies are done with.
    fn settle(&self, core: &mut Core) {
        let mut free = Vec::new();
        for (id, uses) in std::mem::take(&mut *lock(&self.mailbox)) {
            if uses.is_empty() {
                free.push(id);
            } else {
                core.ledger.retire(id);
                core.retired.retire(id, &uses, &self.events);
            }
        }
        core.retired.poll(&self.events, |id| free.push(id));
        for id in free {
            core.ledger.give_back(id, 0);
        }
    }

    /// Takes every wholly free slab out of the ledger and gives it to the driver.
    fn unpin_free(&self, core: &mut Core) {
        let whole: Vec<_> = core.ledger.releasable(0).map(|id| core.ledger[id].segment).collect();
        for segment in whole {
            if let Some(slab) = core.ledger.remove_segment(segment) {
                // SAFETY: the slab came from `alloc_pinned` and was wholly free: every block of it
                // was dropped and every copy that used one is done.
                unsafe { free_slab(&self.device, slab.address) };
            }
        }
    }
}

/// Gives a slab back to the driver; a refusal is logged and leaks it.
///
/// # Safety
/// `address` is a slab from `alloc_pinned` that nothing uses any more.
unsafe fn free_slab(device: &Device, address: u64) {
    let Some(start) = NonNull::new(address as *mut u8) else { return };
    // SAFETY: by this function's own contract.
    if let Err(error) = unsafe { device.driver().free_pinned(start) } {
        tracing::warn!(%error, "the driver did not take a pinned slab back");
    }
}

impl Drop for Shared {
    /// Hands the slabs to the reaper, which waits for the copies that still use them.
    fn drop(&mut self) {
        let mailbox =
            std::mem::take(self.mailbox.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut core = std::mem::take(self.core.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (id, uses) in mailbox {
            core.ledger.retire(id);
            core.retired.retire(id, &uses, &self.events);
        }
        let (waiting, pending) = core.retired.take_waiting();
        let device = self.device.clone();
        reap(pending, move |reached| {
            if reached.is_err() {
                return;
            }
            for id in waiting {
                core.ledger.give_back(id, 0);
            }
            for id in core.ledger.releasable(0) {
                // SAFETY: as in `unpin_free`: every block was dropped, every copy is done.
                unsafe { free_slab(&device, core.ledger[id].address) };
            }
        });
    }
}
