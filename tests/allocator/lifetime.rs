//! Dropping: from anywhere, in any order, without waiting, and nothing stays behind.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use riverbed::Error;
use riverbed::device::{Call, Gate};
use riverbed::event::{Recorder, TraceEvent};
use riverbed::pool::Allocator;

use crate::support::{MIB, download, stream, upload, wait_until, wait_until_all_memory_is_back};
use crate::{allocator, check, device};

#[test]
fn buffers_are_dropped_on_other_threads() {
    let device = device(64);
    let allocator = allocator(&device, "");
    let stream = stream(&device);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mine: Vec<_> =
                (0..100).map(|i| allocator.alloc::<u8>(i * 37, &stream).unwrap()).collect();
            scope.spawn(move || drop(mine));
        }
    });
    assert_eq!(allocator.stats().allocation.all.current, 0);
    check(&allocator);
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn buffers_are_dropped_while_a_panic_unwinds() {
    let device = device(64);
    let (allocator, other) = (allocator(&device, ""), stream(&device));
    let stream = stream(&device);
    let work = std::panic::AssertUnwindSafe(|| {
        let buffer = allocator.alloc::<u8>(1000, &stream).unwrap();
        buffer.fill(1, &other).unwrap();
        let _dedicated = allocator.alloc_dedicated::<u8>(1000, &stream).unwrap();
        panic!("meant to happen");
    });
    std::panic::catch_unwind(work).unwrap_err();
    assert_eq!(allocator.stats().allocation.all.current, 0);
    check(&allocator);
    drop(allocator.alloc::<u8>(1000, &stream).unwrap());
    drop(allocator);
    wait_until_all_memory_is_back(&device);
}

#[test]
fn a_buffer_outlives_every_other_handle() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    let buffer = allocator.alloc::<u8>(5 << 20, &stream).unwrap();
    buffer.fill(7, &stream).unwrap();
    drop(allocator);
    drop(stream);
    let found = download(buffer.stream(), buffer.ptr(), 5 << 20);
    assert!(found.iter().all(|&byte| byte == 7));
    drop(buffer);
    wait_until_all_memory_is_back(&device);
}

#[test]
fn memory_in_flight_comes_back_after_the_allocator_is_gone() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    let small = allocator.alloc::<u8>(1000, &home).unwrap();
    let large = allocator.alloc_dedicated::<u8>(4 << 20, &home).unwrap();
    small.fill(1, &other).unwrap();
    large.fill(2, &other).unwrap();
    drop((small, large, allocator, home));
    assert_eq!(device.memory().unwrap().free_bytes, 58 * MIB, "the other stream still writes");
    gate.open(1).unwrap();
    wait_until_all_memory_is_back(&device);
}

/// Stops the allocator in the middle of a call, with its lock held: when a block of
/// `requested_bytes` is handed out or one becomes free.
#[derive(Debug)]
struct Brake {
    reached: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
    at: fn(&TraceEvent) -> bool,
}

impl Brake {
    fn new(at: fn(&TraceEvent) -> bool) -> (Arc<Self>, Receiver<()>, SyncSender<()>) {
        let ((reached, is_reached), (go, go_on)) = (sync_channel(1), sync_channel(1));
        (Arc::new(Self { reached, go_on: Mutex::new(go_on), at }), is_reached, go)
    }
}

impl Recorder for Brake {
    fn record(&self, event: &TraceEvent) {
        if (self.at)(event) {
            self.reached.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
    }
}

#[test]
fn dropping_does_not_wait_for_a_thread_inside_the_allocator() {
    let device = device(64);
    let stream = stream(&device);
    let (brake, is_reached, go) =
        Brake::new(|event| matches!(event, TraceEvent::Alloc { requested_bytes: 777, .. }));
    let allocator = Allocator::builder(&device).recorder(brake).build().unwrap();
    let buffer = allocator.alloc::<u8>(1000, &stream).unwrap();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| allocator.alloc::<u8>(777, &stream).unwrap());
        is_reached.recv().unwrap();
        drop(buffer); // returns, though the lock is held until `go`
        go.send(()).unwrap();
        drop(inside.join().unwrap());
    });
    assert_eq!(allocator.stats().allocation.all.current, 0);
    check(&allocator);
}

#[test]
fn a_buffer_dropped_past_a_lock_comes_back_with_the_last_handle() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let (brake, is_reached, go) =
        Brake::new(|event| matches!(event, TraceEvent::FreeCompleted { bytes: 512, .. }));
    let allocator = Allocator::builder(&device).recorder(brake).build().unwrap();
    let small = allocator.alloc::<u8>(1, &home).unwrap();
    let large = allocator.alloc::<u8>(5 << 20, &home).unwrap();
    small.use_on(&other).unwrap();
    drop(small);
    other.synchronize().unwrap();
    let inside = std::thread::spawn(move || {
        // Finds that the small block is free, and stops there, with the lock held. Nobody looks
        // into the mailbox after that but the end of the allocator.
        let _ = allocator.stats();
    });
    is_reached.recv().unwrap();
    drop(large);
    go.send(()).unwrap();
    inside.join().unwrap();
    wait_until_all_memory_is_back(&device);
}

#[test]
fn close_gives_all_memory_back_before_it_returns() {
    let device = device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    let used = allocator.alloc::<u8>(1000, &home).unwrap();
    used.fill(1, &other).unwrap();
    drop(used);
    drop(allocator.alloc::<u8>(5 << 20, &home).unwrap());
    drop(allocator.alloc_dedicated::<u8>(5 << 20, &home).unwrap());
    let before = device.calls().get(Call::SynchronizeEvent);
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| {
            allocator.close().unwrap();
            assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
        });
        wait_until("close waits for the stream in use", || {
            device.calls().get(Call::SynchronizeEvent) > before
        });
        gate.open(1).unwrap();
        closing.join().unwrap();
    });
}

