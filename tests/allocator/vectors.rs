//! Programs whose outcome in PyTorch 2.15 is known, run on the caching policy.

use std::sync::Arc;

use riverbed::Error;
use riverbed::device::{Call, Device};
use riverbed::event::TraceEvent;
use riverbed::pool::{Allocator, Buffer};

use crate::support::{MIB, stream};
use crate::{Trace, allocator, check, device};

#[test]
fn first_allocations_take_blocks_and_segments_of_the_known_sizes() {
    for (bytes, block, segment) in [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, 1_049_088, 20 * MIB),
        (10 * MIB - 1, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10_486_272, 12 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),
    ] {
        let device = device(64);
        let (allocator, stream) = (allocator(&device, ""), stream(&device));
        let buffer = allocator.alloc::<u8>(bytes as usize, &stream).unwrap();
        let stats = allocator.stats();
        assert_eq!(stats.allocated_bytes.all.current, block, "block for {bytes}");
        assert_eq!(stats.reserved_bytes.all.current, segment, "segment for {bytes}");
        assert_eq!(stats.requested_bytes.all.current, bytes);
        assert_eq!(buffer.size_bytes(), bytes);
        check(&allocator);
    }
}

#[test]
fn a_remainder_of_one_mib_is_not_split_off() {
    let device = device(256);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    drop(allocator.alloc::<u8>(100 << 20, &stream).unwrap());
    let _buffer = allocator.alloc::<u8>(99 << 20, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!(stats.allocated_bytes.all.current, 100 * MIB);
    assert_eq!(stats.requested_bytes.all.current, 99 * MIB);
    assert_eq!(stats.num_device_alloc, 1);
}

#[test]
fn a_remainder_above_one_mib_is_split_off_and_serves() {
    let device = device(256);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    drop(allocator.alloc::<u8>(100 << 20, &stream).unwrap());
    let front = allocator.alloc::<u8>((99 << 20) - 512, &stream).unwrap();
    assert_eq!(allocator.stats().allocated_bytes.all.current, 103_808_512);
    let rest = allocator.alloc::<u8>(1_049_088, &stream).unwrap();
    assert_eq!(rest.ptr().0 - front.ptr().0, 103_808_512, "the rest lies behind the front");
    let stats = allocator.stats();
    assert_eq!(stats.allocated_bytes.all.current, 100 * MIB);
    assert_eq!(stats.num_device_alloc, 1);
    check(&allocator);
}

#[test]
fn the_smallest_segment_that_holds_a_request_serves_it() {
    let device = device(256);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let held = [30, 50, 40].map(|mib| allocator.alloc::<u8>(mib << 20, &stream).unwrap());
    let smallest = held[0].ptr();
    drop(held);
    let front = allocator.alloc::<u8>(25 << 20, &stream).unwrap();
    assert_eq!(front.ptr(), smallest);
    let rest = allocator.alloc::<u8>(5 << 20, &stream).unwrap();
    assert_eq!(rest.ptr(), smallest.offset(25 * MIB), "the rest of it is the best fit for 5");
    assert_eq!(allocator.stats().num_device_alloc, 3);
    assert_eq!(allocator.stats().allocated_bytes.all.current, 30 * MIB);
}

#[test]
fn an_oversize_block_does_not_serve_a_small_request() {
    let device = device(512);
    let (allocator, stream) = (allocator(&device, "max_split_size_mb:100"), stream(&device));
    let large = allocator.alloc::<u8>(200 << 20, &stream).unwrap().ptr();
    let small = allocator.alloc::<u8>(50 << 20, &stream).unwrap();
    assert_ne!(small.ptr(), large);
    assert_eq!(allocator.stats().reserved_bytes.all.current, 250 * MIB);
    assert_eq!(allocator.stats().oversize_segments.current, 1);
    let again = allocator.alloc::<u8>(190 << 20, &stream).unwrap();
    assert_eq!(again.ptr(), large, "it serves what is nearly its size");
    assert_eq!(allocator.stats().allocated_bytes.all.current, 250 * MIB, "unsplit");
}

/// Even for the request that took it from the device.
#[test]
fn an_oversize_segment_serves_a_small_request_once() {
    let device = device(128);
    let (allocator, stream) = (allocator(&device, "max_split_size_mb:20"), stream(&device));
    let first = allocator.alloc::<u8>(2 << 20, &stream).unwrap().ptr();
    let second = allocator.alloc::<u8>(2 << 20, &stream).unwrap();
    assert_ne!(second.ptr(), first, "whole again it is a block of 20 MiB, and oversize");
    assert_eq!(allocator.stats().num_device_alloc, 2);
    assert_eq!(allocator.stats().oversize_segments.current, 2);
    check(&allocator);
}

#[test]
fn sizes_are_rounded_to_parts_of_powers_of_two() {
    let device = Device::open("sim:80GiB").unwrap();
    let conf = "roundup_power2_divisions:4";
    let (allocator, stream) = (allocator(&device, conf), stream(&device));
    for (bytes, block) in [
        (1200, 1536),
        (600, 1024),
        (300 * MIB + 5, 320 * MIB),
        (600 * MIB + 7, 640 * MIB),
        (1100 * MIB + 1, 1280 * MIB),
    ] {
        let buffer = allocator.alloc::<u8>(bytes as usize, &stream).unwrap();
        assert_eq!(allocator.stats().allocated_bytes.all.current, block, "{bytes} bytes");
        drop(buffer);
        allocator.trim();
    }
}

#[test]
fn cached_segments_go_back_when_a_larger_one_is_needed() {
    let device = device(100);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let held = [40, 30].map(|mib| allocator.alloc::<u8>(mib << 20, &stream).unwrap());
    drop(held);
    let _buffer = allocator.alloc::<u8>(80 << 20, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!(stats.num_alloc_retries, 1);
    assert_eq!(stats.num_sync_all_streams, 1);
    assert_eq!(stats.num_device_alloc, 3);
    assert_eq!(stats.num_device_free, 2);
    assert_eq!(stats.num_ooms, 0);
    assert_eq!(stats.reserved_bytes.all.current, 80 * MIB);
    check(&allocator);
}

#[test]
fn old_segments_are_collected_above_the_threshold() {
    let device = device(200);
    let conf = "garbage_collection_threshold:0.6,per_process_memory_fraction:0.5";
    let (allocator, stream) = (allocator(&device, conf), stream(&device));
    let mut reserved_mib = Vec::new();
    for mib in [20, 24, 28, 32, 36, 40] {
        drop(allocator.alloc::<u8>(mib << 20, &stream).unwrap());
        reserved_mib.push(allocator.stats().reserved_bytes.all.current / MIB);
        check(&allocator);
    }
    assert_eq!(reserved_mib, [20, 44, 72, 60, 96, 76]);
    assert_eq!(allocator.stats().num_sync_all_streams, 0, "collecting is not the last rung");
}

#[test]
fn the_trace_tells_segments_and_blocks_in_order() {
    let device = device(64);
    let stream = stream(&device);
    let trace = Arc::new(Trace::default());
    let allocator = Allocator::builder(&device).recorder(trace.clone()).build().unwrap();
    let small = allocator.alloc::<u8>(1000, &stream).unwrap();
    let large = allocator.alloc::<u8>(30 << 20, &stream).unwrap();
    let (small_at, large_at) = (small.ptr().0, large.ptr().0);
    drop(small);
    drop(large);
    assert_eq!(allocator.trim(), 32 * MIB);
    let stream = stream.id().raw();
    let (small, large) = (2 * MIB, 30 * MIB);
    assert_eq!(
        *trace.0.lock().unwrap(),
        [
            TraceEvent::SegmentAlloc { address: small_at, bytes: small, stream },
            TraceEvent::Alloc { address: small_at, bytes: 1024, requested_bytes: 1000, stream },
            TraceEvent::SegmentAlloc { address: large_at, bytes: large, stream },
            TraceEvent::Alloc { address: large_at, bytes: large, requested_bytes: large, stream },
            TraceEvent::FreeRequested { address: small_at, bytes: 1024, stream },
            TraceEvent::FreeCompleted { address: small_at, bytes: 1024, stream },
            TraceEvent::FreeRequested { address: large_at, bytes: large, stream },
            TraceEvent::FreeCompleted { address: large_at, bytes: large, stream },
            // Large segments first.
            TraceEvent::SegmentFree { address: large_at, bytes: large, stream },
            TraceEvent::SegmentFree { address: small_at, bytes: small, stream },
        ]
    );
}

/// As PyTorch does, it climbs to the last rung (one retry, one synchronisation of all streams);
/// unlike there, nothing cached is given up for what can never fit.
#[test]
fn a_request_above_the_limit_by_itself_waits_and_fails() {
    let device = device(100);
    let (allocator, stream) =
        (allocator(&device, "per_process_memory_fraction:0.5"), stream(&device));
    assert_eq!(allocator.limit_bytes(), Some(50 * MIB));
    let error = allocator.alloc::<u8>(60 << 20, &stream).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("50.00 MiB is all there is"), "{error}");
    let stats = allocator.stats();
    assert_eq!(stats.num_ooms, 1);
    assert_eq!((stats.num_alloc_retries, stats.num_sync_all_streams), (1, 1));
    assert_eq!(device.calls().get(Call::Alloc), 0);
}

#[test]
fn neighbours_merge_again_whatever_the_order_of_freeing() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let device = device(64);
        let (allocator, stream) = (allocator(&device, ""), stream(&device));
        let mut held: [Option<Buffer>; 3] =
            [(); 3].map(|()| Some(allocator.alloc(6 << 20, &stream).unwrap()));
        for index in order {
            held[index] = None;
            check(&allocator);
        }
        let whole = allocator.alloc::<u8>(20 << 20, &stream).unwrap();
        assert_eq!(allocator.stats().num_device_alloc, 1, "order {order:?}");
        drop(whole);
    }
}
