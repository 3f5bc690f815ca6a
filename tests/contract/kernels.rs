//! Kernels whose arguments are wrong.

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr, Kernel};

use crate::support::{Memory, status, stream};

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
