//! Under the expandable policy: private pools, captures, callbacks, labels.

use std::sync::{Arc, Mutex, OnceLock};

use riverbed::Error;
use riverbed::device::{Call, Device, Gate, Stream};
use riverbed::event::{Recorder, TraceEvent};
use riverbed::pool::{AllocOptions, Allocator, Lifetime, PrivatePoolOptions};

use crate::support::{MIB, stream, wait_until};
use crate::{allocator, check, device};

fn limited(device: &Device, mib: u64) -> Allocator {
    allocator(device, &format!("expandable_segments:True,limit_mb:{mib}"))
}

fn plain() -> PrivatePoolOptions {
    PrivatePoolOptions::default()
}

#[test]
fn what_a_pool_has_free_is_mapped_for_the_pool_alone() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 32), stream(&device));
    let pool = allocator.private_pool(plain());
    let on_stream = pool.on(&stream).unwrap();
    let mut pieces: Vec<_> =
        (0..10).map(|_| Some(on_stream.alloc::<u8>(2 << 20).unwrap())).collect();
    pieces.iter_mut().step_by(2).for_each(|piece| *piece = None);
    let outside = allocator.alloc::<u8>(10 << 20, &stream).unwrap();
    assert_eq!((pool.reserved_bytes().current, outside.len() as u64), (20 * MIB, 10 * MIB));
    let error = allocator.alloc::<u8>(4 << 20, &stream).unwrap_err();
    let Error::OutOfMemory(short) = &error else { panic!("{error}") };
    assert_eq!(short.private_free_bytes, 10 * MIB);
    let inside = on_stream.alloc::<u8>(10 << 20).expect("the pool's own pieces together");
    assert_eq!(pool.reserved_bytes().current, 20 * MIB);
    check(&allocator);
    drop((inside, pieces));
    assert_eq!(pool.trim(), 20 * MIB);
    allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    check(&allocator);
}

#[test]
fn a_pool_goes_back_handle_by_handle_once_it_is_dropped() {
    let device = device(64);
    let (allocator, home, other) = (limited(&device, 48), stream(&device), stream(&device));
    let pool = allocator.private_pool(plain());
    let [first, second] = [&home, &other].map(|stream| pool.on(stream).unwrap());
    let kept = first.alloc::<u8>(3 << 20).unwrap();
    drop((first.alloc::<u8>(12 << 20).unwrap(), second.alloc::<u8>(12 << 20).unwrap()));
    drop((first, second, pool));
    let held = || allocator.private_pools().first().map_or(0, |pool| pool.reserved_bytes.current);
    wait_until("what is free is back", || held() == 4 * MIB);
    check(&allocator);
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    kept.fill(1, &other).unwrap();
    drop(kept);
    assert_eq!(held(), 4 * MIB, "the other stream still writes");
    gate.open(1).unwrap();
    wait_until("all is back", || allocator.private_pools().is_empty());
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn pools_made_and_dropped_again_and_again_leave_nothing() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 48), stream(&device));
    for _ in 0..500 {
        let pool = allocator.private_pool(plain());
        drop(pool.on(&stream).unwrap().alloc::<u8>(1000).unwrap());
    }
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
    let calls = device.calls();
    assert_eq!(calls.get(Call::Reserve), calls.get(Call::Release), "address space is kept");
}

#[test]
fn a_lending_pool_serves_requests_and_yields_on_the_last_rung() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 32), stream(&device));
    let pool = allocator.private_pool(plain().use_on_oom());
    drop(pool.on(&stream).unwrap().alloc::<u8>(24 << 20).unwrap());
    let borrowed = allocator.alloc::<u8>(20 << 20, &stream).unwrap();
    assert_eq!(pool.reserved_bytes().current, 24 * MIB, "it stays the pool's");
    drop(borrowed);
    let all = allocator.alloc::<u8>(30 << 20, &stream).unwrap();
    assert_eq!((all.len() as u64, pool.reserved_bytes().current), (30 * MIB, 0));
    check(&allocator);
}

#[test]
fn whole_segments_are_handed_out_where_nothing_is_split() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 48), stream(&device));
    let pool = allocator.private_pool(plain().no_split());
    let on_stream = pool.on(&stream).unwrap();
    let buffers = [1000, 3 << 20].map(|bytes| on_stream.alloc::<u8>(bytes).unwrap());
    let stats = allocator.stats();
    assert_eq!(stats.allocated_bytes.all.current, 22 * MIB);
    assert_eq!((stats.segment.all.current, stats.mappings), (2, 0));
    drop(buffers);
    check(&allocator);
}

