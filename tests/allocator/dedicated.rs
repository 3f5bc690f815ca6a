//! Segments of a request's own.

use riverbed::device::Gate;

use crate::support::{MIB, stream, wait_until, wait_until_all_memory_is_back};
use crate::{allocator, check, device};

#[test]
fn they_are_rounded_to_the_granularity_and_to_nothing_else() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "roundup_power2_divisions:1"), stream(&device));
    for (bytes, segment) in
        [(1, 2), (2 << 20, 2), ((2 << 20) + 1, 4), (9 << 20, 10), (33 << 20, 34)]
    {
        let buffer = allocator.alloc_dedicated::<u8>(bytes, &stream).unwrap();
        let stats = allocator.stats();
        assert_eq!(stats.requested_bytes.all.current, bytes as u64);
        assert_eq!(stats.allocated_bytes.all.current, segment * MIB, "{bytes} bytes");
        drop(buffer);
        wait_until_all_memory_is_back(&device);
    }
    wait_until("the counters know", || allocator.stats().reserved_bytes.all.current == 0);
    check(&allocator);
}

#[test]
fn they_neither_take_from_the_cache_nor_give_to_it() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let cached = allocator.alloc::<u8>(20 << 20, &stream).unwrap().ptr();
    let own = allocator.alloc_dedicated::<u8>(20 << 20, &stream).unwrap();
    assert_ne!(own.ptr(), cached);
    let taken = own.ptr();
    drop(own);
    let again = allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    assert_eq!(again.ptr(), cached);
    assert_ne!(again.ptr(), taken);
}

#[test]
fn one_follows_another_at_the_limit() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:20"), stream(&device));
    for round in 0..50 {
        let buffer = allocator.alloc_dedicated::<u8>(20 << 20, &stream);
        let buffer = buffer.unwrap_or_else(|error| panic!("round {round}: {error}"));
        buffer.fill(round, &stream).unwrap();
    }
    let policy = allocator.alloc::<u8>(20 << 20, &stream).expect("its room is free for others");
    assert_eq!(policy.size_bytes(), 20 * MIB);
    check(&allocator);
}

#[test]
fn dropping_one_does_not_wait_for_its_stream() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let gate = Gate::new(&device).unwrap();
    let buffer = allocator.alloc_dedicated::<u8>(4 << 20, &stream).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    buffer.fill(1, &stream).unwrap();
    drop(buffer);
    let stats = allocator.stats();
    assert_eq!(stats.allocation.all.current, 0);
    assert_eq!(stats.reserved_bytes.all.current, 4 * MIB, "the stream may still write it");
    check(&allocator);
    gate.open(1).unwrap();
    wait_until_all_memory_is_back(&device);
    wait_until("the counters know", || allocator.stats().reserved_bytes.all.current == 0);
}

#[test]
fn one_in_use_on_another_stream_goes_back_after_it() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    let buffer = allocator.alloc_dedicated::<u8>(4 << 20, &home).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    buffer.fill(1, &other).unwrap();
    drop(buffer);
    assert_eq!(allocator.stats().retired_bytes, 4 * MIB);
    gate.open(1).unwrap();
    other.synchronize().unwrap();
    wait_until("it is back", || allocator.stats().reserved_bytes.all.current == 0);
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}
