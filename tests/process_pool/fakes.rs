//! Other code over fake CUDA and HIP drivers.

use riverbed::base::DeviceError;
use riverbed::device::Device;
use riverbed::process_pool::{self, Uninstalled};
use riverbed::{Error, Result};

use crate::fake::{FakeDriver, Vendor, fake_cuda, fake_hip};
use crate::others::Others;
use crate::support::MIB;

/// HIP uses its pools only where that is asked for.
pub(crate) fn open(fake: &FakeDriver) -> Device {
    let asked = if fake.vendor == Vendor::Hip { ",pools=on" } else { "" };
    Device::open(&format!("{}{asked}", fake.device_text())).unwrap()
}

/// Runs `test` on both vendors; nothing is to be done wrong, nor kept.
fn on_both(test: impl Fn(&FakeDriver, &Device)) {
    for fake in [fake_cuda("vram=128MiB"), fake_hip("vram=128MiB")] {
        let device = open(&fake);
        test(&fake, &device);
        drop(device);
        fake.assert_clean();
    }
}

#[track_caller]
fn taken(result: Result<process_pool::ProcessPool>) -> String {
    let error = result.expect_err("it should have been refused");
    assert!(matches!(error, Error::PoolTaken { .. }), "{error}");
    error.to_string()
}

#[test]
fn what_others_allocate_comes_from_the_pool_and_its_limit_holds() {
    on_both(|fake, device| {
        let others = Others::new(fake);
        let pool = process_pool::install(device, "limit_mb:32").unwrap();
        assert_eq!(others.current_pool(), pool.id().raw());
        assert_ne!(others.default_pool(), pool.id().raw());

        let block = others.alloc(20 << 20).unwrap();
        let stats = pool.statistics().unwrap();
        assert_eq!((stats.used_bytes.current, stats.reserved_bytes.current), (20 * MIB, 20 * MIB));
        assert_eq!((stats.limit_bytes, stats.is_current), (Some(32 * MIB), true));
        assert_eq!(others.alloc(20 << 20), Err(DeviceError::OUT_OF_MEMORY));

        others.free(block);
        others.synchronize();
        let again = others.alloc(30 << 20).expect("what is unused makes room under the limit");
        others.free(again);
        others.synchronize();
        let stats = pool.statistics().unwrap();
        assert_eq!((stats.used_bytes.current, stats.used_bytes.high), (0, 30 * MIB));
        assert_eq!(stats.reserved_bytes.current, 30 * MIB, "what is freed is kept by default");

        pool.trim(0).unwrap();
        pool.reset_peaks().unwrap();
        let stats = pool.statistics().unwrap();
        assert_eq!((stats.reserved_bytes.current, stats.reserved_bytes.high), (0, 0));
        assert_eq!((stats.used_bytes.current, stats.used_bytes.high), (0, 0));
        assert_eq!(pool.uninstall().unwrap(), Uninstalled::Restored);
        assert_eq!(others.current_pool(), others.default_pool());
    });
}

#[test]
fn memory_in_use_outlives_the_pool() {
    on_both(|fake, device| {
        let others = Others::new(fake);
        let pool = process_pool::install(device, "").unwrap();
        let block = others.alloc(5000).unwrap();
        drop(pool);
        assert_eq!(others.current_pool(), others.default_pool());
        let elsewhere = others.alloc(5000).unwrap();
        others.free(block);
        others.free(elsewhere);
        others.synchronize();
    });
}

#[test]
fn a_pool_that_others_set_is_left_alone() {
    on_both(|fake, device| {
        let others = Others::new(fake);
        let theirs = others.create_pool();
        others.set_pool(theirs);
        let pools = || fake.report().leaks.get("pools").copied();
        let before = pools();
        let text = taken(process_pool::install(device, "limit_mb:32"));
        assert!(text.contains("somebody else"), "{text}");
        assert_eq!((others.current_pool(), pools()), (theirs, before));

        others.set_pool(others.default_pool());
        let pool = process_pool::install(device, "").unwrap();
        others.set_pool(theirs);
        assert!(!pool.is_current().unwrap() && !pool.statistics().unwrap().is_current);
        assert_eq!(pool.uninstall().unwrap(), Uninstalled::Displaced);
        assert_eq!(others.current_pool(), theirs);
        others.destroy_pool(theirs);
    });
}

#[test]
fn a_second_one_is_refused_however_the_device_was_opened() {
    on_both(|fake, device| {
        let pool = process_pool::install(device, "limit_mb:32").unwrap();
        for device in [device, &open(fake)] {
            for conf in ["limit_mb:32", ""] {
                let text = taken(process_pool::install(device, conf));
                assert!(text.contains("this crate") && text.contains("uninstall"), "{text}");
            }
        }
        assert!(pool.is_current().unwrap());
        drop(pool);
        drop(process_pool::install(device, "").unwrap());
    });
}

#[test]
fn what_others_change_of_the_pool_is_told() {
    on_both(|fake, device| {
        let others = Others::new(fake);
        let pool = process_pool::install(device, "mempool_release_threshold_mb:8").unwrap();
        assert_eq!(pool.statistics().unwrap().release_threshold_bytes, 8 * MIB);
        let block = others.alloc(4 << 20).unwrap();
        others.free(block);
        others.synchronize();
        assert_eq!(pool.statistics().unwrap().reserved_bytes.current, 4 * MIB);
        others.trim(others.current_pool(), 0);
        others.set_threshold(others.current_pool(), 0);
        let stats = pool.statistics().unwrap();
        assert_eq!((stats.reserved_bytes.current, stats.release_threshold_bytes), (0, 0));
        assert!(stats.is_current);
    });
}

#[test]
fn drivers_without_caps_refuse_a_limit_and_take_the_rest() {
    let cases = [
        (fake_cuda("version=12000,pool_caps=off"), "CUDA 12.0"),
        (fake_hip("version=60140093,pool_caps=off"), "ROCm 6.1"),
    ];
    for (fake, version) in cases {
        let device = open(&fake);
        for conf in ["limit_mb:32", "per_process_memory_fraction:0.5"] {
            let error = process_pool::install(&device, conf).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            for words in [version, "12.2", "6.2", "update the driver", "limit_mb"] {
                assert!(error.to_string().contains(words), "{words}: {error}");
            }
        }
        let pool = process_pool::install(&device, "mempool_release_threshold_mb:8").unwrap();
        assert_eq!(pool.statistics().unwrap().limit_bytes, None);
        drop((pool, device));
        fake.assert_clean();
    }
}

#[test]
fn drivers_without_the_calls_say_so() {
    let cases = [
        (FakeDriver::new(Vendor::Cuda, "", &["cuDeviceSetMemPool"]), ""),
        (fake_cuda("pools=off"), ""),
        (fake_cuda(""), ",pools=off"),
        (fake_hip(""), ""),
    ];
    for (fake, settings) in cases {
        let device = Device::open(&format!("{}{settings}", fake.device_text())).unwrap();
        let error = process_pool::install(&device, "").unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("riverbed devices"), "{error}");
        assert_eq!(device.driver().current_pool().unwrap_err().status, DeviceError::NOT_SUPPORTED);
        drop(device);
        fake.assert_clean();
    }
}
