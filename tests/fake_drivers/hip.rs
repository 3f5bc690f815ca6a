//! The HIP library: what it has of its own, and that the model works behind it too.

use std::ffi::{CStr, c_void};
use std::ptr::null;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::cuda_calls::{Access, PoolProperties, bytes_at, made, store};
use crate::hip_calls::{DEVICE, Hip, OLD_DEVICE, PointerAttributes};

const PAGE: usize = 2 << 20;

unsafe extern "C" fn add_one(count: *mut c_void) {
    // SAFETY: the tests pass a counter that outlives the stream's work.
    unsafe { &*count.cast::<AtomicU32>() }.fetch_add(1, Ordering::SeqCst);
}

unsafe extern "C" fn called_back(_stream: u64, status: u32, count: *mut c_void) {
    assert_eq!(status, 0);
    // SAFETY: as above.
    unsafe { &*count.cast::<AtomicU32>() }.fetch_add(10, Ordering::SeqCst);
}

#[test]
fn a_whole_life_is_clean() {
    let hip = Hip::new("devices=2");
    assert_eq!(made(|at| hip.hipRuntimeGetVersion(at)), 60_342_134);
    assert_eq!(made(|at| hip.hipGetDeviceCount(at)), 2);
    assert_eq!(made(|at| hip.hipGetDevice(at)), 0);
    let (stream, host, device) = (hip.stream(), hip.pinned(256), hip.alloc(256));
    bytes_at(host, 256).iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    assert_eq!(hip.hipMemcpyHtoDAsync(device, host, 256, stream), 0);
    assert_eq!(hip.hipMemsetAsync(device, 0x1ff, 8, stream), 0);
    assert_eq!(hip.hipMemcpy2DAsync(device + 64, 32, host, 16, 8, 2, 1, stream), 0);
    let called = AtomicU32::new(0);
    let called_at = (&raw const called).cast_mut().cast();
    assert_eq!(hip.hipLaunchHostFunc(stream, add_one, called_at), 0);
    assert_eq!(hip.hipStreamAddCallback(stream, called_back, called_at, 0), 0);
    assert_eq!(hip.hipMemcpyAsync(host, device, 256, 4, stream), 0);
    assert_eq!(hip.hipStreamSynchronize(stream), 0);
    assert_eq!(called.load(Ordering::SeqCst), 11);
    assert_eq!(bytes_at(host, 256)[..10], [255, 255, 255, 255, 255, 255, 255, 255, 8, 9]);
    assert_eq!(bytes_at(host, 256)[96..98], [16, 17]);
    let (dsts, srcs, sizes) = ([device], [host], [16]);
    let batch = |attributes| {
        let (dsts, srcs, sizes) = (dsts.as_ptr(), srcs.as_ptr(), sizes.as_ptr());
        let failed = std::ptr::null_mut();
        hip.hipMemcpyBatchAsync(dsts, srcs, sizes, 1, null(), null(), attributes, failed, stream)
    };
    assert_eq!(batch(0), 0);
    let [start, end] = [(); 2].map(|()| made(|at| hip.hipEventCreateWithFlags(at, 0x8000_0000)));
    assert_eq!(hip.hipEventRecord(start, stream), 0);
    assert_eq!(hip.hipEventRecord(end, stream), 0);
    assert_eq!(hip.hipStreamWaitEvent(stream, end, 0), 0);
    assert_eq!(hip.hipEventSynchronize(end), 0);
    assert!(made(|at| hip.hipEventElapsedTime(at, start, end)) > 0.0);
    let there = AtomicU64::new(0);
    let own = (&raw const there) as u64;
    assert_eq!(hip.hipHostRegister(own, 8, 8), 0, "8 means coarse-grained here");
    assert_eq!(made(|at| hip.hipHostGetDevicePointer(at, own, 0)), own);
    assert_eq!(hip.hipMemcpyAsync(own, device, 8, 2, stream), 0, "and may be written");
    assert_eq!(hip.hipDeviceSynchronize(), 0);
    assert_eq!(hip.hipHostUnregister(own), 0);
    let pool = made(|at| hip.hipMemPoolCreate(at, &PoolProperties::DEVICE));
    let of_pool = made(|at| hip.hipMallocFromPoolAsync(at, 64, pool, stream));
    assert_eq!(hip.hipFreeAsync(of_pool, stream), 0);
    assert_eq!(hip.hipFreeAsync(0, stream), 0);
    assert_eq!(hip.hipMemPoolDestroy(pool), 0);
    assert_eq!(hip.hipSetDevice(1), 0);
    let other = hip.alloc(64);
    let there = hip.stream();
    assert_eq!(hip.hipMemcpyPeerAsync(other, 1, device, 0, 64, there), 0);
    assert_eq!(hip.hipStreamSynchronize(there), 0);
    for at in [device, other, 0] {
        assert_eq!(hip.hipFree(at), 0);
    }
    for event in [start, end] {
        assert_eq!(hip.hipEventDestroy(event), 0);
    }
    for stream in [stream, there] {
        assert_eq!(hip.hipStreamDestroy(stream), 0);
    }
    assert_eq!(hip.hipHostFree(host), 0);
    hip.fake.assert_clean();
}

