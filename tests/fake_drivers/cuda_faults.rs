//! Failures on request, drivers that lack something, and the report of a process.

use std::ffi::c_void;
use std::process::Command;

use crate::cuda_calls::{Cuda, PoolProperties, Properties, made, store, until};
use crate::fake::{Failed, FakeDriver, Vendor};

#[test]
fn the_nth_call_fails_once() {
    let cuda = Cuda::ready("");
    cuda.fake.set("fail=cuMemAlloc_v2@2/2,fail=any@4/4242");
    let mut at = 0;
    assert_eq!(cuda.cuMemAlloc_v2(&mut at, 64), 0);
    assert_eq!(cuda.cuMemAlloc_v2(&mut at, 64), 2);
    assert_eq!(cuda.cuMemAlloc_v2(&mut at, 64), 0);
    assert_eq!(cuda.cuMemAlloc_v2(&mut at, 64), 4242, "a status of no known meaning");
    let failed = Failed { call: "cuMemAlloc_v2".into(), status: 4242 };
    assert_eq!(cuda.fake.report().last_failed, Some(failed));
    assert_eq!(cuda.fake.count("cuMemAlloc_v2"), 4);
    assert_eq!(cuda.cuMemAlloc_v2(&mut at, 64), 0);
    cuda.assert_misused(&[]);
}

#[test]
fn a_lost_device_stays_lost_and_runs_nothing() {
    unsafe extern "C" fn never(_: *mut c_void) {
        unreachable!("the device was lost before");
    }
    let cuda = Cuda::ready("");
    let (stream, word) = (cuda.stream(), cuda.pinned(8));
    store(word, 0);
    assert_eq!(cuda.cuStreamWaitValue64_v2(stream, word, 1, 0), 0);
    assert_eq!(cuda.cuLaunchHostFunc(stream, never, std::ptr::null_mut()), 0);
    cuda.fake.set("lost=cuStreamQuery@1/700");
    assert_eq!(cuda.cuStreamQuery(stream), 700);
    assert_eq!(cuda.cuStreamSynchronize(stream), 700);
    assert_eq!(cuda.cuMemFreeHost(word), 700);
    assert_eq!(cuda.cuDriverGetVersion(&mut 0), 0);
    assert_eq!(cuda.fake.report().leaks["pinned"], 1);
    cuda.assert_misused(&[]);
}

#[test]
fn a_kernel_that_strays_loses_the_device() {
    let cuda = Cuda::ready("");
    let (stream, at) = (cuda.stream(), cuda.alloc(64));
    let ptx = c".version 4.3\n.visible .entry riverbed_fill(";
    let module = made(|module| cuda.cuModuleLoadData(module, ptx.as_ptr()));
    let fill = made(|fill| cuda.cuModuleGetFunction(fill, module, c"riverbed_fill".as_ptr()));
    assert_eq!(cuda.cuModuleGetFunction(&mut 0, module, c"riverbed_cast".as_ptr()), 500);
    let words = [at, 65, 0];
    let parameters = [words.as_ptr()];
    let launched = cuda.cuLaunchKernel(
        fill,
        1,
        1,
        1,
        32,
        1,
        1,
        0,
        stream,
        parameters.as_ptr(),
        std::ptr::null(),
    );
    assert_ne!(launched, 0);
    assert_eq!(cuda.cuCtxSynchronize(), 700);
    cuda.assert_misused(&["outside_live_memory"]);
}

#[test]
fn hidden_symbols_are_not_found_and_others_are() {
    let fake = FakeDriver::new(Vendor::Cuda, "", &["cuMemcpyBatchAsync", "cuMemCreate"]);
    assert!(!fake.has("cuMemcpyBatchAsync"));
    assert!(!fake.has("cuMemCreate"));
    assert!(fake.has("cuMemcpyBatchAsync_v2"));
    assert!(fake.has("cuInit"));
    assert!(FakeDriver::new(Vendor::Cuda, "", &[]).has("cuMemCreate"));
}

#[test]
fn what_is_switched_off_is_refused_and_says_so() {
    let cuda = Cuda::ready("vmm=off,pools=off,host_register=off,wait_value=off,integrated=on");
    for (attribute, wanted) in [(102, 0), (115, 0), (99, 0), (92, 0), (93, 0), (18, 1)] {
        assert_eq!(made(|at| cuda.cuDeviceGetAttribute(at, attribute, 0)), wanted, "{attribute}");
    }
    assert_eq!(cuda.cuMemCreate(&mut 0, 2 << 20, &Properties::DEVICE, 0), 801);
    assert_eq!(cuda.cuMemPoolCreate(&mut 0, &PoolProperties::DEVICE), 801);
    assert_eq!(cuda.cuMemHostRegister_v2(0x1000, 4096, 0), 801);
    let (stream, word) = (cuda.stream(), cuda.pinned(8));
    assert_eq!(cuda.cuStreamWaitValue64_v2(stream, word, 0, 0), 801);
    cuda.assert_misused(&[]);
    let old = Cuda::ready("version=11010,pool_caps=off");
    assert_eq!(old.cuDeviceGetAttribute(&mut 0, 115, 0), 1, "older than the attribute");
    let capped = PoolProperties { max_bytes: 1 << 20, ..PoolProperties::DEVICE };
    assert_eq!(old.cuMemPoolCreate(&mut 0, &capped), 1);
}

#[test]
fn no_device_is_told_by_the_first_calls() {
    let none = Cuda::new("devices=0");
    assert_eq!(none.cuInit(0), 100);
    let broken = Cuda::new("init=999");
    assert_eq!(broken.cuInit(0), 999);
}

/// Run by the test below in a process of its own.
#[test]
fn uses_the_fake_of_the_environment() {
    let Ok(path) = std::env::var("RIVERBED_TEST_FAKE") else { return };
    // SAFETY: the fake does nothing when it is loaded, and its calls have these types.
    unsafe {
        let library = libloading::Library::new(path).unwrap();
        let init = library.get::<unsafe extern "C" fn(u32) -> u32>(b"cuInit").unwrap();
        assert_eq!(init(0), 0);
        let count = library.get::<unsafe extern "C" fn(*mut i32) -> u32>(b"cuDeviceGetCount");
        let mut devices = 0;
        assert_eq!(count.unwrap()(&mut devices), 0);
        assert_eq!(devices, 2);
        std::mem::forget(library);
    }
}

#[test]
fn a_process_writes_its_report_when_it_ends() {
    let fake = FakeDriver::new(Vendor::Cuda, "", &[]);
    let report = fake.dir().join("report.json");
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cuda_faults::uses_the_fake_of_the_environment"])
        .env("RIVERBED_TEST_FAKE", fake.path())
        .env("RIVERBED_FAKE", format!("devices=2,report={}", report.display()))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    until(|| report.exists());
    let report: crate::fake::Report =
        serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report.calls["cuInit"], 1);
    assert_eq!(report.calls_total, 2);
}
