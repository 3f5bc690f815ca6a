//! Every driver call failing in turn.

use std::sync::Arc;

use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device};
use riverbed::process_pool::{self, Uninstalled};
use riverbed::{Error, Result};

use crate::fake::{FakeDriver, fake_cuda, fake_hip};
use crate::fakes::open;
use crate::others::Others;
use crate::support::MIB;

/// A status no driver gives by itself.
const INJECTED: u32 = 4242;
const CONF: &str = "limit_mb:32,mempool_release_threshold_mb:8,mempool_allow_opportunistic:False";

#[track_caller]
fn assert_names_the_call(error: &Error, nth: u64) {
    let Error::Device(error) = error else { panic!("call {nth}: {error}") };
    assert_eq!(error.status, INJECTED, "call {nth}: {error}");
    assert!(Call::ALL.iter().any(|call| call.name() == error.call), "call {nth}: {error}");
}

/// All that is done with a process pool.
fn use_it(device: &Device) -> Result<Uninstalled> {
    let pool = process_pool::install(device, CONF)?;
    pool.statistics()?;
    pool.trim(0)?;
    pool.reset_peaks()?;
    pool.uninstall()
}

fn over_a_fake(fake: &FakeDriver) {
    let device = open(fake);
    let others = Others::new(fake);
    let default = others.default_pool();
    let (mut failed, mut nth) = (0, 0);
    loop {
        nth += 1;
        let before = fake.report().calls_total;
        fake.set(&format!("fail=any@{nth}/{INJECTED}"));
        let outcome = use_it(&device);
        fake.set("heal=now");
        assert_eq!(others.current_pool(), default, "call {nth}");
        let leaks = fake.report().leaks;
        assert_eq!(leaks.get("pools"), None, "call {nth}: {leaks:?}");
        match outcome {
            Ok(Uninstalled::Restored) if fake.report().calls_total - before < nth => break,
            // Pools are given up a second time, and contexts are left as well as may be.
            Ok(Uninstalled::Restored) => {}
            Ok(other) => panic!("call {nth}: {other:?}"),
            Err(error) => {
                assert_names_the_call(&error, nth);
                let call = fake.report().last_failed;
                assert!(call.is_some() && error.to_string().contains("4242"), "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 15, "{failed} of {nth} failures were told");
    drop((others, device));
    fake.assert_clean();
}

#[test]
fn of_cuda() {
    over_a_fake(&fake_cuda("vram=64MiB"));
}

#[test]
fn of_hip() {
    over_a_fake(&fake_hip("vram=64MiB"));
}

#[test]
fn of_the_host_device() {
    let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
    let faults = Arc::clone(&driver);
    let device = Device::from_driver(driver);
    let default = device.driver().default_pool().unwrap();
    let mut failed = Vec::new();
    for nth in 1.. {
        faults.faults().fail_nth(None, nth, INJECTED);
        let outcome = use_it(&device);
        let struck = faults.faults().clear() == 0;
        assert_eq!(device.driver().current_pool().unwrap(), default, "call {nth}");
        assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
        match outcome {
            Ok(_) if !struck => break,
            Ok(_) => {}
            Err(error) => {
                assert_names_the_call(&error, nth);
                let Error::Device(error) = error else { continue };
                failed.push(error.call);
            }
        }
    }
    let expected = [
        "current_pool",
        "default_pool",
        "create_pool",
        "pool_set",
        "set_current_pool",
        "pool_get",
        "pool_trim",
    ];
    for call in expected {
        assert!(failed.contains(&call), "{call} is not among {failed:?}");
    }
}

#[test]
fn a_pool_that_cannot_be_uninstalled_stays_whole() {
    let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
    let faults = Arc::clone(&driver);
    let device = Device::from_driver(driver);
    let pool = process_pool::install(&device, "limit_mb:32").unwrap();
    let id = pool.id();
    // One for the call, one for what is tried when the pool is dropped.
    for _ in 0..2 {
        faults.faults().fail_nth(Some(Call::SetCurrentPool), 1, INJECTED);
    }
    assert_names_the_call(&pool.uninstall().unwrap_err(), 1);
    assert_eq!(faults.faults().clear(), 0, "both have struck");
    assert_eq!(device.driver().current_pool().unwrap(), id);
    assert_eq!(device.calls().get(Call::DestroyPool), 0);
    let error = process_pool::install(&device, "").unwrap_err();
    assert!(error.to_string().contains("this crate"), "{error}");
}
