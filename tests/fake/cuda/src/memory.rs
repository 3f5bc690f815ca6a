//! Device memory.

use riverbed_fake_core::Out;

use crate::exports;

exports! {
    fn cuMemAlloc_v2(pointer: Out<u64>, bytes: usize) Context |fake|
        pointer.put(fake.alloc(bytes as u64)?);
    fn cuMemFree_v2(pointer: u64) Context |fake| fake.free(pointer);
}
