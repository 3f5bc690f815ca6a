//! The selftest when driver calls fail: each check with its n-th call failing, for every n.

#[path = "support/fake.rs"]
mod fake;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use riverbed::device::host::HostDriver;
use riverbed::device::sim::SimDriver;
use riverbed::device::{Call, Device};
use riverbed::selftest::{Check, Outcome, checks};

use fake::FakeDriver;

/// A status that no device gives by itself.
const INJECTED: u32 = 4242;
/// Far more than any step of a check takes here, and far less than a hanging test would.
const PATIENCE: Duration = Duration::from_secs(10);
/// A check with more calls than this has the later ones tried in strides.
const ALL_UP_TO: u64 = 36;

/// A device whose n-th call from now on can be made to fail once.
struct Faulty<'a> {
    device: Device,
    /// The n-th call from now on fails with this status, once.
    arm: &'a dyn Fn(u64, u32),
    /// Takes the failure back; true if it has not struck.
    disarm: &'a dyn Fn() -> bool,
}

impl Faulty<'_> {
    /// Fails each call of `check` in turn; gives how many failures it took in its stride.
    fn run(&self, check: &Check) -> u64 {
        let before = self.device.memory().unwrap();
        let mut absorbed = 0;
        let mut nth = 1;
        loop {
            (self.arm)(nth, INJECTED);
            let outcome = check.run_with(&self.device, PATIENCE);
            let struck = !(self.disarm)();
            match outcome {
                Outcome::Skipped(_) => return 0,
                Outcome::Passed if struck => absorbed += 1,
                Outcome::Passed => return absorbed,
                Outcome::Failed(finding) => {
                    assert!(struck, "{check} fails by itself: {finding}");
                    assert!(!finding.text.contains("panicked"), "{check}, call {nth}: {finding}");
                    assert!(
                        finding.status == Some(INJECTED) || finding.call.is_none(),
                        "{check}, call {nth}: another call is blamed: {finding}"
                    );
                    let names = |call: &Call| finding.call == Some(call.name());
                    // Asking for figures is no call that is counted, but one of the driver.
                    let called = Call::ALL.iter().any(names) || finding.call == Some("memory");
                    let named = called && finding.text.contains("4242");
                    let by_threads = finding.text.contains("ran before their threads");
                    assert!(named || by_threads, "{check}, call {nth}: {finding:?}");
                }
            }
            let after = self.device.memory().unwrap();
            assert_eq!(after, before, "{check} leaks when call {nth} fails");
            nth += 1 + nth / ALL_UP_TO * (nth / 2);
        }
    }

    fn run_all(&self) {
        // What is given up by a handle's `Drop` has nobody to report to.
        const HANDLES: u64 = 40;
        for check in checks() {
            let absorbed = self.run(&check);
            assert!(absorbed <= HANDLES, "{check} passes over {absorbed} failing calls");
        }
    }
}

#[test]
fn no_failing_call_of_the_host_device_is_passed_over() {
    let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
    let faults = Arc::clone(&driver);
    Faulty {
        device: Device::from_driver(driver),
        arm: &|nth, status| faults.faults().fail_nth(None, nth, status),
        disarm: &|| faults.faults().clear() > 0,
    }
    .run_all();
}

#[test]
fn no_failing_call_of_the_simulator_is_passed_over() {
    let driver = SimDriver::new("sim", "sim:64MiB".parse().unwrap()).unwrap();
    let faults = Arc::clone(&driver);
    Faulty {
        device: Device::from_driver(driver),
        arm: &|nth, status| faults.faults().fail_nth(None, nth, status),
        disarm: &|| faults.faults().clear() > 0,
    }
    .run_all();
}

#[test]
fn no_failing_call_of_a_cuda_driver_is_passed_over() {
    over_a_fake(&fake::fake_cuda(""));
}

/// As above with a fake driver: its own calls fail, of which one of the contract makes several.
fn over_a_fake(fake: &FakeDriver) {
    let armed = Cell::new((0, 0));
    Faulty {
        device: Device::open(&fake.device_text()).unwrap(),
        arm: &|nth, status| {
            armed.set((fake.report().calls_total, nth));
            fake.set(&format!("fail=any@{nth}/{status}"));
        },
        disarm: &|| {
            fake.set("heal=now");
            let (before, nth) = armed.get();
            fake.report().calls_total - before < nth
        },
    }
    .run_all();
}
