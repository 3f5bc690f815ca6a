//! Rank 5: the driver's own stream-ordered pool, configured by an alloc-conf string and made the
//! one that the whole process draws from. Code that knows nothing of this crate and allocates
//! with `cuMemAllocAsync` or `hipMallocAsync` then has a hard limit, keeps what it frees, and can
//! be watched.
//!
//! *Semantics*: the driver places blocks; of a conf the limits count and the options of the
//! driver's pools ([`HonouredBy::ProcessPool`](crate::conf::HonouredBy::ProcessPool)). Other
//! keys that are set are told of in a warning and by [`ProcessPool::unread_keys`]. A limit is
//! the cap of the pool: past it, others' allocations fail with the driver's "out of memory".
//!
//! *Invariants*: (I1) A pool that is neither the default one nor this crate's is not displaced.
//! (I2) The default pool is left as it is. (I3) A failed call leaves current what was current.
//! (I4) Installing and uninstalling within this crate take turns; the driver has no way to shut
//! others out between the question what is current and the answer.
//!
//! ```
//! use riverbed::device::Device;
//!
//! let device = Device::open("host:vram=64MiB")?;
//! let pool = riverbed::process_pool::install(&device, "limit_mb:32")?;
//! assert_eq!(pool.statistics()?.limit_bytes, Some(32 << 20));
//! pool.uninstall()?;
//! # Ok::<(), riverbed::Error>(())
//! ```

mod installed;
mod pool;
mod setup;
mod stats;

use crate::base::Result;
use crate::conf::{Conf, Pytorch};
use crate::device::Device;

pub use pool::{ProcessPool, Uninstalled};
pub use stats::{Level, ProcessPoolStats};

/// Makes a pool of the driver as `conf` says and lets everybody in this process who names no
/// pool draw from it on `device`. `RIVERBED_ALLOC_CONF` counts below the string, key by key; only
/// its choice of a policy does not. Call it before others allocate: what they have stays where
/// it is. Never blocks for the device's work.
///
/// # Errors
/// [`Error::Conf`](crate::Error::Conf) for a wrong string, one that chooses another policy than
/// `mempool`, or a limit below the device's page size;
/// [`Error::Unsupported`](crate::Error::Unsupported) where the device has no such pools, or a
/// limit is set and its pools keep to none;
/// [`Error::PoolTaken`](crate::Error::PoolTaken) when the process already draws from another
/// pool than the default one, be it one installed here (a second one is refused, whatever its
/// conf); what the driver says. Nothing has changed then.
pub fn install(device: &Device, conf: &str) -> Result<ProcessPool> {
    install_conf(device, &conf.parse()?, Pytorch::Ignore)
}

/// As [`install`], for a conf already read. Where `RIVERBED_ALLOC_CONF` is silent too, PyTorch's
/// variables count if `pytorch` says so.
///
/// # Errors
/// As [`install`]; a variable that is not a valid conf.
pub fn install_conf(device: &Device, conf: &Conf, pytorch: Pytorch) -> Result<ProcessPool> {
    let conf = conf.for_process_pool()?.over_env(pytorch)?;
    let max_bytes = setup::max_bytes(device, &conf)?;
    ProcessPool::install(device, conf, max_bytes)
}
