//! What the pinned pool promises: little waste, a warm path that asks nobody, a budget that holds
//! under every failure, memory that is never shared while a copy uses it, and ways to do without
//! what the system refuses.

#[path = "../support/allocations.rs"]
mod allocations;
#[path = "../support/mod.rs"]
mod support;

mod adopted;
mod captures;
mod failures;
mod keys;
mod model;
mod refused;
mod release;
mod warm;
mod waste;

use riverbed::device::Device;
use riverbed::pinned::PinnedPool;

/// A pool on `device` under `conf`.
fn pool(device: &Device, conf: &str) -> PinnedPool {
    PinnedPool::new(device, &conf.parse().unwrap())
}

fn host() -> Device {
    Device::open("host:vram=4MiB").unwrap()
}
