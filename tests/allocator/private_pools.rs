//! Private pools: memory apart, given back as one.

use riverbed::Error;
use riverbed::device::Gate;
use riverbed::pool::PrivatePoolOptions;

use crate::support::{MIB, stream, wait_until};
use crate::{allocator, check, device};

fn plain() -> PrivatePoolOptions {
    PrivatePoolOptions::default()
}

#[test]
fn memory_of_a_pool_serves_only_requests_made_there() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let (pool, other) = (allocator.private_pool(plain()), allocator.private_pool(plain()));
    assert!(pool.id() > 0 && pool.id() != other.id());
    let buffer = pool.on(&stream).unwrap().alloc::<u8>(1000).unwrap();
    let address = buffer.ptr();
    drop(buffer);
    let outside = allocator.alloc::<u8>(1000, &stream).unwrap();
    let elsewhere = other.on(&stream).unwrap().alloc::<u8>(1000).unwrap();
    let again = pool.on(&stream).unwrap().alloc::<u8>(1000).unwrap();
    assert_eq!(again.ptr(), address);
    assert_eq!(allocator.stats().segment.all.current, 3, "{:?}", (outside, elsewhere));
    assert_eq!(pool.reserved_bytes().current, 2 * MIB);
    let pools = allocator.private_pools();
    assert_eq!(pools.iter().map(|pool| pool.id).collect::<Vec<_>>(), [pool.id(), other.id()]);
    check(&allocator);
}

#[test]
fn a_pool_goes_back_at_once_with_its_last_handle() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let pool = allocator.private_pool(plain());
    let handle = pool.on(&stream).unwrap();
    drop(handle.alloc::<u8>(3 << 20).unwrap());
    drop(pool);
    assert_eq!(allocator.stats().reserved_bytes.all.current, 20 * MIB, "the handle keeps it");
    drop(handle);
    wait_until("the pool is back", || allocator.private_pools().is_empty());
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
    check(&allocator);
    allocator.close().unwrap();
}

#[test]
fn live_blocks_keep_their_segments_until_they_are_freed() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let pool = allocator.private_pool(plain());
    let handle = pool.on(&stream).unwrap();
    let (small, large) = (handle.alloc::<u8>(1000).unwrap(), handle.alloc::<u8>(3 << 20).unwrap());
    drop((handle, pool));
    drop(large);
    let held = || allocator.private_pools()[0].reserved_bytes.current;
    wait_until("the free segment is back", || held() == 2 * MIB);
    check(&allocator);
    drop(small);
    wait_until("the last one is back", || allocator.private_pools().is_empty());
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn a_closed_pools_blocks_go_back_once_other_streams_are_done() {
    let device = device(64);
    let (allocator, home, other) = (allocator(&device, ""), stream(&device), stream(&device));
    let pool = allocator.private_pool(plain());
    let [before, after] = [(); 2].map(|()| pool.on(&home).unwrap().alloc::<u8>(12 << 20).unwrap());
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    before.fill(1, &other).unwrap();
    after.fill(1, &other).unwrap();
    drop(before);
    drop(pool);
    drop(after);
    assert_eq!(device.memory().unwrap().free_bytes, 40 * MIB, "the other stream still writes");
    gate.open(1).unwrap();
    wait_until("both are back", || allocator.private_pools().is_empty());
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
    check(&allocator);
}

#[test]
fn pools_made_and_dropped_again_and_again_leave_nothing() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    for _ in 0..5000 {
        let pool = allocator.private_pool(plain());
        drop(pool.on(&stream).unwrap().alloc::<u8>(1000).unwrap());
    }
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn only_trim_of_the_pool_gives_back_what_an_open_pool_has_cached() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:40"), stream(&device));
    let (pool, kept) = (allocator.private_pool(plain()), allocator.private_pool(plain()));
    for pool in [&pool, &kept] {
        drop(pool.on(&stream).unwrap().alloc::<u8>(12 << 20).unwrap());
    }
    assert_eq!(allocator.trim(), 0);
    let error = allocator.alloc::<u8>(20 << 20, &stream).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    assert!(allocator.clone().close().unwrap_err().to_string().contains("private pool 1"));
    assert_eq!(pool.trim(), 12 * MIB);
    assert_eq!((pool.reserved_bytes().current, kept.reserved_bytes().current), (0, 12 * MIB));
    allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    check(&allocator);
}

