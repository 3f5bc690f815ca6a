//! The raw-pointer path.

use riverbed::Error;
use riverbed::device::{Call, DevicePtr, Gate};
use riverbed::pool::Allocator;

use crate::support::stream;
use crate::{allocator, check, device};

/// Frees a block no test uses any more, or nothing of the allocator's at all.
fn free(allocator: &Allocator, ptr: DevicePtr) -> riverbed::Result<()> {
    // SAFETY: the tests use no memory after handing it here, but for work they recorded.
    unsafe { allocator.free_raw(ptr) }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: riverbed::Result<T>) {
    match result {
        Err(error @ Error::InvalidArgument { .. }) => {
            let text = error.to_string();
            assert!(
                text.contains("0x") && text.contains("a live block of this allocator"),
                "{text}"
            );
        }
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

#[test]
fn a_raw_block_is_served_and_counted_like_a_buffer() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let ptr = allocator.alloc_raw(1000, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!(
        (stats.allocated_bytes.all.current, stats.requested_bytes.all.current),
        (1024, 1000)
    );
    free(&allocator, ptr).unwrap();
    assert_eq!(allocator.alloc::<u8>(1000, &stream).unwrap().ptr(), ptr);
    check(&allocator);
}

#[test]
fn nothing_is_address_0_and_freeing_it_does_nothing() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let before = allocator.stats();
    let ptr = allocator.alloc_raw(0, &stream).unwrap();
    assert_eq!(ptr, DevicePtr::default());
    free(&allocator, ptr).unwrap();
    free(&allocator, ptr).unwrap();
    assert_eq!(allocator.stats(), before);
}

#[test]
fn pointers_that_are_no_live_block_are_refused_and_change_nothing() {
    let device = device(64);
    let (allocator, other) = (allocator(&device, ""), allocator(&device, ""));
    let stream = stream(&device);
    let (live, freed) =
        (allocator.alloc_raw(1000, &stream).unwrap(), allocator.alloc_raw(1000, &stream).unwrap());
    let foreign = other.alloc_raw(1000, &stream).unwrap();
    free(&allocator, freed).unwrap();
    let before = allocator.stats();
    for ptr in [freed, foreign, live.offset(512), DevicePtr(1), DevicePtr(u64::MAX)] {
        refused(free(&allocator, ptr));
        refused(allocator.record_use_raw(ptr, &stream));
    }
    assert_eq!(allocator.stats(), before);
    check(&allocator);
    free(&allocator, live).unwrap();
    refused(free(&allocator, live));
    free(&other, foreign).unwrap();
}

#[test]
fn a_recorded_use_keeps_the_block_until_its_stream_is_done() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    let ptr = allocator.alloc_raw(1000, &home).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    for stream in [&other, &other, &home] {
        allocator.record_use_raw(ptr, stream).unwrap();
    }
    free(&allocator, ptr).unwrap();
    assert_eq!(device.calls().get(Call::RecordEvent), 1, "one mark for one other stream");
    assert_eq!(allocator.stats().retired_bytes, 1024);
    refused(free(&allocator, ptr));
    refused(allocator.record_use_raw(ptr, &other));
    let meanwhile = allocator.alloc_raw(1000, &home).unwrap();
    assert_ne!(meanwhile, ptr);
    gate.open(1).unwrap();
    other.synchronize().unwrap();
    let again = allocator.alloc_raw(1000, &home).unwrap();
    assert_eq!(again, ptr);
    check(&allocator);

    let before = device.calls().sum(Call::ALL);
    free(&allocator, again).unwrap();
    assert_eq!(allocator.alloc_raw(1000, &home).unwrap(), ptr, "the old use is forgotten");
    assert_eq!(device.calls().sum(Call::ALL), before);
}

#[test]
fn a_use_by_the_blocks_own_stream_costs_nothing() {
    let device = device(64);
    let (allocator, home) = (allocator(&device, ""), stream(&device));
    let ptr = allocator.alloc_raw(1000, &home).unwrap();
    let before = device.calls().sum(Call::ALL);
    allocator.record_use_raw(ptr, &home).unwrap();
    free(&allocator, ptr).unwrap();
    assert_eq!(allocator.alloc_raw(1000, &home).unwrap(), ptr);
    assert_eq!(device.calls().sum(Call::ALL), before);
}

#[test]
fn any_thread_may_free() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let blocks: Vec<_> = (1..400).map(|i| allocator.alloc_raw(i, &stream).unwrap()).collect();
    std::thread::scope(|scope| {
        for part in blocks.chunks(100) {
            let allocator = &allocator;
            scope.spawn(move || part.iter().for_each(|&ptr| free(allocator, ptr).unwrap()));
        }
    });
    assert_eq!(allocator.stats().allocation.all.current, 0);
    check(&allocator);
}
