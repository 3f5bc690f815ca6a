//! Looking for a vendor's driver library without linking to it: which file loads, and what its
//! device count call says. Never panics, whatever the library lacks.

use std::ffi::c_int;

use libloading::Library;

/// A vendor's names for the calls a probe makes.
pub(super) struct Vendor {
    /// The vendor's name for people.
    pub(super) name: &'static str,
    /// File names to try, in order.
    pub(super) libraries: &'static [&'static str],
    /// `status init(unsigned flags)`, called first where the vendor has one to call.
    pub(super) init: Option<&'static [u8]>,
    /// `status version(int *)`.
    pub(super) version: &'static [u8],
    /// The version number in words.
    pub(super) version_text: fn(c_int) -> String,
    /// `status device_count(int *)`.
    pub(super) device_count: &'static [u8],
    /// Statuses that mean "no device".
    pub(super) no_device: &'static [u32],
}

/// What was found, as a sentence that gives the reason it cannot be used.
pub(super) fn probe(vendor: &Vendor) -> String {
    let mut failures = Vec::new();
    for &file in vendor.libraries {
        // SAFETY: loading runs the library's initialisers. These names belong to the vendor's
        // driver, which every GPU program on the machine loads the same way.
        match unsafe { Library::new(file) } {
            Ok(library) => return ask(vendor, file, library),
            Err(error) => failures.push(reason(&error)),
        }
    }
    format!(
        "absent: no {} driver library found ({})",
        vendor.name,
        failures.first().map_or("", String::as_str)
    )
}

fn ask(vendor: &Vendor, file: &str, library: Library) -> String {
    // Never closed: drivers start threads that outlive any handle.
    let library: &'static Library = Box::leak(Box::new(library));
    let mut version = 0;
    let mut devices = 0;
    let outcome = (|| {
        if let Some(symbol) = vendor.init {
            // SAFETY: both vendors' init take one unsigned and return a status integer.
            let init = unsafe { library.get::<unsafe extern "C" fn(u32) -> u32>(symbol) }
                .map_err(|error| reason(&error))?;
            // SAFETY: 0 is the only flag value defined.
            check(vendor, "initialising", unsafe { init(0) })?;
        }
        for (symbol, out) in [(vendor.version, &mut version), (vendor.device_count, &mut devices)] {
            // SAFETY: both calls take a pointer to int and return a status integer.
            let query = unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> u32>(symbol) }
                .map_err(|error| reason(&error))?;
            // SAFETY: `out` is a live int.
            check(vendor, "asking for devices", unsafe { query(out) })?;
        }
        Ok::<(), String>(())
    })();
    match outcome {
        Err(reason) => format!("absent: {file} loads, but {reason}"),
        Ok(()) if devices == 0 => format!("absent: {file} loads, but there is no device"),
        Ok(()) => format!(
            "{devices} device(s) found ({file}, {}), but this version has no {} backend yet",
            (vendor.version_text)(version),
            vendor.name
        ),
    }
}

/// The loader's own words, which the error keeps as its source.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn check(vendor: &Vendor, doing: &str, status: u32) -> Result<(), String> {
    match status {
        0 => Ok(()),
        status if vendor.no_device.contains(&status) => {
            Err(format!("there is no device (status {status})"))
        }
        status => Err(format!("{doing} failed with status {status}")),
    }
}
