//! `policy:mempool`: blocks from the driver's own stream-ordered pool.

use std::sync::{Arc, Mutex, mpsc};

use riverbed::Error;
use riverbed::base::DeviceError;
use riverbed::device::host::{HostDriver, HostSpec};
use riverbed::device::{Call, Device, DevicePtr, Gate, Stream, StreamId};
use riverbed::pool::{Allocator, PrivatePoolOptions};

use crate::support::{MIB, stream, wait_until_all_memory_is_back};
use crate::{allocator, check, device};

const MEMPOOL: &str = "policy:mempool";

fn free(allocator: &Allocator, ptr: DevicePtr) -> riverbed::Result<()> {
    // SAFETY: the tests use no memory after handing it here, but for work they recorded.
    unsafe { allocator.free_raw(ptr) }
}

fn reserved(allocator: &Allocator) -> u64 {
    allocator.stats().reserved_bytes.all.current
}

#[test]
fn pytorchs_spelling_chooses_it_and_every_block_is_the_drivers() {
    for conf in [MEMPOOL, "backend:cudaMallocAsync", "backend:hipMallocAsync"] {
        let device = device(64);
        let (allocator, stream) = (allocator(&device, conf), stream(&device));
        for _ in 0..10 {
            drop(allocator.alloc::<u8>(1000, &stream).unwrap());
        }
        let calls = [Call::CreatePool, Call::PoolAlloc, Call::PoolFree, Call::Alloc];
        let made = calls.map(|call| device.calls().get(call));
        assert_eq!(made, [1, 10, 10, 0], "{conf}");
        check(&allocator);
    }
}

#[test]
fn counters_come_from_the_blocks_and_what_is_reserved_from_the_driver() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, MEMPOOL), stream(&device));
    let small = allocator.alloc::<u8>(1000, &stream).unwrap();
    let large = allocator.alloc_dedicated::<u8>(3 << 20, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!(stats.allocation.all.current, 2);
    assert_eq!((stats.requested_bytes.all.current, stats.segment.all.current), (1000 + 3 * MIB, 0));
    // Blocks are of the size asked for; only a dedicated one is of whole pages.
    assert_eq!(stats.allocated_bytes.all.current, 1000 + 4 * MIB);
    assert_eq!(
        (stats.reserved_bytes.all.current, stats.reserved_bytes.all.peak),
        (6 * MIB, 6 * MIB)
    );
    check(&allocator);

    drop((small, large));
    let stats = allocator.stats();
    assert_eq!((stats.active_bytes.all.current, stats.reserved_bytes.all.current), (0, 6 * MIB));
    assert_eq!(allocator.trim(), 6 * MIB);
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
    assert_eq!(allocator.stats().reserved_bytes.all.peak, 6 * MIB);
    allocator.reset_peak_stats();
    assert_eq!(allocator.stats().reserved_bytes.all.peak, 0);
    assert_eq!(allocator.trim(), 0);
    check(&allocator);
}

#[test]
fn the_conf_sets_the_pools_threshold_and_flags() {
    let made = |conf: &str| {
        let device = device(64);
        let (allocator, stream) = (allocator(&device, conf), stream(&device));
        drop(allocator.alloc::<u8>(5000, &stream).unwrap());
        stream.synchronize().unwrap();
        check(&allocator);
        (reserved(&allocator), device.calls().get(Call::PoolSet))
    };
    assert_eq!(made(MEMPOOL), (2 * MIB, 1), "all is kept, and flags are on by themselves");
    assert_eq!(made("policy:mempool,mempool_release_threshold_mb:0"), (0, 1));
    let flags = "policy:mempool,mempool_follow_event_dependencies:False,\
                 mempool_allow_opportunistic:False,mempool_allow_internal_dependencies:False";
    assert_eq!(made(flags), (2 * MIB, 4));
}

