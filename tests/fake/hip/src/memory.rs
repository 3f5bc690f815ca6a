//! Device memory and pinned host memory.

use riverbed_fake_core::status::INVALID_VALUE;
use riverbed_fake_core::{Out, misuse};

use crate::exports;

/// `hipMallocSignalMemory`.
const SIGNAL_MEMORY: u32 = 2;

exports! {
    fn hipMalloc(pointer: Out<u64>, bytes: usize) Context |fake| {
        // Nothing is what one gets for nothing.
        if bytes == 0 {
            return pointer.put(0);
        }
        pointer.put(fake.alloc(bytes as u64)?)
    };
    fn hipExtMallocWithFlags(pointer: Out<u64>, bytes: usize, flags: u32) Context |fake| match flags {
        0 => pointer.put(fake.alloc(bytes as u64)?),
        SIGNAL_MEMORY => pointer.put(fake.alloc_signal(bytes as u64)?),
        _ => Err(misuse("invalid_argument", format!("flags {flags:#x}"), INVALID_VALUE)),
    };
    fn hipFree(pointer: u64) Context |fake| fake.free(pointer);
    fn hipHostMalloc(pointer: Out<u64>, bytes: usize, flags: u32) Context |fake|
        pointer.put(fake.alloc_pinned(bytes as u64, flags)?);
    fn hipHostFree(pointer: u64) Context |fake| fake.free_pinned(pointer);
    fn hipHostRegister(pointer: u64, bytes: usize, flags: u32) Context |fake|
        fake.register(pointer, bytes as u64, flags);
    fn hipHostUnregister(pointer: u64) Context |fake| fake.unregister(pointer);
    fn hipHostGetDevicePointer(device: Out<u64>, pointer: u64, flags: u32) Context |fake|
        device.put(fake.device_address(pointer, flags)?);
}
