//! Copies: every byte, no other byte, at every size.

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr};

use crate::support::{Memory, Pinned, download, pattern, shows, status, stream, upload};

const SIZES: [usize; 20] = [
    1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 511, 512, 513, 4095, 4096, 4097, 8191, 65_535, 65_536,
    65_537,
];
/// Bytes on both sides that must stay as they are.
const GUARD: usize = 64;

pub(crate) fn bytes_arrive_as_they_left_at_every_size(device: &Device) {
    let stream = stream(device);
    let room = 65_537 + 2 * GUARD + 8;
    let (one, two) = (Memory::new(device, room as u64), Memory::new(device, room as u64));
    let (source, target) = (Pinned::with(device, &pattern(room, 1)), Pinned::new(device, room));
    let untouched = vec![0xee; room];
    for len in SIZES {
        for shift in [0, 1, 5] {
            upload(&stream, one.ptr, &untouched);
            upload(&stream, two.ptr, &untouched);
            let at = GUARD + shift;
            let bytes = len as u64;
            // SAFETY: all ends live past `synchronize`, and only this stream touches them.
            unsafe {
                let driver = device.driver();
                let (id, from) = (stream.id(), source.address().add(shift));
                let (first, second) = (one.ptr.offset(at as u64), two.ptr.offset(at as u64 - 1));
                driver.copy_h2d(id, first, from, bytes).unwrap();
                driver.copy_d2d(id, second, first, bytes).unwrap();
                driver.copy_d2h(id, target.address().add(3), second, bytes).unwrap();
            }
            stream.synchronize().unwrap();
            let sent = &source[shift..shift + len];
            assert!(target[3..3 + len] == *sent, "{len} bytes, shifted by {shift}");
            for (memory, at) in [(&one, at), (&two, at - 1)] {
                let mut expected = untouched.clone();
                expected[at..at + len].copy_from_slice(sent);
                let found = download(&stream, memory.ptr, room);
                assert!(found == expected, "{len} bytes at {at} left a mark elsewhere");
            }
        }
    }
}

pub(crate) fn copies_cross_pages(device: &Device) {
    let stream = stream(device);
    let page = device.info().granularity_bytes;
    let (one, two) = (Memory::new(device, 3 * page), Memory::new(device, 3 * page));
    let bytes = pattern(2 * page as usize + 1, 2);
    let start = page - 1;
    upload(&stream, one.ptr.offset(start), &bytes);
    // SAFETY: both ends live past `synchronize`, and only this stream touches them.
    unsafe {
        let (to, from) = (two.ptr.offset(1), one.ptr.offset(start));
        device.driver().copy_d2d(stream.id(), to, from, bytes.len() as u64 - 2).unwrap();
    }
    stream.synchronize().unwrap();
    let found = download(&stream, two.ptr.offset(1), bytes.len() - 2);
    assert!(found == bytes[..bytes.len() - 2]);
}

pub(crate) fn a_copy_of_nothing_does_nothing(device: &Device) {
    let stream = stream(device);
    let (memory, pinned) = (Memory::new(device, 64), Pinned::new(device, 64));
    upload(&stream, memory.ptr, &[5; 64]);
    let (driver, id) = (device.driver(), stream.id());
    // SAFETY: no bytes are touched.
    unsafe {
        driver.copy_h2d(id, memory.ptr, pinned.address(), 0).unwrap();
        driver.copy_d2h(id, pinned.address(), memory.ptr, 0).unwrap();
        driver.copy_d2d(id, memory.ptr, memory.ptr.offset(32), 0).unwrap();
        driver.copy_d2d(id, DevicePtr::default(), DevicePtr::default(), 0).unwrap();
    }
    stream.synchronize().unwrap();
    assert!(shows(&stream, memory.ptr, &[5; 64]));
    assert!(pinned.iter().all(|&byte| byte == 0));
}

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