#[test]
fn devices_that_cannot_do_it_are_refused_with_the_way_out() {
    for (device, conf, words) in [
        ("sim:vram=64MiB,pools=off", MEMPOOL, "stream-ordered pool"),
        ("sim:vram=64MiB,pool_caps=off", "policy:mempool,limit_mb:40", "a limit of 40.00 MiB"),
        ("sim:vram=64MiB,pool_caps=off", "policy:mempool,per_process_memory_fraction:0.5", "limit"),
    ] {
        let device = Device::open(device).unwrap();
        let error = Allocator::builder(&device).conf_str(conf).unwrap().build().unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        for words in [words, "policy:mempool", "policy:caching"] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
    let uncapped = Device::open("sim:vram=64MiB,pool_caps=off").unwrap();
    let allocator = allocator(&uncapped, MEMPOOL);
    drop(allocator.alloc::<u8>(1000, &stream(&uncapped)).unwrap());
}

#[test]
fn what_can_never_fit_is_told_apart_and_costs_no_waiting() {
    let device = device(64);
    let stream = stream(&device);
    for (conf, bytes) in [
        ("policy:mempool,limit_mb:40", 40 * MIB + 1),
        ("policy:mempool,limit_mb:1", 1),
        ("policy:mempool,per_process_memory_fraction:0", 1),
        ("policy:mempool,per_process_memory_fraction:0.5", 32 * MIB + 1),
        (MEMPOOL, 64 * MIB + 1),
        (MEMPOOL, 1 << 62),
        (MEMPOOL, u64::MAX),
    ] {
        let allocator = allocator(&device, conf);
        let waits = device.calls().get(Call::SynchronizeStream);
        let error = allocator.alloc_raw(bytes, &stream).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{conf}, {bytes} bytes: {error}");
        assert_eq!(device.calls().get(Call::SynchronizeStream), waits);
        assert_eq!(allocator.stats().num_ooms, 1);
        check(&allocator);
    }
}

#[test]
fn memory_cached_in_pieces_is_given_back_and_taken_in_one() {
    // Virtual time: the streams are surely busy still when the blocks are freed.
    let device = Device::open("sim:vram=64MiB").unwrap();
    let conf = "policy:mempool,limit_mb:32";
    let (allocator, home, other) = (allocator(&device, conf), stream(&device), stream(&device));
    let live: Vec<_> = (0..8)
        .map(|index| allocator.alloc::<u8>(4 << 20, if index % 2 == 0 { &home } else { &other }))
        .collect();
    assert!(allocator.alloc::<u8>(1, &home).unwrap_err().is_retryable());
    home.busy(1_000_000).unwrap();
    other.busy(2_000_000).unwrap();
    drop(live);
    let whole = allocator.alloc::<u8>(32 << 20, &home).unwrap();
    let stats = allocator.stats();
    assert_eq!((stats.num_alloc_retries, stats.num_sync_all_streams, stats.num_ooms), (2, 2, 1));
    assert_eq!(stats.reserved_bytes.all.peak, 32 * MIB);
    let error = allocator.alloc::<u8>(4 << 20, &other).unwrap_err().to_string();
    for words in ["limit of 32.00 MiB", "the driver's pool", "trimming"] {
        assert!(error.contains(words), "{error}");
    }
    drop(whole);
    check(&allocator);
}

#[test]
fn a_block_used_elsewhere_costs_one_event_and_holds_up_neither_stream() {
    let device = device(64);
    let (allocator, home, other) = (allocator(&device, MEMPOOL), stream(&device), stream(&device));
    let gate = Gate::new(&device).unwrap();
    let raw = allocator.alloc_raw(1000, &home).unwrap();
    allocator.record_use_raw(raw, &other).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    let records = device.calls().get(Call::RecordEvent);
    free(&allocator, raw).unwrap();
    assert_eq!(device.calls().get(Call::RecordEvent), records + 1);
    assert_eq!(allocator.stats().cross_stream_waits, 1);
    assert_eq!(allocator.stats().retired_bytes, 1000);
    // The stream it was allocated on runs on meanwhile.
    let (sender, reached) = mpsc::channel();
    home.launch_host(Box::new(move || sender.send(()).unwrap())).unwrap();
    reached.recv().unwrap();
    home.synchronize().unwrap();
    let freed = device.calls().get(Call::PoolFree);
    gate.open(1).unwrap();
    other.synchronize().unwrap();
    assert_eq!(allocator.stats().retired_bytes, 0);
    assert_eq!(device.calls().get(Call::PoolFree), freed + 1);
    check(&allocator);
}

#[test]
fn thousands_of_raw_blocks_are_known_by_address() {
    let device = device(64);
    let (allocator, streams) = (allocator(&device, MEMPOOL), [stream(&device), stream(&device)]);
    let blocks: Vec<_> = (0..3000)
        .map(|at| allocator.alloc_raw(1 + at, &streams[at as usize % 2]).unwrap())
        .collect();
    check(&allocator);
    assert!(free(&allocator, blocks[7].offset(1)).is_err());
    std::thread::scope(|scope| {
        for half in blocks.chunks(1500) {
            scope.spawn(|| half.iter().for_each(|&ptr| free(&allocator, ptr).unwrap()));
        }
    });
    assert_eq!(allocator.stats().allocation.all.current, 0);
    assert!(blocks.iter().all(|&ptr| free(&allocator, ptr).is_err()));
    assert!(allocator.record_use_raw(blocks[0], &streams[1]).is_err());
    assert_eq!(device.calls().get(Call::PoolFree), 3000);
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn what_another_thread_freed_is_found_when_memory_is_short() {
    let device = device(64);
    let (allocator, home) = (allocator(&device, MEMPOOL), stream(&device));
    let on_stream = allocator.on(&home).unwrap();
    let first = on_stream.alloc::<u8>(40 << 20).unwrap();
    std::thread::scope(|scope| scope.spawn(move || drop(first)).join().unwrap());
    let second = on_stream.alloc::<u8>(60 << 20).unwrap();
    let other = stream(&device);
    std::thread::scope(|scope| scope.spawn(move || drop(second)).join().unwrap());
    drop(allocator.alloc::<u8>(50 << 20, &other).unwrap());
    check(&allocator);
}

#[test]
fn a_block_the_driver_does_not_take_stays_counted_until_it_is_trimmed() {
    let spec: HostSpec = "host:vram=64MiB".parse().unwrap();
    let driver = HostDriver::new("failing", spec).unwrap();
    let device = Device::from_driver(Arc::clone(&driver) as Arc<_>);
    let (allocator, stream) = (allocator(&device, MEMPOOL), stream(&device));
    let ptr = allocator.alloc_raw(5 << 20, &stream).unwrap();
    driver.faults().fail_nth(Some(Call::PoolFree), 1, DeviceError::UNKNOWN);
    free(&allocator, ptr).unwrap();
    assert!(free(&allocator, ptr).is_err());
    check(&allocator);
    assert_eq!(allocator.stats().allocated_bytes.all.current, 0);
    assert_eq!(reserved(&allocator), 6 * MIB);
    assert_eq!(allocator.trim(), 6 * MIB);
    allocator.close().unwrap();
}

#[test]
fn dropping_everything_waits_for_no_stream_and_gives_all_back() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let gate = Gate::new(&device).unwrap();
    let allocator = allocator(&device, MEMPOOL);
    let (kept, used) =
        (allocator.alloc::<u8>(2 << 20, &home).unwrap(), allocator.alloc_raw(1000, &home).unwrap());
    drop(allocator.alloc::<u8>(9 << 20, &other).unwrap());
    home.wait_gate(&gate, 1).unwrap();
    allocator.record_use_raw(used, &other).unwrap();
    free(&allocator, used).unwrap();
    drop(allocator);
    drop(kept);
    gate.open(1).unwrap();
    wait_until_all_memory_is_back(&device);
    assert_eq!(device.calls().get(Call::DestroyPool), 1);
}

#[test]
fn the_per_thread_default_stream_is_refused() {
    let device = device(64);
    let allocator = allocator(&device, MEMPOOL);
    // SAFETY: nothing is enqueued to the stream; the allocator refuses it by its handle.
    let per_thread = unsafe { Stream::from_raw(&device, StreamId::from_raw(2)) };
    let error = allocator.alloc::<u8>(1, &per_thread).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("make a stream"), "{error}");
    check(&allocator);
}

