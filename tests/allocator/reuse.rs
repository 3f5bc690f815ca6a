//! Who gets freed memory, and when.

use riverbed::Error;
use riverbed::device::{Call, Gate, checksum};

use crate::support::{MIB, device_status, download, stream};
use crate::{allocator, check, device};

#[test]
fn a_steady_state_on_one_stream_makes_no_driver_call() {
    let device = device(256);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let sizes = [1, 512, 100_000, 1 << 20, 3 << 20, 11 << 20, 40 << 20];
    let round = || {
        let held = sizes.map(|bytes| allocator.alloc::<u8>(bytes, &stream).unwrap());
        let addresses = held.each_ref().map(|buffer| buffer.ptr());
        held.into_iter().for_each(drop);
        addresses
    };
    let first = round();
    let before = device.calls().sum(Call::ALL);
    for _ in 0..100 {
        assert_eq!(round(), first, "the same memory every time");
    }
    assert_eq!(device.calls().sum(Call::ALL), before, "no driver call of any kind");
}

#[test]
fn freed_memory_is_reused_on_its_stream_while_that_is_still_busy() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let gate = Gate::new(&device).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    let sums = allocator.alloc::<u64>(2, &stream).unwrap();
    let mut addresses = Vec::new();
    for (slot, value) in [3u8, 4].into_iter().enumerate() {
        let buffer = allocator.alloc::<u8>(1000, &stream).unwrap();
        buffer.fill(value, &stream).unwrap();
        buffer.checksum(0, 1000, &sums, slot, &stream).unwrap();
        addresses.push(buffer.ptr());
    }
    assert_eq!(addresses[0], addresses[1], "at once, without waiting for the gate");
    gate.open(1).unwrap();
    let sums: Vec<u64> = download(&stream, sums.ptr(), 16)
        .chunks(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(sums, [checksum(&[3; 1000]), checksum(&[4; 1000])], "the stream's order holds");
}

#[test]
fn memory_in_use_on_another_stream_waits_for_it() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    let buffer = allocator.alloc::<u8>(4096, &home).unwrap();
    let address = buffer.ptr();
    other.wait_gate(&gate, 1).unwrap();
    buffer.fill(1, &other).unwrap();
    drop(buffer);
    let stats = allocator.stats();
    assert_eq!(stats.retired_bytes, 4096);
    assert_eq!((stats.allocation.all.current, stats.active.all.current), (0, 1));
    assert_eq!((stats.allocated_bytes.all.current, stats.active_bytes.all.current), (0, 4096));
    let meanwhile = allocator.alloc::<u8>(4096, &home).unwrap();
    assert_ne!(meanwhile.ptr(), address, "the other stream may still write it");
    check(&allocator);
    gate.open(1).unwrap();
    other.synchronize().unwrap();
    let after = allocator.alloc::<u8>(4096, &home).unwrap();
    assert_eq!(after.ptr(), address);
    assert_eq!(allocator.stats().retired_bytes, 0);
    assert_eq!(device.calls().get(Call::SynchronizeEvent), 0, "the host never waited");
    check(&allocator);
}

#[test]
fn a_stream_takes_nothing_from_the_cache_of_another() {
    let device = device(64);
    let (one, two) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let address = allocator.alloc::<u8>(4096, &one).unwrap().ptr();
    let buffer = allocator.alloc::<u8>(4096, &two).unwrap();
    assert_ne!(buffer.ptr(), address, "work of the first stream may still use it");
    assert_eq!(allocator.stats().num_device_alloc, 2);
}

#[test]
fn a_block_that_crosses_streams_costs_one_record_and_one_wait_each_time() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let buffer = allocator.alloc::<u8>(4096, &home).unwrap();
    let calls = || {
        let calls = device.calls();
        [Call::RecordEvent, Call::WaitEvent, Call::SynchronizeEvent].map(|call| calls.get(call))
    };
    for _ in 0..10 {
        buffer.use_on(&home).unwrap();
    }
    assert_eq!(calls(), [0, 0, 0], "one stream alone costs nothing");
    for _ in 0..10 {
        buffer.use_on(&other).unwrap();
    }
    assert_eq!(calls(), [1, 1, 0], "one order for the change of streams");
    drop(buffer);
    assert_eq!(calls(), [2, 1, 0], "one mark for the end of use");
}

#[test]
fn the_stream_of_a_use_comes_after_the_one_before() {
    let device = device(64);
    let streams: Vec<_> = (0..4).map(|_| stream(&device)).collect();
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    streams[0].wait_gate(&gate, 1).unwrap();
    let buffer = allocator.alloc::<u8>(1 << 20, &streams[0]).unwrap();
    for (value, stream) in (1..).zip(&streams) {
        buffer.fill(value, stream).unwrap();
    }
    gate.open(1).unwrap();
    let found = download(&streams[3], buffer.ptr(), 1 << 20);
    assert!(found.iter().all(|&byte| byte == 4), "the last fill is the last to run");
}

