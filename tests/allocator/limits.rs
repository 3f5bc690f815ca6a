//! The hard limit.

use std::sync::atomic::{AtomicBool, Ordering};

use riverbed::Error;
use riverbed::pool::Allocator;

use crate::support::{MIB, Random, download, stream};
use crate::{allocator, check, device};

#[test]
fn the_limit_holds_while_four_threads_hammer() {
    hammer_within("caching", 64);
    hammer_within("expandable", 20);
    hammer_within("planned", 20);
    // Exact sizes, and a driver that mends shortages itself, need less.
    hammer_within("mempool", 16);
}

fn hammer_within(policy: &str, limit_mib: u64) {
    let limit_bytes = limit_mib * MIB;
    let device = device(256);
    let allocator = allocator(&device, &format!("policy:{policy},limit_mb:{limit_mib}"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let (allocator, device) = (&allocator, &device);
                scope.spawn(move || hammer(allocator, device, thread))
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let memory = device.memory().unwrap();
                let held = memory.total_bytes - memory.free_bytes;
                assert!(held <= limit_bytes, "{held} bytes held of the device");
                // Not the counters: they add up only while nobody counts.
                allocator.check().unwrap();
            }
        });
        let results: Vec<_> =
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        let served: u32 = results.into_iter().map(Result::unwrap).sum();
        assert!(served > 100, "only {served} requests were served");
    });
    check(&allocator);
    let stats = allocator.stats();
    assert!(stats.reserved_bytes.all.peak <= limit_bytes, "{stats:?}");
    assert!(stats.num_alloc_retries > 0, "the limit was never felt: {stats:?}");
    assert_eq!(stats.allocation.all.current, 0);
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, device.info().total_bytes);
}

/// Takes, fills, checks and drops; gives how many requests were served.
fn hammer(allocator: &Allocator, device: &riverbed::device::Device, thread: u64) -> u32 {
    let (own, other) = (stream(device), stream(device));
    let mut random = Random::new(thread);
    let mut held = Vec::new();
    let mut served = 0;
    for round in 0..300u64 {
        let bytes = random.size(23);
        match allocator.alloc::<u8>(bytes as usize, &own) {
            Ok(buffer) => {
                served += 1;
                let value = (thread * 61 + round) as u8;
                buffer.fill(value, if round % 3 == 0 { &other } else { &own }).unwrap();
                held.push((buffer, value));
            }
            Err(Error::OutOfMemory(_)) => held.clear(),
            Err(error) => panic!("{error}"),
        }
        if held.len() > 8 {
            let (buffer, value) = held.swap_remove(random.below(8) as usize);
            buffer.use_on(&own).unwrap();
            let seen = download(&own, buffer.ptr(), buffer.len().min(64));
            assert!(seen.iter().all(|&byte| byte == value), "thread {thread}, round {round}");
        }
    }
    served
}

#[test]
fn the_smallest_limit_counts_in_whatever_order_they_are_given() {
    let device = device(100);
    let limit = |build: &dyn Fn() -> riverbed::Result<Allocator>| build().unwrap().limit_bytes();
    let builder = || Allocator::builder(&device);
    let (small, large) = (10 * MIB + 4096, 90 * MIB);
    assert_eq!(limit(&|| builder().build()), None);
    assert_eq!(limit(&|| builder().limit_bytes(small)?.build()), Some(small));
    for least in [
        limit(&|| builder().limit_bytes(small)?.conf_str("limit_mb:90")?.build()),
        limit(&|| builder().limit_bytes(small)?.limit_bytes(large)?.build()),
        limit(&|| builder().limit_bytes(large)?.limit_bytes(small)?.build()),
    ] {
        assert_eq!(least, Some(small));
    }
    let by_conf = limit(&|| builder().conf_str("limit_mb:10")?.limit_bytes(large)?.build());
    assert_eq!(by_conf, Some(10 * MIB));
    let half = "per_process_memory_fraction:0.5,limit_mb:60";
    assert_eq!(limit(&|| builder().conf_str(half)?.limit_bytes(large)?.build()), Some(50 * MIB));
    let built = builder().limit_bytes(small).unwrap().build().unwrap();
    assert_eq!(built.conf().limit_bytes, Some(small), "the conf in force tells the limit");
}

#[test]
fn what_can_never_fit_is_told_from_what_does_not_fit_now() {
    let device = device(64);
    let stream = stream(&device);
    let limited = allocator(&device, "limit_mb:32");
    let open = allocator(&device, "");
    for (allocator, mib, words) in [
        (
            &limited,
            33,
            ["a request for 33.00 MiB", "can never fit", "32.00 MiB is all", "raise the limit"],
        ),
        (
            &open,
            65,
            ["a request for 65.00 MiB", "can never fit", "64.00 MiB is all", "a larger device"],
        ),
    ] {
        let errors = [
            allocator.alloc::<u8>(mib << 20, &stream).unwrap_err(),
            allocator.alloc_dedicated::<u8>(mib << 20, &stream).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::TooLarge { .. }), "{error}");
            assert!(!error.is_retryable(), "nothing anybody frees can help");
            let text = error.to_string();
            assert!(words.iter().all(|words| text.contains(words)), "{text}");
        }
    }
    let _held = limited.alloc::<u8>(20 << 20, &stream).unwrap();
    let now = limited.alloc::<u8>(20 << 20, &stream).unwrap_err();
    assert!(matches!(now, Error::OutOfMemory(_)), "{now}");
}

#[test]
fn a_limit_of_nothing_refuses_every_request() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "per_process_memory_fraction:0");
    let error = allocator.alloc::<u8>(1, &stream).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert_eq!(allocator.stats().reserved_bytes.all.peak, 0);
}
