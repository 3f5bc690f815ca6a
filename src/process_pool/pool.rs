//! [`ProcessPool`]: the pool while it is installed.

use std::sync::Arc;

use super::installed::Installed;
use super::stats::ProcessPoolStats;
use crate::base::{Error, Result};
use crate::conf::Conf;
use crate::device::{Device, PoolAttribute, PoolId};
use crate::pool::OwnedPool;

/// The pool the process draws from, until this is dropped: that uninstalls it as
/// [`uninstall`](Self::uninstall) does, logs what fails, and neither blocks nor panics. A program
/// that wants it for good calls [`keep`](Self::keep). All calls may come from any thread.
///
/// Others in the process may get hold of the pool (`cuDeviceGetMemPool`) and trim it or set its
/// threshold and flags: [`statistics`](Self::statistics) tells what is in force.
#[derive(Debug)]
#[must_use = "dropping it uninstalls the pool; call `keep` to have it for good"]
pub struct ProcessPool {
    device: Device,
    conf: Conf,
    limit_bytes: Option<u64>,
    /// The default pool: nothing else is displaced.
    previous: PoolId,
    /// Shared with nobody, unless it has to outlive this.
    pool: Arc<OwnedPool>,
    installed: bool,
}

/// What was current when a pool was uninstalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Uninstalled {
    /// The pool itself: the one before it is current again.
    Restored,
    /// Somebody else's pool, which stays current.
    Displaced,
}

impl ProcessPool {
    /// Makes the pool that `conf` asks for, of at most `max_bytes` (0 is no cap), current.
    pub(super) fn install(device: &Device, conf: Conf, max_bytes: u64) -> Result<Self> {
        let mut installed = Installed::lock();
        let driver = device.driver();
        let previous = driver.current_pool()?;
        if previous != driver.default_pool()? {
            return Err(taken(device, installed.has(device, previous)));
        }
        let pool = OwnedPool::new(device, &conf, max_bytes)?;
        driver.set_current_pool(pool.id())?;
        installed.enter(device, pool.id());
        let limit_bytes = Some(max_bytes).filter(|&bytes| bytes > 0);
        let (device, pool) = (device.clone(), Arc::new(pool));
        let this = Self { device, conf, limit_bytes, previous, pool, installed: true };
        let unread = this.unread_keys();
        if !unread.is_empty() {
            tracing::warn!(keys = unread.join(", "), "the process pool does not read these keys");
        }
        Ok(this)
    }

    /// The device it is installed on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The conf it was made from, the environment included.
    #[must_use]
    pub fn conf(&self) -> &Conf {
        &self.conf
    }

    /// The keys of the conf that are set and have no effect here.
    #[must_use]
    pub fn unread_keys(&self) -> Vec<&'static str> {
        self.conf.unread_by_process_pool()
    }

    /// The driver's handle (`CUmemoryPool`, `hipMemPool_t`), valid until the pool is uninstalled.
    #[must_use]
    pub fn id(&self) -> PoolId {
        self.pool.id()
    }

    /// Whether the process draws from it now; false once somebody has set another pool.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_current(&self) -> Result<bool> {
        Ok(self.device.driver().current_pool()? == self.id())
    }

    /// What it holds, and its settings as they are now. Asks the driver nine questions.
    ///
    /// # Errors
    /// What the driver says.
    pub fn statistics(&self) -> Result<ProcessPoolStats> {
        let is_current = self.is_current()?;
        Ok(ProcessPoolStats::of(&self.pool, self.limit_bytes, is_current)?)
    }

    /// Gives unused memory back to the device while at least `keep_bytes` stay. Memory whose
    /// free no synchronize has seen is not unused yet.
    ///
    /// # Errors
    /// What the driver says.
    pub fn trim(&self, keep_bytes: u64) -> Result<()> {
        Ok(self.pool.trim(keep_bytes)?)
    }

    /// Lets the high marks begin again at what is there now.
    ///
    /// # Errors
    /// What the driver says; the other mark may be reset then.
    pub fn reset_peaks(&self) -> Result<()> {
        self.pool.set(PoolAttribute::ReservedHigh, 0)?;
        Ok(self.pool.set(PoolAttribute::UsedHigh, 0)?)
    }

    /// Leaves the pool installed until the process ends.
    pub fn keep(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    /// Makes the default pool current again, unless somebody has set another since, and gives
    /// this one up. Memory still in use stays good and is freed as before; the driver keeps the
    /// pool for it until the last of it was freed. Whoever has asked the driver for the current
    /// pool and kept the handle must be done with it, or the pool be [kept](Self::keep).
    ///
    /// # Errors
    /// What the driver says. It is then tried once more; if that fails too, the pool stays
    /// installed, and a warning says so.
    pub fn uninstall(mut self) -> Result<Uninstalled> {
        self.give_up()
    }

    fn give_up(&mut self) -> Result<Uninstalled> {
        let mut installed = Installed::lock();
        let driver = self.device.driver();
        let outcome = match self.is_current()? {
            true => {
                driver.set_current_pool(self.previous)?;
                Uninstalled::Restored
            }
            false => Uninstalled::Displaced,
        };
        installed.leave(&self.device, self.id());
        self.installed = false;
        Ok(outcome)
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        if self.installed
            && let Err(error) = self.give_up()
        {
            tracing::warn!(%error, "the process pool stays installed");
            // Others draw from it: it must not go.
            std::mem::forget(Arc::clone(&self.pool));
        }
    }
}

fn taken(device: &Device, ours: bool) -> Error {
    let (owner, way_out) = match ours {
        true => ("installed by this crate", "uninstall that one first"),
        false => (
            "that somebody else has set",
            "install before that, or have the default pool set again",
        ),
    };
    Error::PoolTaken {
        device: device.info().name.clone(),
        owner: owner.into(),
        way_out: way_out.into(),
    }
}
