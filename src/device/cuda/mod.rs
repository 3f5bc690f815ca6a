//! CUDA. So far only what `riverbed devices` says of it: the driver is looked for at run time.

use super::probe::{Vendor, probe as probe_vendor};

/// What was found of CUDA, with the reason it cannot be used.
pub(super) fn probe() -> String {
    probe_vendor(&Vendor {
        name: "CUDA",
        // The versioned name first: an unversioned one may be a toolkit's stub.
        libraries: &["libcuda.so.1", "libcuda.so"],
        init: Some(b"cuInit\0"),
        version: b"cuDriverGetVersion\0",
        version_text: |version| format!("driver {}.{}", version / 1000, version % 1000 / 10),
        device_count: b"cuDeviceGetCount\0",
        no_device: &[100],
    })
}
