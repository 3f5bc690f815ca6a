//! Kernels: bit for bit what the reference says.

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr, Kernel, checksum};

use crate::support::{Memory, download, pattern, status, stream, upload};

pub(crate) fn checksums_are_those_of_the_reference(device: &Device) {
    let stream = stream(device);
    let bytes = pattern(300_000, 1);
    let memory = Memory::new(device, bytes.len() as u64);
    upload(&stream, memory.ptr, &bytes);
    let long = [255, 256, 1000, 4095, 4096, 4097, 65_535, 262_144, 299_992];
    let cases: Vec<(usize, usize)> =
        (0..=70).chain(long).flat_map(|len| (0..8).map(move |shift| (shift, len))).collect();
    let sums = Memory::new(device, 8 * cases.len() as u64);
    for (slot, &(shift, len)) in cases.iter().enumerate() {
        let kernel = Kernel::Checksum {
            src: memory.ptr.offset(shift as u64),
            bytes: len as u64,
            out: sums.ptr.offset(8 * slot as u64),
        };
        // SAFETY: both ranges live past `synchronize`, and only this stream touches them.
        unsafe { device.driver().launch(stream.id(), &kernel) }.unwrap();
    }
    stream.synchronize().unwrap();
    let found = download(&stream, sums.ptr, 8 * cases.len());
    for ((shift, len), sum) in cases.into_iter().zip(found.chunks(8)) {
        let expected = checksum(&bytes[shift..shift + len]);
        let sum = u64::from_le_bytes(sum.try_into().unwrap());
        assert_eq!(sum, expected, "{len} bytes from {shift}");
    }
}

pub(crate) fn fill_writes_its_range_and_no_more(device: &Device) {
    let stream = stream(device);
    let memory = Memory::new(device, 10_000);
    let mut expected = pattern(10_000, 2);
    upload(&stream, memory.ptr, &expected);
    let ranges = [(0, 1), (3, 5), (64, 64), (511, 514), (1999, 4097), (9999, 1), (7, 0)];
    for (value, (at, len)) in (1u8..).zip(ranges) {
        let dst = memory.ptr.offset(at as u64);
        let kernel = Kernel::Fill { dst, bytes: len as u64, value };
        // SAFETY: the range lives past `synchronize`, and only this stream touches it.
        unsafe { device.driver().launch(stream.id(), &kernel) }.unwrap();
        expected[at..at + len].fill(value);
    }
    stream.synchronize().unwrap();
    assert!(download(&stream, memory.ptr, 10_000) == expected);
}

pub(crate) fn kernels_over_nothing_touch_nothing(device: &Device) {
    let stream = stream(device);
    let sums = Memory::new(device, 8);
    let nowhere = DevicePtr::default();
    let kernels = [
        Kernel::Fill { dst: nowhere, bytes: 0, value: 1 },
        Kernel::Checksum { src: nowhere, bytes: 0, out: sums.ptr },
        Kernel::Busy { ns: 0 },
    ];
    for kernel in kernels {
        // SAFETY: only the 8 bytes of `sums` are touched, which live past `synchronize`.
        unsafe { device.driver().launch(stream.id(), &kernel) }.unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(download(&stream, sums.ptr, 8), checksum(&[]).to_le_bytes());
}

pub(crate) fn kernels_beyond_the_memory_are_refused(device: &Device) {
    let stream = stream(device);
    let page = device.info().granularity_bytes;
    let memory = Memory::new(device, page);
    let start = memory.ptr;
    let kernels = [
        Kernel::Fill { dst: start.offset(1), bytes: page, value: 1 },
        Kernel::Fill { dst: DevicePtr::default(), bytes: 1, value: 1 },
        Kernel::Fill { dst: start, bytes: u64::MAX, value: 1 },
        Kernel::Checksum { src: start.offset(page), bytes: 1, out: start },
        Kernel::Checksum { src: start, bytes: 8, out: start.offset(page) },
        Kernel::Checksum { src: start, bytes: 0, out: DevicePtr::default() },
    ];
    for kernel in kernels {
        // SAFETY: nothing is enqueued; the launch is refused.
        let launched = unsafe { device.driver().launch(stream.id(), &kernel) };
        assert_eq!(status(launched), DeviceError::INVALID_VALUE, "{kernel:?}");
    }
    stream.synchronize().unwrap();
}

pub(crate) fn a_checksum_needs_an_aligned_place(device: &Device) {
    let stream = stream(device);
    let memory = Memory::new(device, 64);
    for shift in 1..8 {
        let kernel =
            Kernel::Checksum { src: memory.ptr, bytes: 8, out: memory.ptr.offset(16 + shift) };
        // SAFETY: nothing is enqueued; the launch is refused.
        let launched = unsafe { device.driver().launch(stream.id(), &kernel) };
        assert_eq!(status(launched), DeviceError::INVALID_VALUE, "shifted by {shift}");
    }
    stream.synchronize().unwrap();
}
