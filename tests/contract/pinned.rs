//! Pinned host memory: taken from the driver, or the caller's own.

use std::ptr::NonNull;

use riverbed::base::DeviceError;
use riverbed::device::Device;

use crate::support::{Memory, Pinned, pattern, shows, status, stream};

/// Page-aligned bytes inside an ordinary allocation.
fn aligned(bytes: &mut [u8], len: usize) -> &mut [u8] {
    let skip = bytes.as_ptr().align_offset(4096);
    &mut bytes[skip..skip + len]
}

pub(crate) fn pinned_memory_is_zeroed_aligned_and_carries_copies(device: &Device) {
    let before = device.memory().unwrap();
    let stream = stream(device);
    let memory = Memory::new(device, 100_000);
    for len in [1, 4095, 4096, 4097, 100_000] {
        let mut pinned = Pinned::new(device, len);
        assert_eq!(pinned.address() as usize % 4096, 0, "{len} bytes are not aligned");
        assert!(pinned.iter().all(|&byte| byte == 0), "{len} bytes are not zeroed");
        pinned.copy_from_slice(&pattern(len, len as u64));
        // SAFETY: both ends live past `synchronize`, and only this stream touches them.
        unsafe { device.driver().copy_h2d(stream.id(), memory.ptr, pinned.address(), len as u64) }
            .unwrap();
        stream.synchronize().unwrap();
        assert!(shows(&stream, memory.ptr, &pattern(len, len as u64)));
    }
    drop(memory);
    assert_eq!(device.memory().unwrap(), before, "pinned memory is not device memory");
}

pub(crate) fn memory_of_ones_own_can_be_pinned(device: &Device) {
    let stream = stream(device);
    let memory = Memory::new(device, 8192);
    let mut bytes = vec![0; 3 * 4096];
    let own = aligned(&mut bytes, 8192);
    own.copy_from_slice(&pattern(8192, 1));
    let start = NonNull::from(&mut *own).cast::<u8>();
    // SAFETY: `bytes` outlives the pinning and the copy, and nothing else touches it meanwhile.
    unsafe {
        device.driver().register(start, 8192).unwrap();
        let at = start.as_ptr();
        device.driver().copy_h2d(stream.id(), memory.ptr, at.add(1), 8191).unwrap();
        stream.synchronize().unwrap();
        device.driver().unregister(start).unwrap();
    }
    assert!(shows(&stream, memory.ptr, &pattern(8192, 1)[1..]));
    // SAFETY: refused, and nothing enqueued.
    let copied = unsafe { device.driver().copy_h2d(stream.id(), memory.ptr, start.as_ptr(), 1) };
    assert_eq!(status(copied), DeviceError::INVALID_VALUE, "the pinning has ended");
    // SAFETY: refused, and nothing enqueued.
    let again = unsafe { device.driver().unregister(start) };
    assert_eq!(status(again), DeviceError::INVALID_VALUE);
}

pub(crate) fn memory_is_not_pinned_twice(device: &Device) {
    let mut bytes = vec![0; 5 * 4096];
    let own = aligned(&mut bytes, 4 * 4096);
    let start = NonNull::from(&mut *own).cast::<u8>();
    // SAFETY: one and two pages into the 4 of `own`.
    let (second, third) = unsafe { (start.add(4096), start.add(8192)) };
    let driver = device.driver();
    // SAFETY: all ranges lie in `bytes`, which outlives the pinning; nothing is enqueued.
    unsafe {
        driver.register(second, 4096).unwrap();
        for (at, len, why) in [
            (second, 4096, "the same range"),
            (start, 8192, "a range that runs into it"),
            (start, 4 * 4096, "a range around it"),
            (second, 1, "a part of it"),
        ] {
            let twice = driver.register(at, len);
            assert_eq!(status(twice), DeviceError::ALREADY_REGISTERED, "{why}");
        }
        driver.register(start, 4096).expect("its neighbours are free");
        driver.register(third, 4096).expect("its neighbours are free");
        for at in [start, second, third] {
            driver.unregister(at).unwrap();
        }
        driver.register(start, 4 * 4096).expect("all is free again");
        driver.unregister(start).unwrap();
    }
    let pinned = Pinned::new(device, 4096);
    let own = NonNull::new(pinned.address()).unwrap();
    // SAFETY: refused, and nothing changes.
    unsafe {
        assert_eq!(status(driver.register(own, 4096)), DeviceError::ALREADY_REGISTERED);
        assert_eq!(status(driver.unregister(own)), DeviceError::INVALID_VALUE);
    }
}

pub(crate) fn copies_from_unpinned_memory_are_refused(device: &Device) {
    let stream = stream(device);
    let memory = Memory::new(device, 4096);
    let mut bytes = vec![7u8; 4096];
    let pinned = Pinned::new(device, 4096);
    let driver = device.driver();
    // SAFETY: nothing of this is enqueued; each call is refused.
    unsafe {
        let copied = driver.copy_h2d(stream.id(), memory.ptr, bytes.as_ptr(), 4096);
        assert_eq!(status(copied), DeviceError::INVALID_VALUE);
        let copied = driver.copy_d2h(stream.id(), bytes.as_mut_ptr(), memory.ptr, 4096);
        assert_eq!(status(copied), DeviceError::INVALID_VALUE);
        let from = pinned.address().wrapping_add(1);
        let copied = driver.copy_h2d(stream.id(), memory.ptr, from, 4096);
        assert_eq!(status(copied), DeviceError::INVALID_VALUE, "the last byte is not pinned");
    }
    stream.synchronize().unwrap();
    assert!(bytes.iter().all(|&byte| byte == 7));
}

pub(crate) fn pinning_nothing_is_refused(device: &Device) {
    let mut byte = 0u8;
    assert_eq!(status(device.driver().alloc_pinned(0)), DeviceError::INVALID_VALUE);
    // SAFETY: refused, and nothing changes.
    let registered = unsafe { device.driver().register(NonNull::from(&mut byte), 0) };
    assert_eq!(status(registered), DeviceError::INVALID_VALUE);
    let failed = status(device.driver().alloc_pinned(1 << 62));
    assert_eq!(failed, DeviceError::OUT_OF_MEMORY);
}