#[test]
fn streams_wait_on_signal_memory() {
    let hip = Hip::new("");
    let (stream, word) = (hip.stream(), made(|at| hip.hipExtMallocWithFlags(at, 8, 2)));
    assert_eq!(bytes_at(word, 8), [0; 8]);
    assert_eq!(hip.hipStreamWaitValue64(stream, word, 3, 0, 0xf), 0);
    store(word, 0x13);
    assert_eq!(hip.hipStreamSynchronize(stream), 0);
    hip.assert_misused(&[]);
    let plain = hip.alloc(8);
    assert_eq!(hip.hipStreamWaitValue64(stream, plain, 0, 0, u64::MAX), 0);
    assert_eq!(hip.hipExtMallocWithFlags(&mut 0, 16, 2), 1);
    hip.assert_misused(&["not_signal_memory", "invalid_argument"]);
}

#[test]
fn handles_belong_to_the_current_device() {
    let hip = Hip::new("devices=2");
    let (stream, at) = (hip.stream(), hip.alloc(64));
    assert_eq!(hip.hipSetDevice(1), 0);
    assert_eq!(hip.hipMemsetAsync(at, 0, 64, stream), 400);
    hip.assert_misused(&["wrong_context"]);
    assert_eq!(hip.hipGetLastError(), 400);
    assert_eq!(hip.hipGetLastError(), 0, "asking forgets it");
    std::thread::scope(|scope| {
        let of_thread = scope.spawn(|| made(|at| hip.hipGetDevice(at)));
        assert_eq!(of_thread.join().unwrap(), 0, "the current device is of the thread");
    });
}

#[test]
fn no_device_has_two_numbers() {
    let hip = Hip::new("devices=0");
    assert_eq!(hip.hipInit(0), 101);
    let mut count = 7;
    assert_eq!((hip.hipGetDeviceCount(&mut count), count), (100, 0));
    assert_eq!(hip.hipMalloc(&mut 0, 64), 101);
    let odd = Hip::new("count=101");
    assert_eq!(odd.hipGetDeviceCount(&mut count), 101);
    hip.assert_misused(&[]);
}

#[test]
fn old_versions_lay_things_out_otherwise() {
    for (version, properties, kind) in [(50_221_153, OLD_DEVICE, 1), (60_342_134, DEVICE, 2)] {
        let hip = Hip::new(&format!("version={version}"));
        let wrong = if version < 60_000_000 { DEVICE } else { OLD_DEVICE };
        assert_eq!(hip.hipMemCreate(&mut 0, PAGE, &wrong, 0), 1);
        hip.assert_misused(&["invalid_argument"]);
        let page = made(|at| hip.hipMemCreate(at, PAGE, &properties, 0));
        assert_eq!(hip.hipMemRelease(page), 0);
        let device = hip.alloc(64);
        let facts: PointerAttributes = made(|to| hip.hipPointerGetAttributes(to, device + 3));
        assert_eq!((facts.kind, facts.device_address), (kind, device + 3));
        assert_eq!(hip.hipPointerGetAttributes(&mut PointerAttributes::default(), 0x1234), 1);
        let registers = hip.hipDeviceGetAttribute(&mut 0, 90, 0);
        assert_eq!(registers, u32::from(version < 60_200_000));
    }
}

/// Maps a page, writes into it, and gives it back.
fn map_and_unmap(hip: &Hip, space: u64, stream: u64, write: bool) -> u8 {
    let page = made(|at| hip.hipMemCreate(at, PAGE, &DEVICE, 0));
    assert_eq!(hip.hipMemMap(space, PAGE, 0, page, 0), 0);
    assert_eq!(hip.hipMemSetAccess(space, PAGE, &Access::READ_WRITE, 1), 0);
    let host = hip.pinned(1);
    assert_eq!(hip.hipMemcpyDtoHAsync(host, space, 1, stream), 0);
    if write {
        assert_eq!(hip.hipMemsetAsync(space, 7, 64, stream), 0);
    }
    assert_eq!(hip.hipStreamSynchronize(stream), 0);
    let seen = bytes_at(host, 1)[0];
    assert_eq!(hip.hipHostFree(host), 0);
    assert_eq!(hip.hipMemUnmap(space, PAGE), 0);
    assert_eq!(hip.hipMemRelease(page), 0);
    seen
}

