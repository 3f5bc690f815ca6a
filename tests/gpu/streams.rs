//! Streams that are not ours: made by other code, or the driver's default ones.

use riverbed::device::{Device, Event, Gate, Kernel, Stream, StreamId};
use riverbed::pool::Allocator;

use crate::fake::{FakeDriver, fake_cuda};
use crate::support::{stream, wait_until};
use crate::{call, open};

/// A stream under this handle.
fn wrapped(device: &Device, handle: u64) -> Stream {
    // SAFETY: the tests keep the streams behind the handles until the last use.
    unsafe { Stream::from_raw(device, StreamId::from_raw(handle)) }
}

fn all_back(fake: &FakeDriver) {
    wait_until("all is given back", || fake.report().leaks.is_empty());
    fake.assert_clean();
}

#[test]
fn a_stream_made_elsewhere_is_used_and_not_destroyed() {
    let fake = fake_cuda("");
    let device = open(&fake);
    let mut context = 0;
    call!(fake, cuDevicePrimaryCtxRetain(&raw mut context => *mut u64, 0 => i32));
    call!(fake, cuCtxSetCurrent(context => u64));
    let mut handle = 0;
    call!(fake, cuStreamCreate(&raw mut handle => *mut u64, 0 => u32));
    let theirs = wrapped(&device, handle);
    let allocator = Allocator::builder(&device).build().unwrap();
    let buffer = allocator.alloc::<u8>(1 << 20, &theirs).unwrap();
    let fill = Kernel::Fill { dst: buffer.ptr(), bytes: 1 << 20, value: 9 };
    // SAFETY: the buffer outlives the work, which is waited for below.
    unsafe { device.driver().launch(theirs.id(), &fill) }.unwrap();
    let ours = stream(&device);
    let event = Event::new(&device).unwrap();
    event.record(&theirs).unwrap();
    ours.wait(&event).unwrap();
    assert_eq!(crate::support::download(&ours, buffer.ptr(), 64), [9; 64]);
    drop(buffer);
    allocator.close().unwrap();
    drop((theirs, ours, event, device));
    // It is still theirs to destroy.
    call!(fake, cuStreamSynchronize(handle => u64));
    call!(fake, cuStreamDestroy_v2(handle => u64));
    call!(fake, cuCtxSetCurrent(0 => u64));
    call!(fake, cuDevicePrimaryCtxRelease_v2(0 => i32));
    all_back(&fake);
}

#[test]
fn default_streams_take_everything() {
    for handle in [0, 1, 2] {
        let fake = fake_cuda("");
        let device = open(&fake);
        let stream = wrapped(&device, handle);
        let allocator = Allocator::builder(&device).build().unwrap();
        let buffer = allocator.alloc::<u8>(4096, &stream).unwrap();
        crate::support::upload(&stream, buffer.ptr(), &[handle as u8; 4096]);
        let other = crate::support::stream(&device);
        stream.synchronize().unwrap();
        assert_eq!(crate::support::download(&other, buffer.ptr(), 4096), [handle as u8; 4096]);
        drop(buffer);
        allocator.close().unwrap();
        drop((stream, other, device));
        all_back(&fake);
    }
}

/// Were the drop of the last handle to wait, this would stand still: what is waited for comes
/// after it. The stream is another's, and outlives the device.
#[test]
fn a_device_given_up_while_it_works_holds_nobody_up() {
    let fake = fake_cuda("");
    let device = open(&fake);
    let mut context = 0;
    call!(fake, cuDevicePrimaryCtxRetain(&raw mut context => *mut u64, 0 => i32));
    call!(fake, cuCtxSetCurrent(context => u64));
    let mut handle = 0;
    call!(fake, cuStreamCreate(&raw mut handle => *mut u64, 1 => u32));
    let stream = wrapped(&device, handle);
    let gate = Gate::new(&device).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    gate.open(1).unwrap();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    stream.launch_host(Box::new(move || wait.recv().unwrap())).unwrap();
    stream.busy(1000).unwrap();
    drop((gate, stream, device));
    assert!(fake.report().leaks.contains_key("modules"), "the kernel is still to run");
    done.send(()).unwrap();
    wait_until("the kernels are unloaded", || !fake.report().leaks.contains_key("modules"));
    call!(fake, cuStreamDestroy_v2(handle => u64));
    call!(fake, cuCtxSetCurrent(0 => u64));
    call!(fake, cuDevicePrimaryCtxRelease_v2(0 => i32));
    all_back(&fake);
}

/// The handle of the per-thread stream means another stream on every thread: what one thread's
/// still works on is given to no other, whoever frees it.
#[test]
fn memory_of_a_per_thread_stream_is_safe_to_free_elsewhere() {
    for conf in ["policy:caching", "expandable_segments:True"] {
        let fake = fake_cuda("vram=64MiB");
        let device = open(&fake);
        let allocator = Allocator::builder(&device).conf_str(conf).unwrap().build().unwrap();
        let gate = Gate::new(&device).unwrap();
        let mine = wrapped(&device, 2);
        let buffer = allocator.alloc::<u8>(30 << 20, &mine).unwrap();
        let (at, bytes) = (buffer.ptr(), buffer.size_bytes());
        mine.wait_gate(&gate, 1).unwrap();
        let fill = Kernel::Fill { dst: at, bytes, value: 0xbb };
        // SAFETY: the allocator keeps freed memory until this stream has got past the kernel.
        unsafe { device.driver().launch(mine.id(), &fill) }.unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(buffer)).join().unwrap();
            scope.spawn(|| {
                let theirs = wrapped(&device, 2);
                let own = allocator.alloc::<u8>(10 << 20, &theirs).unwrap();
                let apart = own.ptr().0 + (10 << 20) <= at.0 || own.ptr().0 >= at.0 + bytes;
                assert!(apart, "{conf}: memory that a kernel will still write");
            });
        });
        gate.open(1).unwrap();
        mine.synchronize().unwrap();
        allocator.check().unwrap();
        allocator.close().unwrap();
        drop((gate, mine, device));
        all_back(&fake);
    }
}
