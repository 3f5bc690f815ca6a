//! Pages that come and go one by one.

use riverbed::device::{Call, Device};
use riverbed::pool::Allocator;

use super::streaming::{MIB, host, stream};

#[test]
fn pages_count_against_the_limit_one_by_one_and_go_back() {
    let (device, _) = host(64);
    let allocator = Allocator::builder(&device).limit_bytes(8 * MIB).unwrap().build().unwrap();
    let mut space = allocator.paged_space(31 * MIB).unwrap();
    assert_eq!(space.len_bytes(), 32 * MIB);
    assert!(space.commit(0..MIB).unwrap() && space.commit(MIB..3 * MIB).unwrap());
    assert_eq!(space.committed_bytes(), 4 * MIB);
    assert!(!space.commit(10 * MIB..15 * MIB).unwrap(), "5 MiB touch 6 MiB of pages");
    assert_eq!(space.committed_bytes(), 4 * MIB, "all or none");
    assert!(space.commit(10 * MIB..14 * MIB).unwrap());
    allocator.check().unwrap();
    assert!(allocator.alloc::<u8>(1000, &stream(&device)).is_err(), "the limit is spent");
    assert_eq!(space.decommit(MIB..13 * MIB).unwrap(), 4 * MIB, "whole pages alone");
    assert!(allocator.alloc::<u8>(1000, &stream(&device)).is_ok());
    assert!(space.commit(0..40 * MIB).is_err() && space.decommit(31 * MIB..40 * MIB).is_err());
    drop(space);
    assert!(riverbed::device::settle(std::time::Duration::from_secs(10)));
    allocator.close().unwrap();
    let memory = device.memory().unwrap();
    assert_eq!(memory.free_bytes, memory.total_bytes);
}

#[test]
fn a_driver_that_fails_half_way_leaves_nothing_behind() {
    let (device, driver) = host(64);
    let allocator = Allocator::builder(&device).build().unwrap();
    let mut space = allocator.paged_space(32 * MIB).unwrap();
    for (call, nth, status) in [
        (Call::CreatePage, 3, 2),
        (Call::CreatePage, 2, 999),
        (Call::Map, 1, 999),
        (Call::Map, 1, 2),
    ] {
        driver.faults().fail_nth(Some(call), nth, status);
        let committed = space.commit(0..8 * MIB);
        assert_eq!(committed.is_err(), status != 2, "{call:?} {committed:?}");
        assert!(!committed.unwrap_or(false));
        assert_eq!(driver.faults().clear(), 0, "{call:?} struck");
        allocator.check().unwrap();
        assert_eq!(allocator.stats().reserved_bytes.all.current, 0);
    }
    assert!(space.commit(0..8 * MIB).unwrap());
}

#[test]
fn what_cannot_map_says_so() {
    let device = Device::open("sim:64MiB,vmm=off").unwrap();
    let allocator = Allocator::builder(&device).build().unwrap();
    let error = allocator.paged_space(MIB).unwrap_err().to_string();
    assert!(error.contains("page by page") && error.contains("several blocks"), "{error}");
}
