//! What happens when memory runs short.

use riverbed::Error;
use riverbed::device::{Call, Device, Gate};
use riverbed::pool::{Allocator, Buffer};

use crate::support::{MIB, stream, wait_until};
use crate::{allocator, check, device};

/// Runs `work` on another thread; opens `gate` once that waits for an event, and not before.
fn open_once_waiting<T: Send>(device: &Device, gate: Gate, work: impl FnOnce() -> T + Send) -> T {
    let before = device.calls().get(Call::SynchronizeEvent);
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        wait_until("the last rung waits", || device.calls().get(Call::SynchronizeEvent) > before);
        gate.open(1).unwrap();
        worker.join().unwrap()
    })
}

fn out_of_memory(allocator: &Allocator, result: riverbed::Result<Buffer>) -> String {
    check(allocator);
    match result {
        Err(error @ Error::OutOfMemory(_)) => {
            assert!(error.is_retryable(), "freeing memory may help");
            error.to_string()
        }
        other => panic!("out of memory was expected, not {other:?}"),
    }
}

/// PyTorch fails here with a fitting free block in hand (pytorch#189504): it does not search
/// its free lists again after it has waited.
#[test]
fn blocks_that_come_free_while_waiting_are_found_in_split_segments() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "limit_mb:20");
    let [used, _b, _c] = [(); 3].map(|()| allocator.alloc::<u8>(6 << 20, &home).unwrap());
    let address = used.ptr();
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    used.fill(1, &other).unwrap();
    drop(used);
    let found = open_once_waiting(&device, gate, || allocator.alloc::<u8>(6 << 20, &home).unwrap());
    assert_eq!(found.ptr(), address);
    let stats = allocator.stats();
    assert_eq!((stats.num_alloc_retries, stats.num_sync_all_streams), (1, 1));
    assert_eq!((stats.num_device_alloc, stats.num_device_free, stats.num_ooms), (1, 0, 0));
    check(&allocator);
}

#[test]
fn blocks_that_come_free_while_waiting_are_found_by_dedicated_requests_too() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "limit_mb:20");
    let used = allocator.alloc::<u8>(20 << 20, &home).unwrap();
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    used.fill(1, &other).unwrap();
    drop(used);
    let found = open_once_waiting(&device, gate, || {
        allocator.alloc_dedicated::<u8>(20 << 20, &home).unwrap()
    });
    assert_eq!(found.size_bytes(), 20 * MIB);
    assert_eq!(allocator.stats().reserved_bytes.all.current, 20 * MIB);
    check(&allocator);
}

#[test]
fn dropping_never_blocks_while_another_thread_waits_on_the_ladder() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "limit_mb:20");
    let [used, dropped, kept] = [(); 3].map(|()| allocator.alloc::<u8>(6 << 20, &home).unwrap());
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    used.fill(1, &other).unwrap();
    drop(used);
    let before = device.calls().get(Call::SynchronizeEvent);
    std::thread::scope(|scope| {
        let climber = scope.spawn(|| allocator.alloc::<u8>(6 << 20, &home).unwrap());
        wait_until("the last rung waits", || device.calls().get(Call::SynchronizeEvent) > before);
        // Only this thread can let the climber go on, and only after the drop has returned.
        drop(dropped);
        assert_eq!(allocator.stats().allocation.all.current, 1, "other calls go on as well");
        gate.open(1).unwrap();
        drop(climber.join().unwrap());
    });
    drop(kept);
    check(&allocator);
    assert_eq!(allocator.stats().allocation.all.current, 0);
}

