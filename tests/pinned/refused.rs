//! Where the system refuses to pin: memory that says what it is, never an error.

use std::sync::Arc;

use riverbed::base::{DeviceError, Error};
use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device};

use crate::pool;

/// A device that refuses so many times to pin.
fn refusing(calls: &[Call], times: u64) -> (Arc<HostDriver>, Device) {
    let driver = HostDriver::new("host", "host:vram=4MiB".parse().unwrap()).unwrap();
    for &call in calls {
        for nth in 1..=times {
            driver.faults().fail_nth(Some(call), nth, DeviceError::OUT_OF_MEMORY);
        }
    }
    let device = Device::from_driver(Arc::clone(&driver) as Arc<_>);
    (driver, device)
}

const BOTH: [Call; 2] = [Call::Register, Call::AllocPinned];

#[test]
fn what_cannot_be_pinned_is_pageable_and_within_the_budget() {
    let (_, device) = refusing(&BOTH, 100);
    let pool = pool(&device, "pinned_limit_mb:8");
    let mut block = pool.alloc(3 << 20).unwrap();
    assert!(!block.is_pinned());
    block.fill(9);
    assert!(block.iter().all(|&byte| byte == 9));
    let stats = pool.stats();
    assert_eq!((stats.pageable_bytes, stats.reserved_bytes), (3 << 20, 3 << 20));
    assert!(matches!(pool.alloc(6 << 20), Err(Error::PinnedBudget { .. })), "it is hard");
    assert!(!block.freeze().is_pinned());
    // It is used again, for no less and no more than what it is.
    assert!(!pool.alloc(2 << 20).unwrap().is_pinned());
    assert_eq!(pool.stats().reserved_bytes, 3 << 20);
    pool.check().unwrap();
}

#[test]
fn a_window_that_must_be_pinned_is_an_error_that_says_what_to_do() {
    let (_, device) = refusing(&BOTH, 100);
    let error = pool(&device, "pinned_limit_mb:8").alloc_pinned(1 << 20).unwrap_err();
    assert!(error.to_string().contains("ulimit -l"), "{error}");
}

#[test]
fn where_registering_fails_the_driver_is_asked_and_stays_asked() {
    let (_, device) = refusing(&[Call::Register], 1);
    let pool = pool(&device, "pinned_limit_mb:64");
    let blocks = [1, 2, 3].map(|mib| pool.alloc(mib << 20).unwrap());
    assert!(blocks.iter().all(|block| block.is_pinned()));
    assert_eq!(device.calls().get(Call::Register), 1);
    drop(blocks);
    pool.trim();
    assert_eq!(device.calls().get(Call::FreePinned), device.calls().get(Call::AllocPinned));
}

#[test]
fn after_a_refusal_the_system_is_asked_again_once_something_was_unpinned() {
    let (driver, device) = refusing(&[], 0);
    let pool = pool(&device, "pinned_limit_mb:64");
    let pinned = pool.alloc(4 << 20).unwrap();
    for call in BOTH {
        // A large one, and the driver's own.
        driver.faults().fail_nth(Some(call), 1, DeviceError::UNKNOWN);
    }
    let refused = pool.alloc(8 << 20).unwrap();
    assert!(pinned.is_pinned() && !refused.is_pinned());
    let calls = device.calls().sum(&BOTH);
    assert!(!pool.alloc(9 << 20).unwrap().is_pinned(), "as much was refused just now");
    assert_eq!(device.calls().sum(&BOTH), calls);
    assert!(pool.alloc(1 << 20).unwrap().is_pinned(), "less may be pinned still");
    drop((pinned, refused));
    pool.trim();
    assert!(pool.alloc(9 << 20).unwrap().is_pinned());
    pool.check().unwrap();
}

#[test]
fn a_large_slab_that_is_refused_becomes_one_of_the_size_asked_for() {
    let (_, device) = refusing(&BOTH, 1);
    let pool = pool(&device, "pinned_limit_mb:64,pinned_reserve_segment_size_mb:32");
    let block = pool.alloc(1 << 20).unwrap();
    assert!(block.is_pinned());
    assert_eq!(pool.stats().reserved_bytes, 1 << 20);
}
