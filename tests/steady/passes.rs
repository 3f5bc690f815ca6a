//! Passes through a weight ring: nothing from the heap, nothing from the driver, and no wait of
//! the host but the one at the end.

use std::sync::Arc;

use riverbed::device::sim::SimDriver;
use riverbed::device::{Call, Device};
use riverbed::prefetch::PrefetchOptions;

use super::allocations::{allocated_bytes, uncounted};
use super::around::{Around, With};
use super::paced::{Paced, Stack};

const LINK: u64 = 1_000_000_000;

/// The device's own memory from the heap is not counted: what is left is what this crate takes
/// on the way to it.
#[derive(Debug)]
struct Uncounted;

impl Around for Uncounted {
    fn around<T>(&self, _call: &'static str, work: impl FnOnce() -> T) -> T {
        uncounted(work)
    }
}

#[test]
fn a_steady_pass_takes_nothing_and_waits_once() {
    let stack = |layer_bytes| Stack { layers: 5, layer_bytes, copy_per_compute: 1.2 };
    let stacks = [stack(100_000), stack(37_000), stack(70_001)];
    for depth in [0, 1, PrefetchOptions::AS_FAR_AS_ROOM] {
        for (stable_addresses, timing) in [(false, false), (true, false), (false, true)] {
            let spec = format!("sim:h2d={LINK}B/s").parse().unwrap();
            let driver = Arc::new(With(Uncounted, SimDriver::new("sim", spec).unwrap()));
            let device = Device::from_driver(driver);
            let options =
                PrefetchOptions { depth, stable_addresses, timing, ..PrefetchOptions::default() };
            let paced = Paced::on(device.clone(), &stacks, 400_000, LINK, options);
            let passes = |count: usize| (0..count).map(|_| paced.pass()).max();
            passes(4);
            let calls = |of: &[Call]| device.calls().sum(of);
            let waits = || calls(&[Call::SynchronizeStream, Call::SynchronizeEvent]);
            let pinned = || calls(&[Call::AllocPinned, Call::Register]);
            let before = (allocated_bytes(), calls(Call::ALLOCATING), pinned(), waits());
            passes(20);
            let now = (calls(Call::ALLOCATING), pinned(), waits());
            assert_eq!(now, (before.1, before.2, before.3 + 20), "{options:?}");
            // The report of a timed pass is a list.
            if !timing {
                assert_eq!(allocated_bytes(), before.0, "{options:?}");
            }
        }
    }
}