#[test]
fn a_slow_stream_holds_up_only_what_it_uses() {
    let device = device(64);
    let (home, slow, fast) = (stream(&device), stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    slow.wait_gate(&gate, 1).unwrap();
    let held = allocator.alloc::<u8>(4096, &home).unwrap();
    let quick = allocator.alloc::<u8>(8192, &home).unwrap();
    let address = quick.ptr();
    held.use_on(&slow).unwrap();
    quick.use_on(&fast).unwrap();
    drop(held);
    drop(quick);
    fast.synchronize().unwrap();
    assert_eq!(allocator.stats().retired_bytes, 4096);
    assert_eq!(allocator.alloc::<u8>(8192, &home).unwrap().ptr(), address);
    gate.open(1).unwrap();
}

/// Streams are told apart by their driver's handle, which a driver gives out again.
#[test]
fn a_new_stream_does_not_queue_behind_one_that_is_gone() {
    let device = device(64);
    let home = stream(&device);
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    let old = stream(&device);
    let held = allocator.alloc::<u8>(4096, &home).unwrap();
    old.wait_gate(&gate, 1).unwrap();
    held.use_on(&old).unwrap();
    drop(held);
    drop(old);
    let new = stream(&device);
    let quick = allocator.alloc::<u8>(8192, &home).unwrap();
    let address = quick.ptr();
    quick.use_on(&new).unwrap();
    drop(quick);
    new.synchronize().unwrap();
    assert_eq!(allocator.alloc::<u8>(8192, &home).unwrap().ptr(), address);
    gate.open(1).unwrap();
}

#[test]
fn streams_of_another_device_are_refused() {
    let (one, two) = (device(64), device(64));
    let (own, foreign) = (stream(&one), stream(&two));
    let allocator = allocator(&one, "");
    let before = allocator.stats();
    let errors = [
        allocator.alloc::<u8>(100, &foreign).unwrap_err(),
        allocator.alloc_dedicated::<u8>(100, &foreign).unwrap_err(),
        allocator.alloc_raw(100, &foreign).unwrap_err(),
    ];
    assert_eq!(allocator.stats(), before);
    let buffer = allocator.alloc::<u8>(100, &own).unwrap();
    let uses = [
        buffer.use_on(&foreign).unwrap_err(),
        buffer.fill(1, &foreign).unwrap_err(),
        allocator.record_use_raw(buffer.ptr(), &foreign).unwrap_err(),
    ];
    for error in errors.into_iter().chain(uses) {
        assert!(matches!(&error, Error::InvalidArgument { name, .. } if name == "stream"));
        assert!(error.to_string().contains("opened once"), "{error}");
    }
    assert_eq!(two.calls().sum(Call::ALLOCATING), 1, "its stream and nothing more");
}

#[test]
fn a_length_of_nothing_takes_nothing_and_works() {
    let device = device(64);
    let (stream, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let sums = allocator.alloc::<u64>(1, &stream).unwrap();
    let before = allocator.stats();
    for empty in [
        allocator.alloc::<u8>(0, &stream).unwrap(),
        allocator.alloc_dedicated::<u8>(0, &stream).unwrap(),
    ] {
        assert!(empty.is_empty());
        assert_eq!((empty.ptr().0, empty.size_bytes()), (0, 0));
        empty.fill(1, &other).unwrap();
        empty.checksum(0, 0, &sums, 0, &stream).unwrap();
        assert_eq!(download(&stream, sums.ptr(), 8), checksum(&[]).to_le_bytes());
    }
    assert_eq!(allocator.stats(), before);
}

#[test]
fn checksum_ranges_outside_the_buffers_are_refused() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    let (buffer, sums) =
        (allocator.alloc::<u8>(100, &stream).unwrap(), allocator.alloc::<u64>(2, &stream).unwrap());
    for (offset, bytes, slot) in [(0, 101, 0), (100, 1, 0), (u64::MAX, 2, 0), (0, 100, 2)] {
        let error = buffer.checksum(offset, bytes, &sums, slot, &stream).unwrap_err();
        assert!(error.to_string().contains("100 bytes, the sums 2 slots"), "{error}");
    }
    buffer.checksum(100, 0, &sums, 1, &stream).unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn driver_errors_come_through_and_change_nothing() {
    let device = riverbed::device::Device::open("host:vram=64MiB,fail=alloc@1").unwrap();
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    assert_eq!(device_status(allocator.alloc::<u8>(5 << 20, &stream)), 999);
    let stats = allocator.stats();
    assert_eq!((stats.reserved_bytes.all.current, stats.allocation.all.current), (0, 0));
    check(&allocator);
    let _buffer = allocator.alloc::<u8>(5 << 20, &stream).unwrap();
    assert_eq!(allocator.stats().reserved_bytes.all.current, 20 * MIB);
}
