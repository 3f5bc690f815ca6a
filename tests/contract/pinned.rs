//! Host memory that is pinned already, or not at all.

use std::ptr::NonNull;

use riverbed::base::DeviceError;
use riverbed::device::Device;

use crate::support::{Memory, Pinned, status, stream};

/// Page-aligned bytes inside an ordinary allocation.
fn aligned(bytes: &mut [u8], len: usize) -> &mut [u8] {
    let skip = bytes.as_ptr().align_offset(4096);
    &mut bytes[skip..skip + len]
}

pub(crate) fn copies_need_memory_that_is_still_pinned(device: &Device) {
    let stream = stream(device);
    let memory = Memory::new(device, 8192);
    let mut bytes = vec![0; 3 * 4096];
    let own = aligned(&mut bytes, 8192);
    let start = NonNull::from(&mut *own).cast::<u8>();
    // SAFETY: `bytes` outlives the pinning, and nothing is enqueued.
    unsafe {
        device.driver().register(start, 8192).unwrap();
        device.driver().unregister(start).unwrap();
    }
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
