//! Device memory: alignment, exhaustion, giving back.

use riverbed::base::DeviceError;
use riverbed::device::Device;

use crate::support::{Memory, pattern, shows, status, stream, upload};

pub(crate) fn allocations_are_aligned_and_apart(device: &Device) {
    let granularity = device.info().granularity_bytes;
    let before = device.memory().unwrap();
    let sizes = [1, 511, 4096, granularity - 1, granularity, granularity + 1, 3 * granularity];
    let mut held: Vec<Memory> = sizes.map(|bytes| Memory::new(device, bytes)).into();
    for memory in &held {
        assert_eq!(memory.ptr.0 % granularity, 0, "{memory:?} is not aligned");
    }
    let after = device.memory().unwrap();
    let taken = before.free_bytes - after.free_bytes;
    assert!(taken >= sizes.iter().sum(), "{taken} bytes taken");
    assert_eq!(after.total_bytes, before.total_bytes);
    held.sort_by_key(|memory| memory.ptr);
    for pair in held.windows(2) {
        assert!(pair[0].ptr.0 + pair[0].bytes <= pair[1].ptr.0, "overlap: {pair:?}");
    }
    drop(held);
    assert_eq!(device.memory().unwrap(), before, "freeing gives everything back");
}

pub(crate) fn nothing_and_too_much_are_refused(device: &Device) {
    let before = device.memory().unwrap();
    assert_eq!(status(device.driver().alloc(0)), DeviceError::INVALID_VALUE);
    for bytes in [before.total_bytes + 1, 1 << 60, u64::MAX - 1, u64::MAX] {
        let failed = status(device.driver().alloc(bytes));
        assert_eq!(failed, DeviceError::OUT_OF_MEMORY, "{bytes} bytes");
    }
    assert_eq!(device.memory().unwrap(), before, "a failed call changes nothing");
}

pub(crate) fn a_full_device_says_so_and_serves_again(device: &Device) {
    let granularity = device.info().granularity_bytes;
    let before = device.memory().unwrap();
    let chunk = (before.total_bytes / 8).next_multiple_of(granularity);
    let mut held = Vec::new();
    let failed = loop {
        match device.driver().alloc(chunk) {
            Ok(ptr) => held.push(ptr),
            Err(error) => break error,
        }
        assert!(held.len() <= 8, "more was given than there is");
    };
    assert!(failed.is_out_of_memory(), "{failed}");
    assert!(!held.is_empty());
    let full = device.memory().unwrap();
    assert!(full.free_bytes < chunk);
    assert_eq!(status(device.driver().alloc(chunk)), DeviceError::OUT_OF_MEMORY);
    assert_eq!(device.memory().unwrap(), full, "a failed call changes nothing");

    let stream = stream(device);
    let bytes = pattern(4096, 7);
    let last = held[held.len() - 1].offset(chunk - 4096);
    upload(&stream, last, &bytes);
    assert!(shows(&stream, last, &bytes), "what was given is all there");
    // SAFETY: from `alloc` above, used by nobody.
    unsafe { device.driver().free(held.pop().unwrap()) }.unwrap();
    held.push(device.driver().alloc(chunk).expect("freed memory can be taken again"));
    for ptr in held {
        // SAFETY: from `alloc` above, and the work on it was synchronized.
        unsafe { device.driver().free(ptr) }.unwrap();
    }
    assert_eq!(device.memory().unwrap(), before);
}

pub(crate) fn threads_take_and_free_side_by_side(device: &Device) {
    let before = device.memory().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                let stream = stream(device);
                for round in 0..25 {
                    let memory = Memory::new(device, 1000 + round);
                    let bytes = pattern(1000, thread * 1000 + round);
                    upload(&stream, memory.ptr, &bytes);
                    assert!(shows(&stream, memory.ptr, &bytes));
                }
            });
        }
    });
    assert_eq!(device.memory().unwrap(), before);
}
