//! The pools this crate has installed in this process, under the lock under which installing
//! and uninstalling take turns.

use std::ptr;
use std::sync::{Mutex, MutexGuard};

use crate::base::lock;
use crate::device::{Device, PoolId};

static INSTALLED: Mutex<Installed> = Mutex::new(Installed { pools: Vec::new() });

/// By driver and handle.
#[derive(Debug)]
pub(super) struct Installed {
    pools: Vec<(String, PoolId)>,
}

impl Installed {
    /// Waits for its turn.
    pub(super) fn lock() -> MutexGuard<'static, Self> {
        lock(&INSTALLED)
    }

    pub(super) fn has(&self, device: &Device, pool: PoolId) -> bool {
        self.pools.contains(&(driver_of(device), pool))
    }

    pub(super) fn enter(&mut self, device: &Device, pool: PoolId) {
        self.pools.push((driver_of(device), pool));
    }

    pub(super) fn leave(&mut self, device: &Device, pool: PoolId) {
        let gone = (driver_of(device), pool);
        self.pools.retain(|other| *other != gone);
    }
}

/// Where handles are numbers of one kind: a vendor's library, however often a device of it was
/// opened, or a device without one.
fn driver_of(device: &Device) -> String {
    match device.driver_info() {
        Some(info) => format!("{} {}", info.vendor, info.library),
        None => format!("device at {:#x}", ptr::from_ref(device.driver()).cast::<()>().addr()),
    }
}