#[test]
fn whole_segments_are_handed_out_where_nothing_is_split() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let pool = allocator.private_pool(plain().no_split());
    let on_stream = pool.on(&stream).unwrap();
    let buffers = [1000, 3 << 20].map(|bytes| on_stream.alloc::<u8>(bytes).unwrap());
    let stats = allocator.stats();
    assert_eq!(stats.allocated_bytes.all.current, 22 * MIB);
    assert_eq!(stats.requested_bytes.all.current, 1000 + 3 * MIB);
    let addresses = buffers.each_ref().map(|buffer| buffer.ptr());
    drop(buffers);
    assert_eq!(on_stream.alloc::<u8>(5 << 20).unwrap().ptr(), addresses[1], "cached, and whole");
    assert_eq!(allocator.stats().segment.all.current, 2);
    check(&allocator);
}

#[test]
fn a_lending_pool_serves_requests_that_find_no_memory() {
    let device = device(100);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let pool = allocator.private_pool(plain().use_on_oom());
    drop(pool.on(&stream).unwrap().alloc::<u8>(60 << 20).unwrap());
    let buffer = allocator.alloc::<u8>(50 << 20, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!(
        (stats.num_device_alloc, stats.num_device_free, stats.num_sync_all_streams),
        (1, 0, 0)
    );
    assert_eq!(stats.inactive_split_bytes.all.current, 10 * MIB, "it was split");
    drop(buffer);
    assert_eq!(pool.reserved_bytes().current, 60 * MIB, "it stays the pool's");
    check(&allocator);
    // A borrowed block is given back to the pool it came from by every kind of owner.
    drop(allocator.on(&stream).unwrap().block(50 << 20).unwrap());
    let all = allocator.alloc::<u8>(90 << 20, &stream).expect("on the last rung the pool yields");
    assert_eq!((all.size_bytes(), pool.reserved_bytes().current), (90 * MIB, 0));
    check(&allocator);
}

#[test]
fn a_scope_sends_its_threads_requests_to_the_pool() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let (outer, inner) = (allocator.private_pool(plain()), allocator.private_pool(plain()));
    let before = allocator.on(&stream).unwrap();
    let counts = || [&outer, &inner].map(|pool| pool.reserved_bytes().current / MIB);
    let _first = allocator.alloc::<u8>(1000, &stream).unwrap();
    assert_eq!(counts(), [0, 0]);
    let in_outer = allocator.enter_pool(&outer).unwrap();
    let _second = allocator.alloc::<u8>(1000, &stream).unwrap();
    assert_eq!(counts(), [2, 0]);
    let in_inner = allocator.enter_pool(&inner).unwrap();
    let raw = allocator.alloc_raw(1000, &stream).unwrap();
    let from_handle = allocator.on(&stream).unwrap();
    assert_eq!(from_handle.pool().unwrap().id(), inner.id());
    assert_eq!(counts(), [2, 2], "the scope begun last counts");
    std::thread::scope(|scope| {
        scope.spawn(|| allocator.alloc::<u8>(12 << 20, &stream).unwrap());
    });
    let _old_handle = before.block(13 << 20).unwrap();
    assert_eq!(counts(), [2, 2], "other threads and older handles are not affected");
    // Scopes may end in any order.
    drop(in_outer);
    let _third = allocator.alloc::<u8>(12 << 20, &stream).unwrap();
    assert_eq!(counts(), [2, 14]);
    drop(in_inner);
    let _fourth = allocator.alloc::<u8>(1000, &stream).unwrap();
    assert_eq!(counts(), [2, 14]);
    #[expect(unsafe_code, reason = "nothing uses the block")]
    // SAFETY: no work was ever enqueued on the block.
    unsafe { allocator.free_raw(raw) }.unwrap();
    check(&allocator);

    let elsewhere = crate::allocator(&device, "");
    let error = elsewhere.enter_pool(&outer).unwrap_err().to_string();
    assert!(error.contains("another allocator"), "{error}");
}
