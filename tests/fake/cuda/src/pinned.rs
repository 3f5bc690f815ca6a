//! Pinned host memory.

use riverbed_fake_core::Out;

use crate::exports;

exports! {
    fn cuMemHostAlloc(pointer: Out<u64>, bytes: usize, flags: u32) Context |fake|
        pointer.put(fake.alloc_pinned(bytes as u64, flags)?);
    fn cuMemAllocHost_v2(pointer: Out<u64>, bytes: usize) Context |fake|
        pointer.put(fake.alloc_pinned(bytes as u64, 0)?);
    fn cuMemFreeHost(pointer: u64) Context |fake| fake.free_pinned(pointer);
    fn cuMemHostRegister_v2(pointer: u64, bytes: usize, flags: u32) Context |fake|
        fake.register(pointer, bytes as u64, flags);
    fn cuMemHostUnregister(pointer: u64) Context |fake| fake.unregister(pointer);
    fn cuMemHostGetDevicePointer_v2(device: Out<u64>, pointer: u64, flags: u32) Context |fake|
        device.put(fake.device_address(pointer, flags)?);
}