#[test]
fn options_of_other_policies_are_named_as_without_effect() {
    let text = "backend:cudaMallocAsync,max_split_size_mb:64,limit_mb:40,\
                roundup_power2_divisions:4,expandable_segments:False";
    let conf: riverbed::conf::Conf = text.parse().unwrap();
    assert_eq!(conf.set_but_unread(), ["max_split_size_mb", "roundup_power2_divisions"]);
    for option in conf.explain() {
        let placing = option.honoured_by == [riverbed::conf::HonouredBy::Native];
        assert_eq!(option.unread, placing && option.key != "expandable_segments", "{}", option.key);
    }
    let native: riverbed::conf::Conf = "max_split_size_mb:64".parse().unwrap();
    assert!(native.set_but_unread().is_empty());
    for option in native.explain() {
        assert_eq!(option.unread, option.key.starts_with("mempool_"), "{}", option.key);
    }
    let native: riverbed::conf::Conf = "mempool_allow_opportunistic:False".parse().unwrap();
    assert_eq!(native.set_but_unread(), ["mempool_allow_opportunistic"]);
}

#[test]
fn what_a_callback_frees_serves_the_request() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "policy:mempool,limit_mb:40"), stream(&device));
    let held = Arc::new(Mutex::new(allocator.alloc::<u8>(30 << 20, &stream).ok()));
    let spare = Arc::clone(&held);
    let _registration = allocator.on_out_of_memory(move |_| spare.lock().unwrap().take().is_some());
    let buffer = allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    assert!(held.lock().unwrap().is_none());
    assert_eq!(allocator.stats().num_ooms, 0);
    drop(buffer);
    check(&allocator);
}

#[test]
fn private_pools_are_counted_and_captures_are_refused() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, MEMPOOL), stream(&device));
    let pool = allocator.private_pool(PrivatePoolOptions::default());
    let block = pool.on(&stream).unwrap().alloc::<u8>(3 << 20).unwrap();
    assert_eq!(pool.reserved_bytes().current, 3 * MIB);
    check(&allocator);
    drop(block);
    assert_eq!(pool.reserved_bytes().current, 0);
    let refused = pool.begin_capture(&stream).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    check(&allocator);
}
