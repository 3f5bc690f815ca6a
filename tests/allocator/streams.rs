//! Which handles mean the same stream: 0 and 1 are the legacy default stream, 2 is another one
//! on every thread.

use riverbed::device::{Device, Stream, StreamId};

use crate::{allocator, check, device};

#[expect(unsafe_code, reason = "wraps a handle no driver gave")]
fn raw(device: &Device, handle: u64) -> Stream {
    // SAFETY: the stream is never enqueued to; memory is only handed out for it.
    unsafe { Stream::from_raw(device, StreamId::from_raw(handle)) }
}

#[test]
fn the_default_streams_are_told_apart() {
    let device = device(64);
    let allocator = allocator(&device, "");
    let [default, legacy, per_thread] = [0, 1, 2].map(|handle| raw(&device, handle));
    let buffer = allocator.alloc::<u8>(1000, &default).unwrap();
    let address = buffer.ptr();
    buffer.record_use(&legacy).unwrap();
    drop(buffer);
    assert_eq!(allocator.stats().retired_bytes, 0, "a use on the stream itself");
    let of_legacy = allocator.alloc::<u8>(1000, &legacy).unwrap();
    assert_eq!(of_legacy.ptr(), address);
    let mine = allocator.alloc::<u8>(1000, &per_thread).unwrap();
    let on_mine = allocator.on(&per_thread).unwrap();
    let theirs = std::thread::scope(|scope| {
        let other = || {
            // A handle made on another thread means this thread's stream here, and a block goes
            // back to where it came from.
            let block = on_mine.block(1000).unwrap();
            let first = block.ptr();
            drop(block);
            let again = allocator.alloc::<u8>(1000, &per_thread).unwrap();
            assert_eq!(again.ptr(), first);
            again
        };
        scope.spawn(other).join().unwrap()
    });
    assert_eq!(allocator.stats().segment.all.current, 3, "legacy, mine and the other thread's");
    assert_ne!(mine.ptr(), theirs.ptr());
    check(&allocator);
}
