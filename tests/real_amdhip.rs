//! AMD's own HIP runtime, on a machine without its GPUs: it loads, has the functions it is said to
//! have, and every call is an error, not a crash. `scripts/install-amdhip` gets Debian's, in
//! which `RIVERBED_AMDHIP` is the folder to find it in; else the system's loader looks for one.
//!
//! Each test runs once more in a process of its own: where the loader looks is settled at start.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;

use libloading::Library;
use riverbed::base::Error;
use riverbed::device::{Device, DriverInfo, Listing, list};

/// Set in the process that looks at the library.
const INSIDE: &str = "RIVERBED_REAL_AMDHIP_INSIDE";
const DIR: &str = "RIVERBED_AMDHIP";

/// What Debian's 5.2.3 lacks of the functions that the backend looks for, and what that costs.
const MISSING_IN_5_2: [(&str, &str); 1] =
    [("hipLaunchHostFunc", "host functions go through stream callbacks")];

/// Runs `check` in a process where the library is found, given what was found of it.
fn beside_the_library(test: &str, check: fn(&DriverInfo)) {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside(test);
    }
    match listed() {
        Listing { available: true, .. } => eprintln!("SKIPPED: this machine has an AMD GPU"),
        Listing { driver: Some(driver), .. } => check(&driver),
        Listing { detail, .. } => {
            let asked_for = std::env::var_os(DIR);
            assert!(asked_for.is_none(), "nothing loads from {DIR}={asked_for:?}: {detail}");
            eprintln!("SKIPPED: {detail}; scripts/install-amdhip unpacks one for {DIR}");
        }
    }
}

fn run_inside(test: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "yes");
    if let Some(dir) = std::env::var_os(DIR) {
        let others = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let others: Vec<PathBuf> = std::env::split_paths(&others).collect();
        let all = std::iter::once(dir.into()).chain(others);
        command.env("LD_LIBRARY_PATH", std::env::join_paths(all).unwrap());
    }
    let output = command.output().unwrap();
    let (out, err) = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b)).into();
    eprint!("{err}");
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    assert!(out.contains("1 passed"), "{test} is no test: {out}");
}

/// ROCm's line among the devices.
fn listed() -> Listing {
    let hip = list().into_iter().find(|listing| listing.name.starts_with("hip"));
    hip.expect("the vendor is always listed")
}

#[test]
fn there_is_no_device_and_that_is_said() {
    beside_the_library("there_is_no_device_and_that_is_said", |driver| {
        let listing = listed();
        assert_eq!(
            listing.detail,
            format!("absent: {} loads, but there is no device", driver.library)
        );
        assert!(listing.info.is_none());
        for name in ["hip", "hip:0", "hip:7"] {
            let error = Device::open(name).expect_err("there is none");
            assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("there is no device"), "{text}");
        }
    });
}

#[test]
fn it_lacks_what_is_known_and_nothing_else() {
    beside_the_library("it_lacks_what_is_known_and_nothing_else", |driver| {
        assert_eq!(driver.vendor, "ROCm");
        assert!(driver.library.contains("libamdhip64.so"), "{}", driver.library);
        let missing: Vec<(&str, &str)> =
            driver.missing.iter().map(|(name, cost)| (&**name, &**cost)).collect();
        match &*driver.version {
            "5.2" => assert_eq!(missing, MISSING_IN_5_2),
            other => eprintln!("SKIPPED: of version {other} no list is kept; it lacks {missing:?}"),
        }
        assert!(driver.notes.is_empty(), "nothing is known of a device: {:?}", driver.notes);
    });
}