#[test]
fn close_is_refused_while_blocks_live() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    let buffer = allocator.alloc::<u8>(1000, &stream).unwrap();
    let error = allocator.clone().close().unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert!(error.to_string().contains("1 live block(s)"), "{error}");
    let again = allocator.alloc::<u8>(1000, &stream).expect("it goes on as before");
    drop((buffer, again));
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn a_leaked_raw_block_keeps_its_segment_and_no_other() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    let leaked = allocator.alloc_raw(1000, &stream).unwrap();
    drop(allocator.alloc::<u8>(20 << 20, &stream).unwrap());
    drop(allocator);
    wait_until("the other segment is back", || device.memory().unwrap().free_bytes == 62 * MIB);
    upload(&stream, leaked, &[5; 1000]);
    assert_eq!(download(&stream, leaked, 1000), [5; 1000], "whoever holds it may use it");
    assert_eq!(device.memory().unwrap().free_bytes, 62 * MIB);
}

#[test]
fn trim_gives_back_what_is_wholly_free() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    assert_eq!(allocator.trim(), 0);
    let [a, b] = [(); 2].map(|()| allocator.alloc::<u8>(6 << 20, &stream).unwrap());
    let small = allocator.alloc::<u8>(1000, &stream).unwrap();
    drop((a, small));
    assert_eq!(allocator.trim(), 2 * MIB, "the large segment still holds a block");
    assert_eq!(device.memory().unwrap().free_bytes, 44 * MIB);
    check(&allocator);
    drop(b);
    assert_eq!(allocator.trim(), 20 * MIB);
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
    assert_eq!(allocator.trim(), 0);
    check(&allocator);
}

#[test]
fn trim_waits_for_streams_that_still_use_what_was_freed() {
    let device = device(64);
    let [owner, user] = [stream(&device), stream(&device)];
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    let buffer = allocator.alloc::<u8>(5 << 20, &owner).unwrap();
    user.wait_gate(&gate, 1).unwrap();
    buffer.record_use(&user).unwrap();
    drop(buffer);
    let before = device.calls().get(Call::SynchronizeEvent);
    std::thread::scope(|scope| {
        let trimming = scope.spawn(|| allocator.trim());
        wait_until("trim waits for the other stream", || {
            device.calls().get(Call::SynchronizeEvent) > before
        });
        gate.open(1).unwrap();
        assert_eq!(trimming.join().unwrap(), 20 * MIB);
    });
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
    check(&allocator);
}

#[test]
fn trim_waits_for_the_stream_whose_memory_it_gives_back() {
    let device = device(64);
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    let gate = Gate::new(&device).unwrap();
    let buffer = allocator.alloc::<u8>(5 << 20, &stream).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    buffer.fill(1, &stream).unwrap();
    drop(buffer); // free for the stream at once, but its fill has not run
    let before = device.calls().get(Call::SynchronizeStream);
    std::thread::scope(|scope| {
        let trimming = scope.spawn(|| allocator.trim());
        wait_until("trim waits for the stream", || {
            device.calls().get(Call::SynchronizeStream) > before
        });
        assert_eq!(device.memory().unwrap().free_bytes, 44 * MIB);
        allocator.check().expect("the books are whole while segments are on their way");
        gate.open(1).unwrap();
        assert_eq!(trimming.join().unwrap(), 20 * MIB);
    });
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn what_the_driver_does_not_take_back_is_tried_again() {
    let device = riverbed::device::Device::open("host:vram=64MiB,fail=free@1").unwrap();
    let stream = stream(&device);
    let allocator = allocator(&device, "");
    drop(allocator.alloc::<u8>(5 << 20, &stream).unwrap());
    assert_eq!(allocator.trim(), 0, "the driver refused");
    assert_eq!(allocator.stats().reserved_bytes.all.current, 20 * MIB, "so it is still held");
    check(&allocator);
    let other = allocator.alloc::<u8>(5 << 20, &stream).unwrap();
    assert_eq!(allocator.stats().reserved_bytes.all.current, 40 * MIB, "and serves nobody");
    assert_eq!(allocator.trim(), 20 * MIB);
    drop(other);
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn who_runs_short_is_told_what_the_driver_did_not_take_back() {
    let device = riverbed::device::Device::open("host:vram=64MiB,fail=free@1").unwrap();
    let stream = stream(&device);
    let allocator = allocator(&device, "limit_mb:24");
    drop(allocator.alloc::<u8>(12 << 20, &stream).unwrap());
    let short = allocator.alloc::<u8>(20 << 20, &stream).unwrap_err().to_string();
    assert!(short.contains("did not take a segment back"), "{short}");
    assert!(short.contains("free failed with status 999"), "{short}");
    check(&allocator);
    // The next is told of its own trouble alone, and what was refused has been offered again.
    drop(allocator.alloc::<u8>(20 << 20, &stream).unwrap());
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn a_block_whose_end_of_use_could_not_be_marked_is_marked_later() {
    let device = riverbed::device::Device::open("host:vram=64MiB,fail=record_event@2").unwrap();
    let (home, other) = (stream(&device), stream(&device));
    let allocator = allocator(&device, "");
    let buffer = allocator.alloc::<u8>(4096, &home).unwrap();
    let address = buffer.ptr();
    buffer.use_on(&other).unwrap();
    drop(buffer); // its mark is the second recording
    other.synchronize().unwrap();
    wait_until("the mark was made and reached", || allocator.stats().retired_bytes == 0);
    assert_eq!(allocator.stats().stranded_blocks, 0);
    assert_eq!(allocator.alloc::<u8>(4096, &home).unwrap().ptr(), address);
    check(&allocator);
}
