//! Captures of others: memory is managed beside them, and they stay whole.

use std::ptr::NonNull;

use riverbed::device::{Priority, Stream, StreamId};
use riverbed::pool::Allocator;

use crate::fake::fake_cuda;
use crate::support::stream;
use crate::{call, open};

const GLOBAL: u32 = 0;

#[test]
fn a_capture_is_seen_and_not_broken() {
    let fake = fake_cuda("");
    let device = open(&fake);
    let allocator = Allocator::builder(&device).conf_str("expandable_segments:True").unwrap();
    let allocator = allocator.build().unwrap();
    let (captured, other) = (stream(&device), stream(&device));
    let mut context = 0;
    call!(fake, cuDevicePrimaryCtxRetain(&raw mut context => *mut u64, 0 => i32));
    call!(fake, cuCtxSetCurrent(context => u64));
    let begin = |stream: &Stream| {
        call!(fake, cuStreamBeginCapture_v2(stream.id().raw() => u64, GLOBAL => u32));
    };
    begin(&captured);
    assert!(captured.is_capturing().unwrap());
    assert!(!other.is_capturing().unwrap());
    // On this thread, whose mode forbids it, and on another.
    let use_it = || {
        let first = allocator.alloc::<u8>(30 << 20, &other).unwrap();
        let event = riverbed::device::Event::new(&device).unwrap();
        event.record(&other).unwrap();
        event.query().unwrap();
        drop(first);
        let pinned = device.driver().alloc_pinned(4096).unwrap();
        let mut own = vec![0_u8; 8192];
        let own = NonNull::from(&mut own[..]).cast();
        // SAFETY: nothing is in flight on either, and the vector outlives its registration.
        unsafe {
            device.driver().free_pinned(pinned).unwrap();
            device.driver().register(own, 4096).unwrap();
            device.driver().unregister(own).unwrap();
        }
        drop(Stream::new(&device, Priority::Normal).unwrap());
        allocator.trim();
        device.memory().unwrap();
    };
    use_it();
    std::thread::scope(|scope| scope.spawn(use_it).join().unwrap());
    let mut graph = 0;
    call!(fake, cuStreamEndCapture(captured.id().raw() => u64, &raw mut graph => *mut u64));
    call!(fake, cuGraphDestroy(graph => u64));
    assert!(!captured.is_capturing().unwrap());
    call!(fake, cuCtxSetCurrent(0 => u64));
    call!(fake, cuDevicePrimaryCtxRelease_v2(0 => i32));
    allocator.close().unwrap();
    drop((captured, other, device));
    crate::support::wait_until("all is given back", || fake.report().leaks.is_empty());
    fake.assert_clean();
}

#[test]
fn a_driver_that_cannot_tell_captures_nothing() {
    let fake = crate::fake::FakeDriver::new(
        crate::fake::Vendor::Cuda,
        "",
        &["cuStreamIsCapturing", "cuThreadExchangeStreamCaptureMode"],
    );
    let device = open(&fake);
    // SAFETY: the legacy default stream is always there.
    let stream = unsafe { Stream::from_raw(&device, StreamId::from_raw(0)) };
    assert!(!stream.is_capturing().unwrap());
    drop((stream, device));
    fake.assert_clean();
}