#[test]
fn every_call_is_an_error_and_no_crash() {
    beside_the_library("every_call_is_an_error_and_no_crash", |driver| {
        // SAFETY: it is loaded already, and its handle is never closed.
        let library: &'static Library =
            Box::leak(Box::new(unsafe { Library::new(&driver.library) }.unwrap()));
        for (call, status) in statuses(&Hip(library)) {
            assert!([100, 101].contains(&status), "{call} answers {status}");
        }
        type Name = unsafe extern "C" fn(u32) -> *const c_char;
        // SAFETY: the interface gives the function this type; it takes any number.
        let name = unsafe { library.get::<Name>(b"hipGetErrorName") }.unwrap();
        for status in [100, 101, 34, 4242, u32::MAX] {
            // SAFETY: as above; names are constants of the library.
            let name = unsafe { CStr::from_ptr(name(status)) };
            assert!(name.to_str().unwrap().starts_with("hip"), "{status} is {name:?}");
        }
    });
}

/// The library's functions by name. The caller says of which type they are.
struct Hip(&'static Library);

macro_rules! call {
    ($hip:expr, $name:ident($($argument:expr => $type:ty),*)) => {{
        let name = stringify!($name);
        // SAFETY: the interface gives the function these arguments and an integer status.
        let function = unsafe { $hip.0.get::<unsafe extern "C" fn($($type),*) -> u32>(name.as_bytes()) };
        let function = function.unwrap_or_else(|error| panic!("{error}"));
        // SAFETY: pointers are to live values, and there is no device whose memory could be touched.
        (name, unsafe { function($($argument),*) })
    }};
}

/// What the calls that take hold of something answer, each of those the backend could begin with.
fn statuses(hip: &Hip) -> Vec<(&'static str, u32)> {
    let (mut number, mut bytes, mut more, mut handle) = (0 as c_int, 0usize, 0usize, 0u64);
    let (mut text, mut host) = ([0 as c_char; 64], null_mut::<c_void>());
    let mut own = vec![0u8; 4096];
    // Larger than any of the interface's structs, and all zero.
    let properties = [0u64; 64];
    let (number, bytes, more) = (&raw mut number, &raw mut bytes, &raw mut more);
    let (handle, host, text) = (&raw mut handle, &raw mut host, text.as_mut_ptr());
    let (own, properties) = (own.as_mut_ptr().cast::<c_void>(), (&raw const properties).cast());
    vec![
        call!(hip, hipInit(0 => u32)),
        call!(hip, hipGetDeviceCount(number => *mut c_int)),
        call!(hip, hipGetDevice(number => *mut c_int)),
        call!(hip, hipSetDevice(0 => c_int)),
        call!(hip, hipDeviceGet(number => *mut c_int, 0 => c_int)),
        call!(hip, hipDeviceGetName(text => *mut c_char, 64 => c_int, 0 => c_int)),
        call!(hip, hipDeviceTotalMem(bytes => *mut usize, 0 => c_int)),
        call!(hip, hipDeviceGetAttribute(number => *mut c_int, 89 => u32, 0 => c_int)),
        call!(hip, hipDeviceGetPCIBusId(text => *mut c_char, 64 => c_int, 0 => c_int)),
        call!(hip, hipMemGetInfo(bytes => *mut usize, more => *mut usize)),
        call!(hip, hipMalloc(handle => *mut u64, 4096 => usize)),
        call!(hip, hipHostMalloc(host => *mut *mut c_void, 4096 => usize, 0 => u32)),
        call!(hip, hipHostRegister(own => *mut c_void, 4096 => usize, 0 => u32)),
        call!(hip, hipMemAddressReserve(
            handle => *mut u64, 2 << 20 => usize, 0 => usize, 0 => u64, 0 => u64
        )),
        call!(hip, hipMemGetAllocationGranularity(
            bytes => *mut usize, properties => *const c_void, 0 => u32
        )),
        call!(hip, hipStreamCreateWithPriority(handle => *mut u64, 1 => u32, 0 => c_int)),
        call!(hip, hipStreamSynchronize(0 => u64)),
        call!(hip, hipEventCreateWithFlags(handle => *mut u64, 2 => u32)),
        call!(hip, hipModuleLoadData(handle => *mut u64, properties => *const c_void)),
        call!(hip, hipMemPoolCreate(handle => *mut u64, properties => *const c_void)),
        call!(hip, hipDeviceGetDefaultMemPool(handle => *mut u64, 0 => c_int)),
    ]
}
