//! A host device that pins nothing behind while it is told so. Included by path.
#![allow(dead_code)] // Each test uses its own part.

use std::sync::{Arc, Condvar, Mutex};

use riverbed::device::Device;
use riverbed::device::host::HostDriver;

use super::around::{Around, With};

/// Whether pinning stands still, and how many calls wait for its end.
#[derive(Debug, Default)]
pub(crate) struct Hold(Mutex<(bool, usize)>, Condvar);

/// Calls wait here while pinning stands still.
#[derive(Debug)]
struct HeldPinning(Arc<Hold>);

impl Hold {
    /// A host device with 64 MiB, and its hold: open at first.
    pub(crate) fn device() -> ((Device, Arc<HostDriver>), Arc<Self>) {
        let hold = Arc::new(Self::default());
        let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
        let around = HeldPinning(Arc::clone(&hold));
        let device = Device::from_driver(Arc::new(With(around, driver.clone())));
        ((device, driver), hold)
    }

    pub(crate) fn set(&self, held: bool) {
        self.0.lock().unwrap().0 = held;
        self.1.notify_all();
    }

    /// Waits until somebody is pinning, and stands still.
    pub(crate) fn wait_for_one(&self) {
        let mut state = self.0.lock().unwrap();
        while state.1 == 0 {
            state = self.1.wait(state).unwrap();
        }
    }
}

impl Around for HeldPinning {
    fn around<T>(&self, call: &'static str, work: impl FnOnce() -> T) -> T {
        let behind = std::thread::current().name() == Some("riverbed-pinner");
        if behind && matches!(call, "register" | "alloc_pinned") {
            let Hold(state, changed) = &*self.0;
            let mut state = state.lock().unwrap();
            state.1 += 1;
            changed.notify_all();
            while state.0 {
                state = changed.wait(state).unwrap();
            }
            state.1 -= 1;
        }
        work()
    }
}
