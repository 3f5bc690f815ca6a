//! Stream-ordered pools.
#![allow(unsafe_code)]

use super::{Found, Lab};
use crate::base::lock;
use crate::device::{DevicePtr, DeviceResult, PoolAttribute, PoolId, Stream};
use crate::selftest::finding::{Finding, ensure};

impl Lab {
    /// Makes a pool that holds at most `max_bytes`; 0 is no cap.
    pub(in crate::selftest) fn pool(&self, max_bytes: u64) -> Found<PoolId> {
        let pool = self.driver().create_pool(max_bytes)?;
        lock(&self.held).pools.push(pool);
        Ok(pool)
    }

    /// Takes memory from a pool.
    pub(in crate::selftest) fn pool_alloc(
        &self,
        pool: PoolId,
        bytes: u64,
        stream: &Stream,
    ) -> Found<DevicePtr> {
        let ptr = self.driver().pool_alloc(pool, bytes, stream.id())?;
        let mut held = lock(&self.held);
        held.pooled.push(ptr);
        held.usable.add(ptr.0, bytes);
        Ok(ptr)
    }

    /// Gives memory back to its pool, once `stream` gets here.
    pub(in crate::selftest) fn pool_free(&self, ptr: DevicePtr, stream: &Stream) -> Found {
        // SAFETY: the check orders it after every use.
        self.leave_pool(ptr, || unsafe { self.driver().pool_free(ptr, stream.id()) })
    }

    /// Gives memory of a pool back the plain way, when nothing in flight touches it.
    pub(in crate::selftest) fn pool_free_now(&self, ptr: DevicePtr) -> Found {
        // SAFETY: the check synchronized what touches it.
        self.leave_pool(ptr, || unsafe { self.driver().free(ptr) })
    }

    /// Gives a pool up, with blocks of it still in use.
    pub(in crate::selftest) fn destroy_pool(&self, pool: PoolId) -> Found {
        ensure!(lock(&self.held).pools.contains(&pool), "{pool:?} is not held");
        // SAFETY: not destroyed yet, and off the list with it.
        unsafe { self.driver().destroy_pool(pool) }?;
        lock(&self.held).pools.retain(|&other| other != pool);
        Ok(())
    }

    pub(in crate::selftest) fn pool_get(&self, pool: PoolId, what: PoolAttribute) -> Found<u64> {
        Ok(self.driver().pool_get(pool, what)?)
    }

    pub(in crate::selftest) fn pool_set(
        &self,
        pool: PoolId,
        what: PoolAttribute,
        value: u64,
    ) -> Found {
        Ok(self.driver().pool_set(pool, what, value)?)
    }

    pub(in crate::selftest) fn pool_trim(&self, pool: PoolId, keep_bytes: u64) -> Found {
        Ok(self.driver().pool_trim(pool, keep_bytes)?)
    }

    /// The pool the device has by itself.
    pub(in crate::selftest) fn default_pool(&self) -> Found<PoolId> {
        Ok(self.driver().default_pool()?)
    }

    /// The pool the process draws from.
    pub(in crate::selftest) fn current_pool(&self) -> Found<PoolId> {
        Ok(self.driver().current_pool()?)
    }

    /// Lets the process draw from `pool`.
    pub(in crate::selftest) fn set_current_pool(&self, pool: PoolId) -> Found {
        Ok(self.driver().set_current_pool(pool)?)
    }

    /// Takes and frees `count` blocks, one after the other, with no books beside it.
    pub(in crate::selftest) fn pool_pairs(
        &self,
        pool: PoolId,
        bytes: u64,
        stream: &Stream,
        count: u32,
    ) -> Found {
        let driver = self.driver();
        for _ in 0..count {
            let ptr = driver.pool_alloc(pool, bytes, stream.id())?;
            // SAFETY: taken just now, and nothing was enqueued on it.
            if let Err(error) = unsafe { driver.pool_free(ptr, stream.id()) } {
                lock(&self.held).pooled.push(ptr);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Frees a block that is held, from a pool, and not freed yet.
    fn leave_pool(&self, ptr: DevicePtr, free: impl FnOnce() -> DeviceResult<()>) -> Found {
        // Off the books first: another thread may get the memory at once.
        let bytes = {
            let mut held = lock(&self.held);
            let place = held.pooled.iter().position(|&other| other == ptr);
            let place = place.ok_or_else(|| Finding::new(format!("{ptr:?} is of no pool")))?;
            held.pooled.swap_remove(place);
            held.usable.remove(ptr.0)
        };
        let freed = free();
        if freed.is_err() {
            let mut held = lock(&self.held);
            held.pooled.push(ptr);
            held.usable.add(ptr.0, bytes);
        }
        Ok(freed?)
    }
}
