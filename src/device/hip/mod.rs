//! ROCm through HIP. So far only what `riverbed devices` says of it: the runtime is looked for
//! at run time.

use super::probe::{Vendor, probe as probe_vendor};

/// What was found of ROCm, with the reason it cannot be used.
pub(super) fn probe() -> String {
    probe_vendor(&Vendor {
        name: "ROCm",
        libraries: &["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"],
        // hipInit without a device answers "invalid device"; the count call says it better.
        init: None,
        version: b"hipRuntimeGetVersion\0",
        version_text: |version| format!("HIP {}.{}", version / 10_000_000, version / 100_000 % 100),
        device_count: b"hipGetDeviceCount\0",
        no_device: &[100, 101],
    })
}
