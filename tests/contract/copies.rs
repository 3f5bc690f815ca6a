//! Copies beyond the memory there is.

use riverbed::base::DeviceError;
use riverbed::device::{Copy2d, CopyH2d, Device, DevicePtr, Place};

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
            let piece = |dst| CopyH2d { dst, src: pinned.address(), bytes };
            let copied = driver.copy_h2d_batch(id, &[piece(memory.ptr), piece(at)]);
            assert_eq!(status(copied), DeviceError::INVALID_VALUE, "a batch {why}");
            let copied = driver.copy_peer(id, memory.ptr, driver, at, bytes);
            assert_eq!(status(copied), DeviceError::INVALID_VALUE, "from a peer {why}");
            let (dst, src) = (Place::Device(at), Place::Host(pinned.address()));
            let copy =
                Copy2d { dst, dst_pitch: bytes, src, src_pitch: bytes, width: bytes, height: 1 };
            let copied = driver.copy_2d(id, &copy);
            assert_eq!(status(copied), DeviceError::INVALID_VALUE, "a row {why}");
        }
    }
    // SAFETY: refused: the whole address space is more than there is.
    let all = unsafe { driver.copy_d2d(id, memory.ptr, memory.ptr, u64::MAX) };
    assert_eq!(status(all), DeviceError::INVALID_VALUE);
    let (dst, src) = (Place::Device(memory.ptr), Place::Device(memory.ptr.offset(page / 2)));
    let pitch = page / 2;
    for (dst_pitch, src_pitch, height) in
        [(pitch, pitch, 3), (0, 0, 2), (u64::MAX, pitch, 2), (pitch, pitch, u64::MAX)]
    {
        let copy = Copy2d { dst, dst_pitch, src, src_pitch, width: 8, height };
        // SAFETY: refused: rows go beyond the memory or over each other.
        let copied = unsafe { driver.copy_2d(id, &copy) };
        assert_eq!(status(copied), DeviceError::INVALID_VALUE, "{copy:?}");
    }
    stream.synchronize().unwrap();
}
