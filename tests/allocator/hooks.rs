//! Callbacks that may free memory before a request fails, and observers of those that do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use riverbed::Error;
use riverbed::pool::{Buffer, Shortage};

use crate::support::{MIB, stream};
use crate::{allocator, check, device};

#[test]
fn what_a_callback_frees_serves_the_request_before_the_host_waits() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:40"), stream(&device));
    let cached: Vec<Buffer> =
        (0..2).map(|_| allocator.alloc::<u8>(20 << 20, &stream).unwrap()).collect();
    let cached = Arc::new(Mutex::new(cached));
    let seen = Arc::new(Mutex::new(Vec::<Shortage>::new()));
    let (spare, seen_by) = (Arc::clone(&cached), Arc::clone(&seen));
    let registration = allocator.on_out_of_memory(move |shortage| {
        seen_by.lock().unwrap().push(shortage.clone());
        spare.lock().unwrap().pop().is_some()
    });
    let buffer = allocator.alloc::<u8>(15 << 20, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!((stats.num_alloc_retries, stats.num_sync_all_streams, stats.num_ooms), (0, 0, 0));
    assert_eq!(stats.num_device_alloc, 2, "the freed block served it");
    {
        let seen = seen.lock().unwrap();
        let [shortage] = &seen[..] else { panic!("one call was expected, not {seen:?}") };
        assert_eq!((shortage.requested_bytes, shortage.segment_bytes), (15 * MIB, 16 * MIB));
        assert_eq!((shortage.allowed_bytes, shortage.device_free_bytes), (40 * MIB, 24 * MIB));
        assert_eq!(shortage.device, "host:vram=64MiB");
    }
    drop(registration);
    allocator.alloc::<u8>(30 << 20, &stream).unwrap_err();
    assert_eq!(seen.lock().unwrap().len(), 1, "a callback that is gone is not called");
    drop(buffer);
    check(&allocator);
}

#[test]
fn every_callback_is_asked_and_one_that_frees_nothing_changes_nothing() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:20"), stream(&device));
    let _held = allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let _registrations = [true, false].map(|says| {
        let calls = Arc::clone(&calls);
        allocator.on_out_of_memory(move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            says
        })
    });
    for mib in [4, 400] {
        allocator.alloc::<u8>(mib << 20, &stream).unwrap_err();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2, "what can never fit asks nobody");
    assert_eq!(allocator.stats().num_ooms, 2);
    check(&allocator);
}

#[test]
fn a_callback_may_use_the_allocator_and_is_not_asked_again_from_within() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:20"), stream(&device));
    let held = Arc::new(Mutex::new(Some(allocator.alloc::<u8>(20 << 20, &stream).unwrap())));
    let calls = Arc::new(AtomicUsize::new(0));
    let _registration = {
        let (calls, held, stream) = (Arc::clone(&calls), Arc::clone(&held), stream.clone());
        let within = allocator.clone();
        allocator.on_out_of_memory(move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            within.alloc::<u8>(8 << 20, &stream).unwrap_err();
            within.check().unwrap();
            *held.lock().unwrap() = None;
            within.trim() > 0
        })
    };
    allocator.alloc::<u8>(12 << 20, &stream).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    check(&allocator);
}

#[test]
fn a_callback_that_panics_leaves_the_allocator_whole() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:20"), stream(&device));
    let held = allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    let registration = allocator.on_out_of_memory(|_| panic!("meant to happen"));
    for _ in 0..2 {
        let work = std::panic::AssertUnwindSafe(|| allocator.alloc::<u8>(4 << 20, &stream));
        std::panic::catch_unwind(work).unwrap_err();
    }
    drop((registration, held));
    check(&allocator);
    allocator.alloc::<u8>(4 << 20, &stream).unwrap();
}

#[test]
fn observers_see_every_failure_with_its_error() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:20"), stream(&device));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let _registration = {
        let (seen, within) = (Arc::clone(&seen), allocator.clone());
        allocator.on_failure(move |shortage, error| {
            let is_retryable = matches!(error, Error::OutOfMemory(_));
            let reserved = within.stats().reserved_bytes.all.current;
            seen.lock().unwrap().push((
                shortage.segment_bytes,
                shortage.allowed_bytes,
                is_retryable,
                reserved,
            ));
        })
    };
    let held = allocator.alloc::<u8>(11 << 20, &stream).unwrap();
    allocator.alloc::<u8>(15 << 20, &stream).unwrap_err();
    allocator.alloc::<u8>(100 << 20, &stream).unwrap_err();
    allocator.alloc_raw(u64::MAX, &stream).unwrap_err();
    let limit = 20 * MIB;
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (16 * MIB, limit, true, 12 * MIB),
            (100 * MIB, limit, false, 12 * MIB),
            (u64::MAX, limit, false, 12 * MIB)
        ]
    );
    drop(held);
}
