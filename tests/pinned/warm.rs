//! What a warm block takes: nothing of the system, the driver or the heap.

use riverbed::device::{Call, Device};

use crate::allocations::allocated_bytes;
use crate::support::stream;
use crate::{host, pool};

/// Runs `round` until nothing is new, then counts what a thousand more take.
#[track_caller]
fn takes_nothing(device: &Device, calls: &[Call], mut round: impl FnMut()) {
    for _ in 0..200 {
        round();
    }
    let before = (allocated_bytes(), device.calls().sum(calls));
    for _ in 0..1000 {
        round();
    }
    let after = (allocated_bytes(), device.calls().sum(calls));
    assert_eq!(after, before, "bytes of heap and driver calls");
}

#[test]
fn a_warm_block_asks_nobody() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:300");
    for bytes in [64usize << 10, 1 << 20, 17 << 20, 256 << 20] {
        takes_nothing(&device, Call::ALL, || drop(pool.alloc(bytes).unwrap()));
    }
    pool.check().unwrap();
}

#[test]
fn many_sizes_at_once_ask_nobody() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:64");
    takes_nothing(&device, Call::ALL, || {
        drop([1, 5_000, 70_000, 900_000, 4 << 20].map(|bytes| pool.alloc(bytes).unwrap()));
    });
}

#[test]
fn a_block_that_a_copy_used_takes_an_event_of_the_pool_and_no_memory() {
    let device = Device::open("sim:1GiB").unwrap();
    let stream = stream(&device);
    let pool = pool(&device, "pinned_limit_mb:64");
    let memory = [Call::AllocPinned, Call::Register, Call::CreateEvent];
    takes_nothing(&device, &memory, || {
        let block = pool.alloc(1 << 20).unwrap();
        block.record_use(&stream).unwrap();
    });
    assert_eq!(pool.stats().reserved_bytes, 2 << 20);
}

#[test]
fn what_one_thread_drops_serves_others_before_more_is_pinned() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:64");
    let other = pool.clone();
    std::thread::spawn(move || drop(other.alloc(3 << 20).unwrap())).join().unwrap();
    assert_eq!(pool.stats().cached_bytes, 3 << 20);
    let (large, small) = (pool.alloc(2 << 20).unwrap(), pool.alloc(1 << 20).unwrap());
    assert_eq!(pool.stats().reserved_bytes, 3 << 20, "another size of the same memory");
    drop((large, small));
    pool.check().unwrap();
}

#[test]
fn blocks_taken_here_and_dropped_there_do_not_pile_up() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:64");
    let (sender, blocks) = std::sync::mpsc::sync_channel(2);
    let consumer = std::thread::spawn(move || blocks.into_iter().for_each(drop));
    for _ in 0..500 {
        sender.send(pool.alloc(1 << 20).unwrap()).unwrap();
    }
    drop(sender);
    consumer.join().unwrap();
    // Two in the channel, one at each end, sixteen on the consumer's shelf, and one being moved.
    assert!(pool.stats().reserved_peak_bytes <= 22 << 20, "{:?}", pool.stats());
    assert_eq!((pool.stats().active_bytes, pool.stats().frees), (0, 500));
    pool.check().unwrap();
}