#[test]
fn running_out_says_what_was_asked_held_and_tried() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "limit_mb:32");
    let held = [20, 8].map(|mib| allocator.alloc::<u8>(mib << 20, &stream));
    let held = [held].into_iter().flatten().flatten().collect::<Vec<_>>();
    assert_eq!(held.len(), 1, "8 MiB take a segment of 20");
    let text = out_of_memory(&allocator, allocator.alloc::<u8>(13 << 20, &stream));
    for words in [
        "host:vram=64MiB: out of memory, 13.00 MiB asked for (a segment of 14.00 MiB)",
        "Reserved 20.00 MiB of a limit of 32.00 MiB",
        "active 20.00 MiB, retired 0 B, cached 0 B",
        "Device free 44.00 MiB",
        "Tried: cached blocks; a segment of 14.00 MiB; waiting for 0 stream(s); releasing all 0",
        "raise it or free memory",
    ] {
        assert!(text.contains(words), "'{words}' is not in: {text}");
    }
    assert_eq!(allocator.stats().num_ooms, 2);
}

#[test]
fn a_full_device_is_told_from_a_full_limit() {
    let device = device(32);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    let held = allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    let text = out_of_memory(&allocator, allocator.alloc::<u8>(14 << 20, &stream));
    assert!(text.contains("Device free 12.00 MiB") && !text.contains("limit"), "{text}");
    drop(held);
    let _buffer = allocator.alloc::<u8>(14 << 20, &stream).expect("usable afterwards");
}

#[test]
fn fragmentation_is_named_when_it_is_to_blame() {
    let device = device(20);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    let [a, _b, c] = [(); 3].map(|()| allocator.alloc::<u8>(6 << 20, &stream).unwrap());
    drop((a, c));
    let text = out_of_memory(&allocator, allocator.alloc::<u8>(9 << 20, &stream));
    assert!(text.contains("cached 14.00 MiB (largest free block 8.00 MiB)"), "{text}");
    assert!(text.contains("lie in pieces"), "{text}");
}

#[test]
fn a_failed_request_leaves_the_counters_as_they_were() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "limit_mb:20");
    let _held = allocator.alloc::<u8>(15 << 20, &stream).unwrap();
    let before = allocator.stats();
    for _ in 0..3 {
        allocator.alloc::<u8>(16 << 20, &stream).unwrap_err();
        allocator.alloc_dedicated::<u8>(16 << 20, &stream).unwrap_err();
        allocator.alloc_raw(1 << 40, &stream).unwrap_err();
        allocator.alloc_raw(u64::MAX, &stream).unwrap_err();
        allocator.alloc::<u64>(usize::MAX, &stream).unwrap_err();
    }
    let after = allocator.stats();
    assert_eq!(after.reserved_bytes, before.reserved_bytes);
    assert_eq!(after.segment, before.segment);
    assert_eq!(after.allocation, before.allocation);
    assert_eq!(after.active_bytes, before.active_bytes);
    assert_eq!(after.requested_bytes, before.requested_bytes);
    assert!(after.num_ooms > before.num_ooms);
    check(&allocator);
}

#[test]
fn oversize_segments_go_first_and_no_others() {
    let device = device(256);
    let stream = stream(&device);
    let allocator = allocator(&device, "max_split_size_mb:100,limit_mb:200");
    let held = [120, 40].map(|mib| allocator.alloc::<u8>(mib << 20, &stream).unwrap());
    drop(held);
    let _buffer = allocator.alloc::<u8>(90 << 20, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!(stats.reserved_bytes.all.current, 130 * MIB, "the 120 went, the 40 is still cached");
    assert_eq!((stats.num_device_free, stats.num_sync_all_streams), (1, 0));
    check(&allocator);
}

#[test]
fn rejection_at_the_limit_tries_nothing_when_asked_to() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "limit_mb:32,throw_on_cudamalloc_oom:True");
    drop(allocator.alloc::<u8>(20 << 20, &stream).unwrap());
    let text = out_of_memory(&allocator, allocator.alloc::<u8>(24 << 20, &stream));
    assert!(text.contains("nothing more, as throw_on_cudamalloc_oom asks"), "{text}");
    let stats = allocator.stats();
    assert_eq!((stats.num_oom_rejections, stats.num_alloc_retries), (1, 0));
    assert_eq!(stats.reserved_bytes.all.current, 20 * MIB, "the cached segment is still there");
}
