//! Copies beyond the memory there is.

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr};

use crate::support::{Memory, Pinned, status, stream};

pub(crate) fn copies_beyond_the_memory_are_refused(device: &Device) {
    let stream = stream(device);
    let page = device.info().granularity_bytes;
    let (memory, pinned) = (Memory::new(device, page), Pinned::new(device, 8192));
    let end = memory.ptr.offset(page);
    let (driver, id) = (device.driver(), stream.id());
    for (at, bytes, why) in [
        (end, 1, "past the end"),
        (end.offset(0u64.wrapping_sub(4096)), 8192, "over the end"),
        (DevicePtr::default(), 1, "at 0"),
        (DevicePtr(u64::MAX), 1, "at the last address"),
        (DevicePtr(u64::MAX - 10), 100, "around the end of all addresses"),
    ] {
        // SAFETY: nothing of this is enqueued; each call is refused.
        unsafe {
            let copied = driver.copy_h2d(id, at, pinned.address(), bytes);
            assert_eq!(status(copied), DeviceError::INVALID_VALUE, "h2d {why}");
            let copied = driver.copy_d2h(id, pinned.address(), at, bytes);
            assert_eq!(status(copied), DeviceError::INVALID_VALUE, "d2h {why}");
            let copied = driver.copy_d2d(id, at, memory.ptr, bytes);
            assert_eq!(status(copied), DeviceError::INVALID_VALUE, "d2d to {why}");
            let copied = driver.copy_d2d(id, memory.ptr, at, bytes);
            assert_eq!(status(copied), DeviceError::INVALID_VALUE, "d2d from {why}");
        }
    }
    // SAFETY: refused: the whole address space is more than there is.
    let all = unsafe { driver.copy_d2d(id, memory.ptr, memory.ptr, u64::MAX) };
    assert_eq!(status(all), DeviceError::INVALID_VALUE);
    stream.synchronize().unwrap();
}
