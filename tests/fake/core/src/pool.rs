//! Stream-ordered pools: those of the host device, whose model refuses what is out of order.

use std::sync::Arc;

use riverbed::device::{DevicePtr, PoolAttribute, PoolId};

use crate::Vendor;
use crate::device::{driver, driver_call};
use crate::entry::{call_name, misuse, misuse_of};
use crate::fake::{Fake, Kind};
use crate::mapping::AccessTo;
use crate::memory::Block;
use crate::range::{Owner, Range};
use crate::status::{
    Answer, CAPTURE_UNSUPPORTED, INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY,
};
use crate::stream::Stream;

/// A pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    gpu: usize,
    raw: PoolId,
    pub(crate) is_default: bool,
}

/// The pool attributes by their numbers, which are the same with both vendors.
const ATTRIBUTES: [PoolAttribute; 8] = [
    PoolAttribute::FollowEventDependencies,
    PoolAttribute::AllowOpportunistic,
    PoolAttribute::AllowInternalDependencies,
    PoolAttribute::ReleaseThreshold,
    PoolAttribute::ReservedCurrent,
    PoolAttribute::ReservedHigh,
    PoolAttribute::UsedCurrent,
    PoolAttribute::UsedHigh,
];

impl Fake {
    fn with_pools(&self) -> Answer {
        if self.settings.pools { Ok(()) } else { Err(NOT_SUPPORTED) }
    }

