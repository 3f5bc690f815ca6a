//! Installing and uninstalling on the devices without a driver.

use std::sync::Barrier;

use riverbed::Error;
use riverbed::base::DeviceError;
use riverbed::device::{Call, Device};
use riverbed::process_pool::{self, Uninstalled};

use crate::support::{MIB, status, stream};

fn devices() -> [Device; 2] {
    ["host:vram=64MiB", "sim:64MiB"].map(|name| Device::open(name).unwrap())
}

#[test]
fn who_asks_for_the_current_pool_gets_the_installed_one() {
    for device in devices() {
        let (driver, stream) = (device.driver(), stream(&device));
        let default = driver.default_pool().unwrap();
        let conf = "limit_mb:33,mempool_follow_event_dependencies:False,\
                    mempool_allow_opportunistic:False,mempool_allow_internal_dependencies:False";
        let pool = process_pool::install(&device, conf).unwrap();
        let current = driver.current_pool().unwrap();
        assert_eq!((current, pool.is_current().unwrap()), (pool.id(), true));
        let block = driver.pool_alloc(current, 5000, stream.id()).unwrap();
        let much = driver.pool_alloc(current, 33 * MIB, stream.id());
        assert_eq!(status(much), DeviceError::OUT_OF_MEMORY);
        let stats = pool.statistics().unwrap();
        assert_eq!(stats.limit_bytes, Some(32 * MIB), "whole pages, below what was asked for");
        assert_eq!(stats.release_threshold_bytes, u64::MAX);
        let flags = [
            stats.follow_event_dependencies,
            stats.allow_opportunistic,
            stats.allow_internal_dependencies,
        ];
        assert_eq!(flags, [false; 3]);
        assert_eq!(stats.used_bytes.current, 5120);
        // SAFETY: nothing was enqueued on it.
        unsafe { driver.pool_free(block, stream.id()) }.unwrap();
        stream.synchronize().unwrap();
        assert_eq!(pool.uninstall().unwrap(), Uninstalled::Restored);
        assert_eq!(driver.current_pool().unwrap(), default);
        assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
    }
}

#[test]
fn the_default_pool_is_not_touched() {
    for device in devices() {
        let made = |call| device.calls().get(call);
        let pool = process_pool::install(&device, "").unwrap();
        let set = made(Call::PoolSet);
        assert_eq!((made(Call::CreatePool), set), (1, 1), "only the threshold is set, of its own");
        drop(pool);
        assert_eq!((made(Call::DestroyPool), made(Call::PoolSet)), (1, set));
        let default = device.driver().default_pool().unwrap();
        use riverbed::device::PoolAttribute::ReleaseThreshold;
        assert_eq!(device.driver().pool_get(default, ReleaseThreshold).unwrap(), 0);
    }
}

#[test]
fn a_pool_that_is_kept_stays() {
    for device in devices() {
        let pool = process_pool::install(&device, "limit_mb:32").unwrap().keep();
        assert!(pool.is_current().unwrap());
        assert_eq!(device.driver().current_pool().unwrap(), pool.id());
        assert_eq!(pool.device(), &device);
    }
}

#[test]
fn of_many_who_install_at_once_one_does() {
    for device in devices() {
        let start = Barrier::new(8);
        let pools: Vec<_> = std::thread::scope(|scope| {
            let install = || {
                start.wait();
                process_pool::install(&device, "")
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(install)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (done, refused): (Vec<_>, Vec<_>) = pools.into_iter().partition(Result::is_ok);
        assert_eq!((done.len(), refused.len()), (1, 7));
        assert!(refused.iter().all(|error| matches!(error, Err(Error::PoolTaken { .. }))));
        assert_eq!(device.calls().get(Call::CreatePool), 1);
    }
}

#[test]
fn one_device_does_not_bar_another() {
    let [one, two] = [0, 0].map(|_| Device::open("host:vram=64MiB").unwrap());
    let pools = [&one, &two].map(|device| process_pool::install(device, "").unwrap());
    assert!(pools.iter().all(|pool| pool.is_current().unwrap()));
}

#[test]
fn devices_that_cannot_do_it_are_refused() {
    for (device, conf, words) in [
        ("sim:64MiB,pools=off", "", "process pool"),
        ("sim:64MiB,pool_caps=off", "limit_mb:32", "a limit of 32.00 MiB"),
    ] {
        let device = Device::open(device).unwrap();
        let error = process_pool::install(&device, conf).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
