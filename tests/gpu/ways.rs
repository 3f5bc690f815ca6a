//! Which of a driver's ways is taken: the best it has, else the next, else an error.

use riverbed::base::DeviceError;
use riverbed::device::{CopyH2d, Device, Gate};
use riverbed::pool::Allocator;

use crate::fake::{FakeDriver, Vendor, fake_cuda, fake_hip};
use crate::open;
use crate::support::{Memory, Pinned, download, pattern, status, stream, upload};

fn without(symbols: &[&str]) -> FakeDriver {
    FakeDriver::new(Vendor::Cuda, "", symbols)
}

/// Copies a batch of two; gives how often each of these calls was made.
fn batched<const N: usize>(fake: &FakeDriver, calls: [&str; N]) -> [u64; N] {
    let device = open(fake);
    let stream = stream(&device);
    let (memory, pinned) = (Memory::new(&device, 8192), Pinned::with(&device, &pattern(8192, 1)));
    let before = calls.map(|call| fake.count(call));
    let copies = [0, 4096].map(|at| CopyH2d {
        dst: memory.ptr.offset(at),
        // SAFETY: within the pinned memory.
        src: unsafe { pinned.address().add(at as usize) },
        bytes: 4096,
    });
    // SAFETY: both ends live until the stream was synchronized.
    unsafe { device.driver().copy_h2d_batch(stream.id(), &copies) }.unwrap();
    stream.synchronize().unwrap();
    let made = std::array::from_fn(|call| fake.count(calls[call]) - before[call]);
    assert_eq!(download(&stream, memory.ptr, 8192), pattern(8192, 1));
    drop((memory, pinned, stream, device));
    fake.assert_clean();
    made
}

#[test]
fn batches_are_one_call_where_the_driver_has_one() {
    let calls = ["cuMemcpyBatchAsync_v2", "cuMemcpyBatchAsync", "cuMemcpyHtoDAsync_v2"];
    let [new, old, plain] = calls;
    assert_eq!(batched(&without(&[]), calls), [1, 0, 0]);
    assert_eq!(batched(&without(&[new]), calls), [0, 1, 0]);
    assert_eq!(batched(&without(&[new, old]), [plain]), [2]);
    assert_eq!(batched(&fake_hip(""), ["hipMemcpyBatchAsync", "hipMemcpyHtoDAsync"]), [0, 2]);
}

#[test]
fn what_was_asked_for_before_is_served_without_a_driver_call() {
    for fake in [fake_cuda(""), fake_hip("")] {
        let device = open(&fake);
        let stream = stream(&device);
        let allocator = Allocator::builder(&device).build().unwrap();
        let sizes = [512, 70_000, 3 << 20, 30 << 20];
        let round = || {
            let held = sizes.map(|bytes| allocator.alloc::<u8>(bytes, &stream).unwrap());
            drop(held);
        };
        round();
        let before = fake.report().calls_total;
        (0..100).for_each(|_| round());
        assert_eq!(fake.report().calls_total, before);
        allocator.close().unwrap();
        drop((stream, device));
        fake.assert_clean();
    }
}

fn gated(fake: &FakeDriver) {
    let device = open(fake);
    let stream = stream(&device);
    let gate = Gate::new(&device).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    gate.open(1).unwrap();
    stream.synchronize().unwrap();
    drop((gate, stream, device));
    fake.assert_clean();
}

#[test]
fn gates_are_words_where_streams_can_wait_for_them() {
    let fake = fake_cuda("");
    gated(&fake);
    assert_eq!(fake.count("cuStreamWaitValue64_v2"), 1);
    assert_eq!(fake.count("cuLaunchHostFunc"), 0);
    for fake in [fake_cuda("wait_value=off"), without(&["cuStreamWaitValue64_v2"])] {
        gated(&fake);
        assert_eq!(fake.count("cuStreamWaitValue64_v2"), 0);
        assert_eq!(fake.count("cuLaunchHostFunc"), 1);
    }
    let fake = FakeDriver::new(Vendor::Hip, "", &["hipLaunchHostFunc"]);
    gated(&fake);
    assert_eq!(fake.count("hipStreamAddCallback"), 1);
}

#[test]
fn a_cap_on_a_drivers_pool_needs_a_driver_that_keeps_it() {
    let fake = fake_cuda("version=12010");
    let device = open(&fake);
    assert!(device.info().memory_pools && !device.info().pool_caps);
    assert_eq!(status(device.driver().create_pool(1 << 20)), DeviceError::NOT_SUPPORTED);
    let limited = Allocator::builder(&device)
        .conf_str("backend:cudaMallocAsync")
        .unwrap()
        .limit_bytes(32 << 20)
        .unwrap()
        .build();
    let error = limited.expect_err("a limit that would not be kept").to_string();
    assert!(error.contains("12.2") || error.contains("cap"), "{error}");
    drop(device);
    fake.assert_clean();
}

#[test]
fn small_allocations_that_lie_anywhere_in_a_page_are_fine() {
    // The driver packs what is below a page; a segment of the allocator never is.
    let fake = fake_cuda("");
    let device = open(&fake);
    let held: Vec<Memory> = [1, 512, 4096, 100_000].map(|bytes| Memory::new(&device, bytes)).into();
    for memory in &held {
        assert_eq!(memory.ptr.0 % 512, 0);
    }
    drop(held);
    drop(device);
    fake.assert_clean();
}

#[test]
fn one_gpu_copies_from_another() {
    let fake = fake_cuda("devices=2");
    let [one, two] = [0, 1].map(|ordinal| Device::open(&fake.device_text_of(ordinal)).unwrap());
    let (here, there) = (stream(&one), stream(&two));
    let (target, source) = (Memory::new(&one, 10_000), Memory::new(&two, 10_000));
    upload(&there, source.ptr, &pattern(10_000, 2));
    there.synchronize().unwrap();
    // SAFETY: both ends live until the stream was synchronized.
    unsafe { one.driver().copy_peer(here.id(), target.ptr, two.driver(), source.ptr, 10_000) }
        .unwrap();
    here.synchronize().unwrap();
    assert_eq!(download(&here, target.ptr, 10_000), pattern(10_000, 2));
    let host = Device::open("host:vram=2MiB").unwrap();
    let other =
        // SAFETY: refused.
        unsafe { one.driver().copy_peer(here.id(), target.ptr, host.driver(), source.ptr, 1) };
    assert_eq!(status(other), DeviceError::NOT_SUPPORTED);
    drop((here, there, target, source, one, two));
    fake.assert_clean();
}