    /// Makes a pool on the device at `location` that holds at most `max_bytes`.
    pub fn create_pool(&self, kind: u32, location: (u32, i32), max_bytes: u64) -> Answer<u64> {
        self.with_pools()?;
        self.unsafe_in_capture()?;
        if kind != 1 || location.0 != 1 {
            let words = format!("allocation type {kind}, location type {}", location.0);
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        // Drivers without caps take the field for reserved bytes.
        if max_bytes != 0 && !self.settings.pool_caps {
            return Err(misuse("invalid_argument", "reserved bytes are not 0", INVALID_VALUE));
        }
        let gpu = self.gpu(location.1)?;
        self.new_pool(gpu, max_bytes, false)
    }

    fn new_pool(&self, gpu: usize, max_bytes: u64, is_default: bool) -> Answer<u64> {
        let raw = driver_call(driver(&self.host(gpu)?).create_pool(max_bytes))?;
        let mut state = self.state();
        let handle = state.number(Kind::Pool);
        state.pools.insert(handle, Pool { gpu, raw, is_default });
        Ok(handle)
    }

    fn pool(&self, handle: u64) -> Answer<Pool> {
        let state = self.state();
        if let Some(pool) = state.pools.get(&handle) {
            return Ok(*pool);
        }
        let (kind, words) = state.not_alive(Kind::Pool, handle);
        drop(state);
        Err(misuse(kind, words, INVALID_VALUE))
    }

    pub fn destroy_pool(&self, handle: u64) -> Answer {
        self.with_pools()?;
        self.unsafe_in_capture()?;
        let pool = self.pool(handle)?;
        if pool.is_default {
            return Err(misuse("invalid_argument", "the default pool stays", INVALID_VALUE));
        }
        let mut state = self.state();
        state.pools.remove(&handle);
        let gpu = &mut state.gpus[pool.gpu];
        if gpu.current_pool == handle {
            gpu.current_pool = gpu.default_pool;
        }
        drop(state);
        // SAFETY: the handle is out of the table, so that no call uses the pool again.
        driver_call(unsafe { driver(&self.host(pool.gpu)?).destroy_pool(pool.raw) })
    }

    /// The pool every device has.
    pub fn default_pool(&self, gpu: usize) -> Answer<u64> {
        self.with_pools()?;
        let known = self.state().gpus[gpu].default_pool;
        if known != 0 {
            return Ok(known);
        }
        let made = self.new_pool(gpu, 0, true)?;
        self.state().gpus[gpu].default_pool = made;
        Ok(made)
    }

    pub fn current_pool(&self, gpu: usize) -> Answer<u64> {
        match self.state().gpus[gpu].current_pool {
            0 => {}
            pool => return Ok(pool),
        }
        self.default_pool(gpu)
    }

    pub fn set_current_pool(&self, gpu: usize, handle: u64) -> Answer {
        self.with_pools()?;
        let pool = self.pool(handle)?;
        if pool.gpu != gpu {
            return Err(misuse("invalid_argument", "a pool of another device", INVALID_DEVICE));
        }
        self.state().gpus[gpu].current_pool = handle;
        Ok(())
    }

    pub fn set_pool_access(&self, handle: u64, to: &[AccessTo]) -> Answer {
        self.with_pools()?;
        self.pool(handle)?;
        for access in to {
            self.gpu(access.id)?;
        }
        Ok(())
    }

    /// An attribute, and whether it is an `int` to the caller rather than 64 bits.
    pub fn pool_attribute(attribute: u32) -> Answer<(PoolAttribute, bool)> {
        let known = (attribute as usize).checked_sub(1).and_then(|at| ATTRIBUTES.get(at));
        match known {
            Some(&known) => Ok((known, attribute <= 3)),
            None => {
                let words = format!("pool attribute {attribute}");
                Err(misuse("invalid_argument", words, INVALID_VALUE))
            }
        }
    }

    pub fn set_pool(&self, handle: u64, attribute: PoolAttribute, value: u64) -> Answer {
        self.with_pools()?;
        let pool = self.pool(handle)?;
        driver_call(driver(&self.host(pool.gpu)?).pool_set(pool.raw, attribute, value)).map_err(
            |status| misuse("invalid_argument", format!("{attribute:?} = {value}"), status),
        )
    }

    pub fn get_pool(&self, handle: u64, attribute: PoolAttribute) -> Answer<u64> {
        self.with_pools()?;
        let pool = self.pool(handle)?;
        driver_call(driver(&self.host(pool.gpu)?).pool_get(pool.raw, attribute))
    }

    pub fn trim_pool(&self, handle: u64, keep_bytes: u64) -> Answer {
        self.with_pools()?;
        let pool = self.pool(handle)?;
        driver_call(driver(&self.host(pool.gpu)?).pool_trim(pool.raw, keep_bytes))
    }

    /// Takes memory of a pool, or of the current one of the stream's device (0).
    pub fn pool_alloc(&'static self, handle: u64, bytes: u64, stream: u64) -> Answer<u64> {
        self.with_pools()?;
        if self.vendor == Vendor::Hip && !self.settings.malloc_async {
            return Err(OUT_OF_MEMORY);
        }
        let stream = self.stream_here(stream)?;
        let handle = if handle == 0 { self.current_pool(stream.gpu)? } else { handle };
        let pool = self.pool(handle)?;
        if bytes == 0 {
            return Err(misuse("invalid_argument", "an allocation of nothing", INVALID_VALUE));
        }
        if pool.gpu != stream.gpu || stream.capture().is_some() {
            let words = "a pool of another device than the stream's, or a capture";
            return Err(misuse("unsupported_by_fake", words, CAPTURE_UNSUPPORTED));
        }
        self.order_with_defaults(&stream)?;
        let at = driver_call(driver(&stream.host).pool_alloc(pool.raw, bytes, stream.raw))?.0;
        let mut state = self.state();
        let serial = state.number(Kind::Serial);
        let block = Block { gpu: pool.gpu, bytes, pool: handle, serial, signal: false };
        state.blocks.insert(at, block);
        state.freed.remove(&at);
        drop(state);
        self.enqueue(&stream, move || self.scramble(at, bytes))?;
        Ok(at)
    }

    /// Frees memory once the stream gets here.
    pub fn pool_free(&'static self, at: u64, stream: u64) -> Answer {
        if at == 0 && self.vendor == Vendor::Hip {
            return Ok(());
        }
        let stream = self.stream_here(stream)?;
        self.check_block(at)?;
        if stream.capture().is_some() {
            let words = "freeing memory in a capture that was not taken in it";
            return Err(misuse("forbidden_while_capturing", words, INVALID_VALUE));
        }
        let pool = self.state().blocks.get(&at).map_or(0, |block| block.pool);
        if pool == 0 {
            // Legal: it goes once the stream is here.
            let call = call_name();
            return self.enqueue(&stream, move || {
                if self.give_up_block(at).is_err() {
                    misuse_of(self, call, "double_free", format!("{at:#x}"));
                }
            });
        }
        self.order_with_defaults(&stream)?;
        // Out of the table first: once it is free another thread may be given the address.
        let Some(block) = self.take_block(at) else { return Err(INVALID_VALUE) };
        // SAFETY: the host device refuses what is out of order, and the block is out of the
        // table, so that no call uses it again.
        let freed = unsafe { driver(&stream.host).pool_free(DevicePtr(at), stream.raw) };
        if let Err(status) = driver_call(freed) {
            self.put_block_back(at, block);
            let words = format!("{at:#x} on an unordered stream");
            return Err(misuse("unordered_free", words, status));
        }
        stream.moved_on()
    }

    fn take_block(&self, at: u64) -> Option<Block> {
        let mut state = self.state();
        state.freed.insert(at);
        state.blocks.remove(&at)
    }

    fn put_block_back(&self, at: u64, block: Block) {
        let mut state = self.state();
        state.freed.remove(&at);
        state.blocks.insert(at, block);
    }

    /// Refuses pool memory on a stream that is not ordered after its allocation: asks the host
    /// device to read its ends on that stream.
    pub(crate) fn check_pool_order(&self, stream: &Arc<Stream>, range: &Range) -> Answer {
        if range.owner != Owner::PoolBlock || stream.capture().is_some() {
            return Ok(());
        }
        let scratch = self.state().gpus[stream.gpu].scratch as *mut u8;
        for at in [range.at, range.at + range.bytes - 1] {
            // SAFETY: the scratch byte is the fake's and never read; the host device checks the
            // source.
            let probe =
                unsafe { driver(&stream.host).copy_d2h(stream.raw, scratch, DevicePtr(at), 1) };
            driver_call(probe).map_err(|_| {
                let words = format!("{at:#x} on a stream not ordered after its allocation");
                misuse("unordered_use", words, INVALID_VALUE)
            })?;
        }
        Ok(())
    }
}
