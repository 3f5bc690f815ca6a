//! The selftest when driver calls fail: each check with its n-th call failing, for every n.

#[path = "support/fake.rs"]
mod fake;
#[path = "support/faulty.rs"]
mod faulty;

use std::cell::Cell;
use std::sync::Arc;

use fake::FakeDriver;
use faulty::{Faulty, INJECTED};
use riverbed::device::Device;
use riverbed::device::host::HostDriver;
use riverbed::device::sim::SimDriver;
use riverbed::selftest::{Options, Watch, run};

#[test]
fn no_failing_call_of_the_host_device_is_passed_over() {
    let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
    let faults = Arc::clone(&driver);
    Faulty {
        device: Device::from_driver(driver),
        arm: &|nth, status| faults.faults().fail_nth(None, nth, status),
        disarm: &|| faults.faults().clear() > 0,
        struck: None,
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
        struck: None,
    }
    .run_all();
}

#[test]
fn no_failing_call_of_a_cuda_driver_is_passed_over() {
    over_a_fake(&fake::fake_cuda(""));
}

#[test]
fn no_failing_call_of_a_hip_runtime_is_passed_over() {
    over_a_fake(&fake::fake_hip(""));
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
        struck: Some(&|| {
            let failed = fake.report().last_failed;
            failed.filter(|failed| failed.status == INJECTED).map(|failed| failed.call)
        }),
    }
    .run_all();
    // A failure leads to no wrong call. One check asks for the time of an event without timing.
    let misuses = fake.report().misuses;
    let misuses: Vec<_> =
        misuses.iter().filter(|misuse| !misuse.call.ends_with("EventElapsedTime")).collect();
    assert!(misuses.is_empty(), "{misuses:#?}");
}

/// Arms a failure when measuring begins.
struct ArmsLate<'a> {
    faulty: &'a Faulty<'a>,
    nth: u64,
}

impl Watch for ArmsLate<'_> {
    fn begins(&self, what: &str, _step: usize, _steps: usize) {
        if what == "measuring calls" {
            (self.faulty.arm)(self.nth, INJECTED);
        }
    }

    fn stop(&self) -> bool {
        false
    }
}

#[test]
fn a_call_that_fails_while_measuring_fails_its_subject_alone() {
    let driver = SimDriver::new("sim", "sim:1GiB".parse().unwrap()).unwrap();
    let faults = Arc::clone(&driver);
    let faulty = Faulty {
        device: Device::from_driver(driver),
        arm: &|nth, status| faults.faults().fail_nth(None, nth, status),
        disarm: &|| faults.faults().clear() > 0,
        struck: None,
    };
    let mut failed = 0;
    for nth in [1, 30, 1500, 2300, 3000, 4000] {
        let report = run(&faulty.device, Options::new(true), &ArmsLate { faulty: &faulty, nth });
        let struck = !(faulty.disarm)();
        let report = report.unwrap();
        assert!(report.failed <= usize::from(struck), "call {nth}: {:#?}", report.checks);
        assert_eq!(report.memory_before, report.memory_after, "call {nth}");
        for check in report.checks.iter().filter(|check| check.outcome == "failed") {
            let finding = check.finding.as_ref().unwrap();
            assert_eq!(finding.status, Some(INJECTED), "call {nth}: {finding}");
            failed += 1;
        }
    }
    assert!(failed > 2, "only {failed} failures were seen");
}
