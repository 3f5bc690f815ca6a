//! The driver's stream-ordered pool under an allocator with `policy:mempool`. The limit is the
//! pool's own cap, so that what the driver keeps for later counts too.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use super::owned_pool::OwnedPool;
use super::stats::{PoolStat, Stat, Stats};
use crate::base::{Error, Result, format_bytes, lock};
use crate::conf::{Conf, MEMPOOL};
use crate::device::{Device, DevicePtr, DeviceResult, PoolAttribute, Stream};
use crate::ledger::Totals;

/// A pool of the driver, with what has to be remembered of it.
#[derive(Debug)]
pub(super) struct DriverPool {
    pool: OwnedPool,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// The heap of each live block, by its first byte. Not in the page table: many blocks share
    /// a page, and come and go with every request.
    heaps: HashMap<u64, u32>,
    /// Heaps whose streams have frees that nobody waited for: trimming passes their memory over.
    freed_on: BTreeSet<u32>,
    /// What the driver said last.
    reserved: Reserved,
}

/// Held from the device, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reserved {
    current: u64,
    high: u64,
}

impl DriverPool {
    /// The pool for an allocator of `conf`, if that asks for one.
    ///
    /// # Errors
    /// The device has no pools, or none that keeps to a limit; what the driver says.
    pub(super) fn of_conf(
        device: &Device,
        conf: &Conf,
        limit_bytes: Option<u64>,
    ) -> Result<Option<Self>> {
        if conf.policy() != MEMPOOL {
            return Ok(None);
        }
        let info = device.info();
        let refused = |what: String| {
            let way_out = "choose policy:caching (in PyTorch's words backend:native)".into();
            Err(Error::Unsupported { what, by: info.name.clone(), way_out })
        };
        if !info.memory_pools {
            return refused("policy:mempool (a stream-ordered pool of the driver)".into());
        }
        if let Some(limit) = limit_bytes.filter(|_| !info.pool_caps) {
            let limit = format_bytes(limit);
            return refused(format!(
                "a limit of {limit} on the driver's pool (policy:mempool), which keeps to none \
                 before CUDA 12.2 and HIP 6.2,"
            ));
        }
        let max_bytes = limit_bytes.map_or(0, |limit| {
            // 0 would be no cap; what a limit below one page refuses never reaches the pool.
            let pages = limit / info.granularity_bytes;
            pages.max(1) * info.granularity_bytes
        });
        let pool = OwnedPool::new(device, conf, max_bytes)?;
        Ok(Some(Self { pool, books: Mutex::default() }))
    }

    /// Takes `bytes` for work enqueued on `stream` from now on. Never blocks.
    pub(super) fn alloc(&self, bytes: u64, stream: &Stream) -> DeviceResult<DevicePtr> {
        self.pool.device().driver().pool_alloc(self.pool.id(), bytes, stream.id())
    }

    /// Gives what no stream uses any more back to the device.
    pub(super) fn trim(&self) -> DeviceResult<()> {
        self.pool.trim(0)
    }

    /// Notes a block of a heap.
    pub(super) fn enter(&self, address: u64, heap: u32) {
        lock(&self.books).heaps.insert(address, heap);
    }

    /// Forgets the block at `address`; before the driver may give the address out again.
    pub(super) fn leave(&self, address: u64) {
        lock(&self.books).heaps.remove(&address);
    }

    /// The heap of the block that begins at `address`.
    pub(super) fn heap_at(&self, address: u64) -> Option<u32> {
        lock(&self.books).heaps.get(&address).copied()
    }

    /// Something was freed on the stream of `heap`.
    pub(super) fn note_freed_on(&self, heap: u32) {
        lock(&self.books).freed_on.insert(heap);
    }

    /// The heap's stream is waited for now; false if nothing was freed on it since the last time.
    pub(super) fn take_freed_on(&self, heap: u32) -> bool {
        lock(&self.books).freed_on.remove(&heap)
    }

    /// The heaps on whose streams something was freed since these were waited for.
    pub(super) fn freed_on(&self) -> Vec<u32> {
        lock(&self.books).freed_on.iter().copied().collect()
    }

    /// Held from the device, in bytes.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.reserved().current
    }

    /// Lets the peak begin again at what is held now.
    pub(super) fn reset_peak(&self) {
        let reset = self.pool.set(PoolAttribute::ReservedHigh, 0);
        if let Err(error) = reset {
            tracing::warn!(%error, "the peak of the driver's pool was not reset");
        }
    }

    /// Replaces what counts segments by what the driver tells of its pool.
    pub(super) fn describe(&self, stats: &mut Stats) {
        let Reserved { current, high } = self.reserved();
        let stat = Stat { current, peak: high.max(current), allocated: current, freed: 0 };
        stats.reserved_bytes =
            PoolStat { all: stat, small_pool: Stat::default(), large_pool: stat };
        stats.segment = PoolStat::default();
        stats.oversize_segments = Stat::default();
        (stats.num_device_alloc, stats.num_device_free) = (0, 0);
    }

    /// Proves that the driver counts what the ledgers do, within the limit.
    pub(super) fn check(&self, totals: &Totals, limit_bytes: Option<u64>) -> Result<(), String> {
        let get = |attribute| self.pool.get(attribute);
        // While all heaps stand still nothing is given back; what is just taken only adds.
        let (Ok(used), Ok(reserved)) =
            (get(PoolAttribute::UsedCurrent), get(PoolAttribute::ReservedCurrent))
        else {
            return Ok(()); // A driver that does not answer proves nothing.
        };
        if used < totals.reserved_bytes || limit_bytes.is_some_and(|limit| reserved > limit) {
            return Err(format!(
                "the driver's pool holds {reserved} bytes, {used} in use, under a limit of \
                 {limit_bytes:?}; the ledgers say {totals:?}"
            ));
        }
        Ok(())
    }

    /// What is held, or what was when the driver answered last.
    fn reserved(&self) -> Reserved {
        let get = |attribute| self.pool.get(attribute);
        let asked = get(PoolAttribute::ReservedCurrent)
            .and_then(|current| Ok(Reserved { current, high: get(PoolAttribute::ReservedHigh)? }));
        let mut books = lock(&self.books);
        match asked {
            Ok(reserved) => books.reserved = reserved,
            Err(error) => tracing::warn!(%error, "the driver does not tell what its pool holds"),
        }
        books.reserved
    }
}
