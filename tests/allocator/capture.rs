//! While a graph is captured nothing is asked of its streams and nothing is taken from under it.

use riverbed::Error;
use riverbed::device::{Call, Device, Gate};
use riverbed::pool::PrivatePoolOptions;

use crate::support::{MIB, stream, wait_until};
use crate::{allocator, check, device};

/// Every call that a captured stream must not see.
fn forbidden(device: &Device) -> u64 {
    let calls = [
        Call::RecordEvent,
        Call::QueryEvent,
        Call::SynchronizeEvent,
        Call::SynchronizeStream,
        Call::Free,
    ];
    calls.into_iter().map(|call| device.calls().get(call)).sum()
}

#[test]
fn nothing_is_asked_of_streams_and_nothing_goes_back_until_the_end() {
    let device = device(64);
    let (allocator, captured, side) = (
        allocator(&device, "garbage_collection_threshold:0.1,limit_mb:60"),
        stream(&device),
        stream(&device),
    );
    let gate = Gate::new(&device).unwrap();
    side.wait_gate(&gate, 1).unwrap();
    let waiting = allocator.alloc::<u8>(1000, &captured).unwrap();
    waiting.record_use(&side).unwrap();
    drop(waiting);
    let dedicated = allocator.alloc_dedicated::<u8>(2 << 20, &captured).unwrap();
    drop(allocator.alloc::<u8>(12 << 20, &side).unwrap());
    let before = forbidden(&device);

    let pool = allocator.private_pool(PrivatePoolOptions::default());
    let scope = pool.begin_capture(&captured).unwrap();
    assert_eq!((scope.pool().id(), scope.stream()), (pool.id(), &captured));
    let on_captured = pool.on(&captured).unwrap();
    let first = on_captured.alloc::<u8>(3 << 20).unwrap();
    let address = first.ptr();
    drop(first);
    let again = on_captured.alloc::<u8>(3 << 20).unwrap();
    assert_eq!(again.ptr(), address, "reuse on its own stream needs no event");
    again.record_use(&side).unwrap();
    drop(again);
    let fresh = on_captured.alloc::<u8>(3 << 20).unwrap();
    assert_ne!(fresh.ptr(), address, "the side stream's use is not known to be over");
    drop(dedicated);
    assert_eq!((allocator.trim(), pool.trim()), (0, 0));
    assert!(allocator.clone().close().is_err());
    assert_eq!(forbidden(&device), before);
    assert_eq!(allocator.stats().retired_bytes, 1024 + 3 * MIB);
    check(&allocator);
    assert_eq!(forbidden(&device), before);

    drop(scope);
    gate.open(1).unwrap();
    captured.synchronize().unwrap();
    side.synchronize().unwrap();
    assert_eq!(allocator.stats().retired_bytes, 0);
    wait_until("the dedicated one is back", || {
        allocator.stats().reserved_bytes.all.current == (20 + 2 + 12) * MIB
    });
    check(&allocator);
}

#[test]
fn memory_that_runs_out_during_a_capture_says_so_at_once() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:20"), stream(&device));
    drop(allocator.alloc::<u8>(20 << 20, &stream).unwrap());
    let pool = allocator.private_pool(PrivatePoolOptions::default());
    let scope = pool.begin_capture(&stream).unwrap();
    let before = forbidden(&device);
    match pool.on(&stream).unwrap().alloc::<u8>(2 << 20) {
        Err(error @ Error::OutOfMemory(_)) => {
            assert!(error.to_string().contains("as a graph is captured"), "{error}");
        }
        other => panic!("out of memory was expected, not {other:?}"),
    }
    allocator.alloc::<u8>(100 << 20, &stream).unwrap_err();
    assert_eq!(forbidden(&device), before);
    assert_eq!(allocator.stats().num_sync_all_streams, 0);
    drop(scope);
    pool.on(&stream).unwrap().alloc::<u8>(2 << 20).unwrap();
    check(&allocator);
}

#[test]
fn captures_of_several_streams_end_with_the_last() {
    let device = device(64);
    let (allocator, a, b) = (allocator(&device, ""), stream(&device), stream(&device));
    let pool = allocator.private_pool(PrivatePoolOptions::default());
    let (first, second) = (pool.begin_capture(&a).unwrap(), pool.begin_capture(&b).unwrap());
    let error = pool.begin_capture(&a).unwrap_err().to_string();
    assert!(error.contains("captured already"), "{error}");
    drop(allocator.alloc_dedicated::<u8>(1, &a).unwrap());
    drop(first);
    assert_eq!(allocator.stats().reserved_bytes.all.current, 2 * MIB);
    drop(second);
    wait_until("it is back", || allocator.stats().reserved_bytes.all.current == 0);
    drop(pool.begin_capture(&a).unwrap());
}

#[test]
fn a_pool_dropped_during_a_capture_goes_back_after_it() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let captured = allocator.private_pool(PrivatePoolOptions::default());
    let other = allocator.private_pool(PrivatePoolOptions::default());
    drop(other.on(&stream).unwrap().alloc::<u8>(1000).unwrap());
    let scope = captured.begin_capture(&stream).unwrap();
    drop(other);
    assert_eq!(device.calls().get(Call::Free), 0);
    assert_eq!(allocator.stats().reserved_bytes.all.current, 2 * MIB);
    drop((scope, captured));
    wait_until("it is back", || allocator.private_pools().is_empty());
    allocator.close().unwrap();
}