#[test]
fn virtual_memory_has_the_faults_it_is_told_to_have() {
    let free = |hip: &Hip| {
        let mut free = 0;
        assert_eq!(hip.hipMemGetInfo(&mut free, &mut 0), 0);
        free
    };
    for (settings, keeps, stale) in
        [("", 0, 0xa5), ("vmm_keeps=on", 2 * PAGE, 0xa5), ("vmm_stale=on", 0, 7)]
    {
        let hip = Hip::new(settings);
        let stream = hip.stream();
        let space = made(|at| hip.hipMemAddressReserve(at, 4 * PAGE, 0, 0, 0));
        let before = free(&hip);
        assert_eq!(map_and_unmap(&hip, space, stream, true), 0xa5);
        assert_eq!(map_and_unmap(&hip, space, stream, false), stale, "{settings}");
        assert_eq!(before - free(&hip), keeps, "{settings}");
        assert_eq!(hip.hipMemAddressFree(space, 4 * PAGE), 0);
        assert_eq!(free(&hip), before, "{settings}");
        assert_eq!(hip.hipStreamDestroy(stream), 0);
        hip.fake.assert_clean();
    }
    let hip = Hip::new("access_many=off,malloc_async=off");
    let space = made(|at| hip.hipMemAddressReserve(at, 2 * PAGE, 0, 0, 0));
    for at in [space, space + PAGE as u64] {
        let page = made(|at| hip.hipMemCreate(at, PAGE, &DEVICE, 0));
        assert_eq!(hip.hipMemMap(at, PAGE, 0, page, 0), 0);
        assert_eq!(hip.hipMemSetAccess(at, PAGE, &Access::READ_WRITE, 1), 0);
    }
    assert_eq!(hip.hipMemSetAccess(space, 2 * PAGE, &Access::READ_WRITE, 1), 1);
    assert_eq!(hip.hipMallocAsync(&mut 0, 64, hip.stream()), 2);
    hip.assert_misused(&[]);
}

#[test]
fn code_objects_load_on_the_gpu_they_are_for() {
    let object = include_bytes!("../../kernels/gen/gfx942.hsaco");
    let generic = include_bytes!("../../kernels/gen/gfx11-generic.hsaco");
    let other = Hip::new("target=gfx1100");
    assert_eq!(other.hipModuleLoadData(&mut 0, object.as_ptr()), 209);
    assert_eq!(other.hipModuleLoadData(&mut 0, generic.as_ptr()), 0);
    assert_eq!(other.hipModuleLoadData(&mut 0, [0; 64].as_ptr()), 200);
    let mut properties = [0_u8; 1472];
    assert_eq!(other.hipGetDevicePropertiesR0600(properties.as_mut_ptr(), 0), 0);
    let arch = CStr::from_bytes_until_nul(&properties[1160..]).unwrap();
    assert_eq!(arch.to_str(), Ok("gfx1100:sramecc+:xnack-"));

    let hip = Hip::new("");
    let module = made(|at| hip.hipModuleLoadData(at, object.as_ptr()));
    for name in [c"riverbed_checksum_start", c"riverbed_gather", c"riverbed_cast"] {
        assert_eq!(hip.hipModuleGetFunction(&mut 0, module, name.as_ptr()), 0, "{name:?}");
    }
    assert_eq!(hip.hipModuleGetFunction(&mut 0, module, c"riverbed_nothing".as_ptr()), 500);
    let fill = made(|at| hip.hipModuleGetFunction(at, module, c"riverbed_fill".as_ptr()));
    let (stream, host) = (hip.stream(), hip.pinned(64));
    let words = [host, 64, 0x0505_0505_0505_0505];
    let parameters = [words.as_ptr()];
    let parameters = parameters.as_ptr();
    let launched =
        hip.hipModuleLaunchKernel(fill, 1, 1, 1, 64, 1, 1, 0, stream, parameters, null());
    assert_eq!(launched, 0);
    assert_eq!(hip.hipStreamSynchronize(stream), 0);
    assert_eq!(bytes_at(host, 64), [5; 64]);
    assert_eq!(hip.hipModuleUnload(module), 0);
    assert_eq!(hip.hipStreamDestroy(stream), 0);
    assert_eq!(hip.hipHostFree(host), 0);
    hip.fake.assert_clean();
}
