//! What every bench shares: the device to run on.

use riverbed::device::Device;

/// The device named by `RIVERBED_BENCH_DEVICE`; the host device otherwise.
pub(crate) fn device() -> Device {
    let name = std::env::var("RIVERBED_BENCH_DEVICE").unwrap_or_else(|_| "host".into());
    Device::open(&name).unwrap_or_else(|error| panic!("RIVERBED_BENCH_DEVICE: {error}"))
}

/// A bench's id: figures of different devices and policies never mix.
pub(crate) fn id(device: &Device, what: &str) -> String {
    format!("{}/{what}", device.info().name)
}