#[test]
fn nothing_is_asked_of_streams_during_a_capture() {
    let device = device(64);
    let (allocator, captured, side) = (limited(&device, 48), stream(&device), stream(&device));
    let pool = allocator.private_pool(plain());
    let pieces = [&side, &captured]
        .map(|stream| [(); 8].map(|()| pool.on(stream).unwrap().alloc::<u8>(2 << 20).unwrap()));
    let pieces = pieces.map(|pieces| pieces.into_iter().step_by(2).collect::<Vec<_>>());
    let forbidden = || {
        let calls = device.calls();
        let asked = [Call::RecordEvent, Call::QueryEvent, Call::WaitEvent, Call::Unmap];
        let waited = [Call::SynchronizeEvent, Call::SynchronizeStream, Call::DestroyPage];
        asked.into_iter().chain(waited).map(|call| calls.get(call)).sum::<u64>()
    };
    let before = forbidden();
    let scope = pool.begin_capture(&captured).unwrap();
    let on_captured = pool.on(&captured).unwrap();
    let first = on_captured.alloc::<u8>(8 << 20).expect("its own free pieces, mapped together");
    assert!(pool.reserved_bytes().current <= 36 * MIB);
    let second = on_captured.alloc::<u8>(8 << 20).expect("new, for the side's are not its own");
    assert!(pool.reserved_bytes().current <= 44 * MIB);
    on_captured.alloc::<u8>(16 << 20).expect_err("the limit");
    let address = first.ptr();
    drop(first);
    assert_eq!(on_captured.alloc::<u8>(8 << 20).unwrap().ptr(), address);
    assert_eq!((allocator.trim(), pool.trim()), (0, 0));
    check(&allocator);
    assert_eq!(forbidden(), before);
    drop(scope);
    let third = on_captured.alloc::<u8>(12 << 20).expect("the side's free pieces, ordered");
    assert!(forbidden() > before);
    check(&allocator);
    drop((second, third, pieces));
    check(&allocator);
}

#[test]
fn callbacks_free_what_a_request_lacks() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 16), stream(&device));
    let spare = Arc::new(Mutex::new(vec![allocator.alloc::<u8>(12 << 20, &stream).unwrap()]));
    let cache = Arc::clone(&spare);
    let _callback = allocator.on_out_of_memory(move |_| cache.lock().unwrap().pop().is_some());
    let told = Arc::new(Mutex::new(0));
    let observed = Arc::clone(&told);
    let _observer = allocator.on_failure(move |shortage, _| {
        *observed.lock().unwrap() = shortage.requested_bytes;
    });
    let buffer = allocator.alloc::<u8>(10 << 20, &stream).unwrap();
    assert_eq!(*told.lock().unwrap(), 0);
    allocator.alloc::<u8>(12 << 20, &stream).unwrap_err();
    assert_eq!((*told.lock().unwrap(), buffer.len() as u64), (12 * MIB, 10 * MIB));
    check(&allocator);
}

#[test]
fn blocks_keep_their_labels_wherever_they_lie() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 32), stream(&device));
    let mut pieces: Vec<_> =
        (0..16).map(|_| Some(allocator.alloc::<u8>(2 << 20, &stream).unwrap())).collect();
    pieces.iter_mut().step_by(2).for_each(|piece| *piece = None);
    let scope = allocator.stats_scope();
    let options = AllocOptions::default().lifetime(Lifetime::Cache).tag("kv");
    let cache = allocator.alloc_with::<u8>(16 << 20, &stream, &options).unwrap();
    let stats = scope.stats();
    assert_eq!((stats.allocated_blocks, stats.peak_bytes), (1, 16 * MIB));
    let live = allocator.live_blocks();
    assert_eq!((live[0].ptr, live[0].tag.as_deref()), (cache.ptr(), Some("kv")));
    assert_eq!(live.len(), 9);
    let error = allocator.alloc::<u8>(2 << 20, &stream).unwrap_err().to_string();
    assert!(error.contains("cache"), "{error}");
    check(&allocator);
}

/// Asks for memory on another stream whenever the allocator takes some.
#[derive(Debug, Default)]
struct Meddler {
    target: OnceLock<(Allocator, Stream)>,
    answers: Mutex<Vec<String>>,
}

impl Recorder for Meddler {
    fn record(&self, event: &TraceEvent) {
        if let (TraceEvent::SegmentAlloc { .. }, Some((allocator, stream))) =
            (event, self.target.get())
        {
            let answer = allocator.alloc::<u8>(1 << 20, stream).map(drop);
            let answer = answer.map_or_else(|error| error.to_string(), |()| String::new());
            self.answers.lock().unwrap().push(answer);
        }
    }
}

#[test]
fn a_recorder_that_asks_for_memory_gets_an_error() {
    let device = device(64);
    let meddler = Arc::new(Meddler::default());
    let builder = Allocator::builder(&device).conf_str("expandable_segments:True").unwrap();
    let allocator = builder.recorder(meddler.clone()).build().unwrap();
    meddler.target.set((allocator.clone(), stream(&device))).unwrap();
    drop(allocator.alloc::<u8>(3 << 20, &stream(&device)).unwrap());
    let answers = std::mem::take(&mut *meddler.answers.lock().unwrap());
    assert!(!answers.is_empty());
    assert!(answers.iter().all(|answer| answer.contains("from within itself")), "{answers:?}");
    check(&allocator);
}
