//! What every bench shares: the device to run on, and ids that tell devices apart.
// Each bench compiles this file for itself and uses a part of it.
#![allow(dead_code)]

use std::time::Duration;

use riverbed::device::{Device, settle};

/// The device of the allocator's benches: no bytes, more memory than any of them needs.
pub(crate) const SIMULATED: &str = "sim:16TiB";

/// The device named by `RIVERBED_BENCH_DEVICE`; `default` otherwise.
pub(crate) fn device(default: &str) -> Device {
    let name = std::env::var("RIVERBED_BENCH_DEVICE").unwrap_or_else(|_| default.into());
    Device::open(&name).unwrap_or_else(|error| panic!("RIVERBED_BENCH_DEVICE: {error}"))
}

/// A bench's id: figures of different devices never mix.
pub(crate) fn id(device: &Device, what: &str) -> String {
    format!("{}/{what}", name(device))
}

/// The device's name, without the path of a driver's file.
fn name(device: &Device) -> &str {
    let name = &*device.info().name;
    name.split_once(",library=").map_or(name, |(name, _)| name)
}

/// The name of a group of the allocator's benches, which names the device where it is another
/// than theirs.
pub(crate) fn group(what: &str, device: &Device) -> String {
    match name(device) {
        SIMULATED => what.into(),
        other => format!("{what}/{other}"),
    }
}

/// Whether `bytes` and half as much again, which fragments take, are free once what went before
/// has been given back; else says what is left out.
pub(crate) fn has_room(device: &Device, bytes: u64, what: &str) -> bool {
    if !settle(Duration::from_secs(10)) {
        eprintln!("{what}: memory of the case before is still not given back");
    }
    let free = device.memory().expect("the device's memory").free_bytes;
    let fits = bytes.saturating_add(bytes / 2) <= free;
    if !fits {
        eprintln!("{what}: left out, RIVERBED_BENCH_DEVICE has only {free} bytes free");
    }
    fits
}
