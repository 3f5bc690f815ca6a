//! A pool of the driver and what a conf says of it: what `policy:mempool` and the process pool
//! share.
#![allow(unsafe_code)]

use crate::conf::Conf;
use crate::device::{Device, DeviceResult, Driver, PoolAttribute, PoolId};

/// A pool of the driver; given up when dropped. Blocks still alive stay good.
#[derive(Debug)]
pub(crate) struct OwnedPool {
    device: Device,
    id: PoolId,
}

impl OwnedPool {
    /// A pool that holds at most `max_bytes` (0 is no cap), as `conf` says.
    pub(crate) fn new(device: &Device, conf: &Conf, max_bytes: u64) -> DeviceResult<Self> {
        let id = device.driver().create_pool(max_bytes)?;
        let pool = Self { device: device.clone(), id };
        let threshold_bytes = conf.mempool_release_threshold_bytes.unwrap_or(u64::MAX);
        pool.set(PoolAttribute::ReleaseThreshold, threshold_bytes)?;
        let flags = [
            (PoolAttribute::FollowEventDependencies, conf.mempool_follow_event_dependencies),
            (PoolAttribute::AllowOpportunistic, conf.mempool_allow_opportunistic),
            (PoolAttribute::AllowInternalDependencies, conf.mempool_allow_internal_dependencies),
        ];
        // Drivers begin with all of them on.
        for (flag, _) in flags.into_iter().filter(|(_, on)| !on) {
            pool.set(flag, 0)?;
        }
        Ok(pool)
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn id(&self) -> PoolId {
        self.id
    }

    pub(crate) fn get(&self, attribute: PoolAttribute) -> DeviceResult<u64> {
        self.driver().pool_get(self.id, attribute)
    }

    pub(crate) fn set(&self, attribute: PoolAttribute, value: u64) -> DeviceResult<()> {
        self.driver().pool_set(self.id, attribute, value)
    }

    /// Gives unused memory back to the device while at least `keep_bytes` stay.
    pub(crate) fn trim(&self, keep_bytes: u64) -> DeviceResult<()> {
        self.driver().pool_trim(self.id, keep_bytes)
    }

    fn driver(&self) -> &dyn Driver {
        self.device.driver()
    }
}

impl Drop for OwnedPool {
    fn drop(&mut self) {
        // Nobody will ask again, so what is refused is tried once more at once.
        for _ in 0..2 {
            // SAFETY: this is the only owner of the handle, and it is going. Blocks still alive
            // stay good.
            match unsafe { self.device.driver().destroy_pool(self.id) } {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "the driver's pool was not given up"),
            }
        }
    }
}
