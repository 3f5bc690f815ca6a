//! The driver's stream-ordered pools, our own and the process's.

use super::abi::PoolProperties;
use super::calls::Calls;
use super::driver::GpuDriver;
use super::symbols::Refusal;
use super::vendor::Vendor;
use crate::base::DeviceError;
use crate::device::calls::Call;
use crate::device::contract::{DevicePtr, DeviceResult, PoolAttribute, PoolId, StreamId};

impl<V: Vendor> GpuDriver<V> {
    /// [`Driver::create_pool`](crate::device::Driver::create_pool).
    pub(super) fn make_pool(&self, max_bytes: u64) -> DeviceResult<PoolId> {
        if max_bytes > 0 && !self.info.pool_caps {
            return self.refused(Call::CreatePool, DeviceError::NOT_SUPPORTED);
        }
        let ordinal = self.card.context.device;
        let properties = PoolProperties::on_device(ordinal, max_bytes as usize);
        let mut pool = 0;
        // SAFETY: pointers to live values.
        self.run_pool(Call::CreatePool, |calls| unsafe {
            calls.pool_create(&raw mut pool, &raw const properties)
        })?;
        // SAFETY: the pool was made just now and lives until `destroy_pool`.
        Ok(unsafe { PoolId::from_raw(pool) })
    }

    /// [`Driver::destroy_pool`](crate::device::Driver::destroy_pool).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn give_pool_up(&self, pool: PoolId) -> DeviceResult<()> {
        // SAFETY: the caller's.
        self.run_pool(Call::DestroyPool, |calls| unsafe { calls.pool_destroy(pool.raw()) })
    }

    /// [`Driver::pool_alloc`](crate::device::Driver::pool_alloc).
    pub(super) fn take_from_pool(
        &self,
        pool: PoolId,
        bytes: u64,
        stream: StreamId,
    ) -> DeviceResult<DevicePtr> {
        if bytes == 0 {
            return self.refused(Call::PoolAlloc, DeviceError::INVALID_VALUE);
        }
        self.made.count(Call::PoolAlloc);
        let mut at = 0;
        let taken = match self.info.memory_pools {
            // SAFETY: the pool and the stream are live, the pointer is to a live number. It may
            // be part of a graph.
            true => self.card.inside(|calls| unsafe {
                calls.pool_alloc(&raw mut at, bytes as usize, pool.raw(), stream.raw())
            }),
            false => Err(Refusal::own("pools", DeviceError::NOT_SUPPORTED)),
        };
        taken.map_err(|refusal| self.error(Call::PoolAlloc, refusal))?;
        Ok(DevicePtr(at))
    }

    /// [`Driver::pool_free`](crate::device::Driver::pool_free).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn give_to_pool(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        // SAFETY: the caller's.
        self.run(Call::PoolFree, |calls| unsafe { calls.pool_free(ptr.0, stream.raw()) })
    }

    /// [`Driver::pool_trim`](crate::device::Driver::pool_trim).
    pub(super) fn trim_pool(&self, pool: PoolId, keep_bytes: u64) -> DeviceResult<()> {
        // SAFETY: the pool is live.
        self.run_pool(Call::PoolTrim, |calls| unsafe {
            calls.pool_trim(pool.raw(), keep_bytes as usize)
        })
    }

    /// [`Driver::pool_get`](crate::device::Driver::pool_get).
    pub(super) fn ask_pool(&self, pool: PoolId, attribute: PoolAttribute) -> DeviceResult<u64> {
        let mut value = 0_u64;
        // SAFETY: the pool is live; the driver writes an int or 64 bits, for which there is
        // room, and an int's bytes are the low ones.
        self.run_pool(Call::PoolGet, |calls| unsafe {
            calls.pool_get(pool.raw(), number(attribute), (&raw mut value).cast())
        })?;
        Ok(value)
    }

    /// [`Driver::pool_set`](crate::device::Driver::pool_set).
    pub(super) fn tell_pool(
        &self,
        pool: PoolId,
        attribute: PoolAttribute,
        value: u64,
    ) -> DeviceResult<()> {
        let flag = matches!(
            attribute,
            PoolAttribute::FollowEventDependencies
                | PoolAttribute::AllowOpportunistic
                | PoolAttribute::AllowInternalDependencies
        );
        if flag && value > 1 {
            return self.refused(Call::PoolSet, DeviceError::INVALID_VALUE);
        }
        let mut value = value;
        // SAFETY: the pool is live; the driver reads an int, whose bytes are the low ones, or
        // 64 bits.
        self.run_pool(Call::PoolSet, |calls| unsafe {
            calls.pool_set(pool.raw(), number(attribute), (&raw mut value).cast())
        })
    }

    /// [`Driver::default_pool`](crate::device::Driver::default_pool).
    pub(super) fn find_default_pool(&self) -> DeviceResult<PoolId> {
        let mut pool = 0;
        // SAFETY: the pointer is to a live handle.
        self.run_process_pool(Call::DefaultPool, |calls| unsafe {
            calls.device_default_pool(&raw mut pool, self.card.context.device)
        })?;
        // SAFETY: the default pool lives as long as the device.
        Ok(unsafe { PoolId::from_raw(pool) })
    }

    /// [`Driver::current_pool`](crate::device::Driver::current_pool).
    pub(super) fn find_current_pool(&self) -> DeviceResult<PoolId> {
        let mut pool = 0;
        // SAFETY: the pointer is to a live handle.
        self.run_process_pool(Call::CurrentPool, |calls| unsafe {
            calls.device_pool(&raw mut pool, self.card.context.device)
        })?;
        // SAFETY: a pool that is given up is current no more.
        Ok(unsafe { PoolId::from_raw(pool) })
    }

    /// [`Driver::set_current_pool`](crate::device::Driver::set_current_pool).
    pub(super) fn make_pool_current(&self, pool: PoolId) -> DeviceResult<()> {
        // SAFETY: the pool is live.
        self.run_process_pool(Call::SetCurrentPool, |calls| unsafe {
            calls.device_set_pool(self.card.context.device, pool.raw())
        })
    }

    /// A call of pools.
    fn run_pool<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        match self.info.memory_pools {
            true => self.run_apart(call, work),
            false => self.refused(call, DeviceError::NOT_SUPPORTED),
        }
    }

    /// A call of the process's pool.
    fn run_process_pool<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        match self.info.process_pool {
            true => self.run_apart(call, work),
            false => self.refused(call, DeviceError::NOT_SUPPORTED),
        }
    }
}

/// The number of an attribute (`CUmemPool_attribute`, `hipMemPoolAttr`).
fn number(attribute: PoolAttribute) -> u32 {
    match attribute {
        PoolAttribute::FollowEventDependencies => 1,
        PoolAttribute::AllowOpportunistic => 2,
        PoolAttribute::AllowInternalDependencies => 3,
        PoolAttribute::ReleaseThreshold => 4,
        PoolAttribute::ReservedCurrent => 5,
        PoolAttribute::ReservedHigh => 6,
        PoolAttribute::UsedCurrent => 7,
        PoolAttribute::UsedHigh => 8,
    }
}
