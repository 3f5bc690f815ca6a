//! The CUDA library used as it should be: everything works, nothing is a misuse, nothing leaks.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cuda_calls::{
    Access, Copy2d, CopyAttributes, Cuda, PoolProperties, Properties, bytes_at, made, store, until,
};

const MIB: usize = 1 << 20;

#[test]
fn a_driver_tells_what_it_is() {
    let cuda = Cuda::new("devices=2,vram=64MiB,version=12040,engines=3");
    assert_eq!(made(|at| cuda.cuDriverGetVersion(at)), 12_040);
    assert_eq!(cuda.cuInit(0), 0);
    assert_eq!(made(|at| cuda.cuDeviceGetCount(at)), 2);
    assert_eq!(made(|at| cuda.cuDeviceGet(at, 1)), 1);
    assert_eq!(made(|at| cuda.cuDeviceTotalMem_v2(at, 1)), 64 * MIB);
    assert_eq!(made(|at| cuda.cuDeviceGetAttribute(at, 40, 0)), 3);
    assert_eq!(made(|at| cuda.cuDeviceGetAttribute(at, 102, 0)), 1);
    let mut name = [0 as c_char; 32];
    assert_eq!(cuda.cuDeviceGetPCIBusId(name.as_mut_ptr(), 32, 1), 0);
    // SAFETY: the fake ends the text with a zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    assert_eq!(name.to_str(), Ok("0000:02:00.0"));
    let mut error = null();
    assert_eq!(cuda.cuGetErrorName(2, &mut error), 0);
    // SAFETY: the fake's names live for ever.
    let error = unsafe { CStr::from_ptr(error) };
    assert_eq!(error.to_str(), Ok("CUDA_ERROR_OUT_OF_MEMORY"));
    cuda.fake.assert_clean();
}

#[test]
fn two_copies_are_two_drivers() {
    let (one, other) = (Cuda::ready(""), Cuda::ready("devices=3"));
    one.alloc(64);
    assert_eq!(made(|at| other.cuDeviceGetCount(at)), 3);
    assert_eq!(one.fake.report().leaks["allocations"], 1);
    assert!(!other.fake.report().leaks.contains_key("allocations"));
    assert_eq!(other.fake.count("cuMemAlloc_v2"), 0);
}

#[test]
fn bytes_come_back_as_they_went() {
    let cuda = Cuda::ready("");
    let (host, device, other) = (cuda.pinned(MIB), cuda.alloc(MIB), cuda.alloc(MIB));
    assert!(bytes_at(host, MIB).iter().all(|&byte| byte == 0xa5), "fresh memory is garbage");
    assert!(cuda.read(device, MIB).iter().all(|&byte| byte == 0xa5), "on the device too");
    for (i, byte) in bytes_at(host, MIB).iter_mut().enumerate() {
        *byte = (i * 7 % 251) as u8;
    }
    let stream = cuda.stream();
    assert_eq!(cuda.cuMemcpyHtoDAsync_v2(device, host, MIB, stream), 0);
    assert_eq!(cuda.cuMemcpyDtoDAsync_v2(other, device, MIB, stream), 0);
    assert_eq!(cuda.cuMemsetD8Async(device, 9, 100, stream), 0);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    assert_eq!(cuda.read(other, MIB), bytes_at(host, MIB));
    assert_eq!(cuda.read(device, 101)[99..], [9, (100 * 7 % 251) as u8]);
    for (at, rows) in [(device, 0_usize), (other, 4)] {
        let copy = Copy2d {
            src_kind: 1,
            src_host: host,
            src_pitch: 64,
            dst_kind: 2,
            dst_device: at,
            dst_pitch: 128,
            width: 32,
            height: rows,
            ..Copy2d::default()
        };
        assert_eq!(cuda.cuMemcpy2DAsync_v2(&copy, stream), 0);
    }
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    assert_eq!(cuda.read(other + 128, 32), bytes_at(host + 64, 32));
    assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    assert_eq!(cuda.cuMemFree_v2(device), 0);
    assert_eq!(cuda.cuMemFree_v2(other), 0);
    assert_eq!(cuda.cuMemFreeHost(host), 0);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

#[test]
fn small_memory_is_packed_and_large_memory_is_not() {
    let cuda = Cuda::ready("vram=64MiB,system=8MiB");
    let free = || {
        let (mut free, mut total) = (0, 0);
        assert_eq!(cuda.cuMemGetInfo_v2(&mut free, &mut total), 0);
        assert_eq!(total, 64 * MIB);
        free
    };
    assert_eq!(free(), 56 * MIB, "the system holds some");
    let small = [cuda.alloc(1), cuda.alloc(513), cuda.alloc(512)];
    assert_eq!(small.map(|at| at % 512), [0; 3]);
    assert_eq!([small[1] - small[0], small[2] - small[1]], [512, 1024]);
    assert_eq!(free(), 54 * MIB);
    let large = cuda.alloc(3 * MIB);
    assert_eq!(large as usize % (2 * MIB), 0);
    assert_eq!(free(), 50 * MIB);
    let mut none = 0;
    assert_eq!(cuda.cuMemAlloc_v2(&mut none, 51 * MIB), 2);
    for at in small.into_iter().chain([large]) {
        assert_eq!(cuda.cuMemFree_v2(at), 0);
    }
    assert_eq!(free(), 56 * MIB);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

#[test]
fn events_order_streams_and_come_late() {
    let cuda = Cuda::ready("late_us=2000");
    let (one, two) = (cuda.stream(), cuda.stream());
    let (event, start, end) =
        (cuda.event(), made(|at| cuda.cuEventCreate(at, 0)), made(|at| cuda.cuEventCreate(at, 0)));
    assert_eq!(cuda.cuEventQuery(event), 0, "never recorded is done");
    assert_eq!(cuda.cuEventRecord(start, one), 0);
    assert_eq!(cuda.cuEventRecord(event, one), 0);
    assert_eq!(cuda.cuEventQuery(event), 600);
    assert_eq!(cuda.cuStreamQuery(one), 600);
    assert_eq!(cuda.cuStreamWaitEvent(two, event, 0), 0);
    assert_eq!(cuda.cuEventRecord(end, two), 0);
    assert_eq!(cuda.cuEventSynchronize(end), 0);
    assert_eq!(cuda.cuEventQuery(event), 0, "what the end waited for is done");
    assert!(made(|at| cuda.cuEventElapsedTime(at, start, end)) > 0.0);
    until(|| cuda.cuStreamQuery(one) == 0);
    for event in [event, start, end] {
        assert_eq!(cuda.cuEventDestroy_v2(event), 0);
    }
    for stream in [one, two] {
        assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    }
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

#[test]
fn default_streams_are_there_and_ordered() {
    let cuda = Cuda::ready("");
    let blocking = made(|at| cuda.cuStreamCreate(at, 0));
    let (device, host) = (cuda.alloc(64), cuda.pinned(64));
    for (number, stream) in [0, 1, 2].into_iter().enumerate() {
        assert_eq!(cuda.cuMemsetD8Async(device, number as u8 + 1, 64, blocking), 0);
        if stream == 2 {
            assert_eq!(cuda.cuStreamSynchronize(blocking), 0);
        }
        assert_eq!(cuda.cuMemcpyDtoHAsync_v2(host, device, 64, stream), 0);
        assert_eq!(cuda.cuStreamSynchronize(stream), 0);
        assert_eq!(bytes_at(host, 64), [number as u8 + 1; 64]);
    }
    assert_eq!(cuda.cuStreamDestroy_v2(blocking), 0);
    assert_eq!(cuda.cuMemFree_v2(device), 0);
    assert_eq!(cuda.cuMemFreeHost(host), 0);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

unsafe extern "C" fn add_one(count: *mut c_void) {
    // SAFETY: the tests pass a counter that outlives the stream's work.
    unsafe { &*count.cast::<AtomicU32>() }.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn host_functions_and_values_in_memory_hold_streams() {
    let cuda = Cuda::ready("");
    let (stream, word) = (cuda.stream(), cuda.pinned(8));
    let called = AtomicU32::new(0);
    let called_at = (&raw const called).cast_mut().cast();
    store(word, 0);
    let on_device = made(|at| cuda.cuMemHostGetDevicePointer_v2(at, word, 0));
    assert_eq!(on_device, word);
    assert_eq!(cuda.cuStreamWaitValue64_v2(stream, on_device, 5, 0), 0);
    assert_eq!(cuda.cuLaunchHostFunc(stream, add_one, called_at), 0);
    assert_eq!(cuda.cuStreamQuery(stream), 600);
    assert_eq!(called.load(Ordering::SeqCst), 0);
    let other = cuda.stream();
    assert_eq!(cuda.cuStreamWriteValue64_v2(other, on_device, 6, 0), 0);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    assert_eq!(called.load(Ordering::SeqCst), 1);
    for stream in [stream, other] {
        assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    }
    assert_eq!(cuda.cuMemFreeHost(word), 0);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

#[test]
fn pages_are_mapped_shown_twice_and_given_back() {
    let cuda = Cuda::ready("");
    let page = 2 * MIB;
    let granularity = made(|at| cuda.cuMemGetAllocationGranularity(at, &Properties::DEVICE, 0));
    assert_eq!(granularity, page);
    let space = made(|at| cuda.cuMemAddressReserve(at, 4 * page, 8 * page, 0, 0));
    assert_eq!(space as usize % (8 * page), 0);
    let handle = made(|at| cuda.cuMemCreate(at, page, &Properties::DEVICE, 0));
    let stream = cuda.stream();
    for at in [space, space + page as u64] {
        assert_eq!(cuda.cuMemMap(at, page, 0, handle, 0), 0);
    }
    assert_eq!(cuda.cuMemRelease(handle), 0);
    assert_eq!(cuda.cuMemSetAccess(space, 2 * page, &Access::READ_WRITE, 1), 0);
    assert!(cuda.read(space, 64).iter().all(|&byte| byte == 0xa5));
    assert_eq!(cuda.cuMemsetD8Async(space, 7, 64, stream), 0);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    assert_eq!(cuda.read(space + page as u64, 64), [7; 64]);
    assert_eq!(cuda.cuMemUnmap(space, 2 * page), 0);
    assert_eq!(cuda.cuMemAddressFree(space, 4 * page), 0);
    assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

#[test]
fn many_threads_work_at_once() {
    let cuda = Cuda::ready("late_us=0");
    let context = made(|at| cuda.cuCtxGetCurrent(at));
    let work = |number: u8| {
        assert_eq!(cuda.cuCtxSetCurrent(context), 0);
        let (stream, event, host) = (cuda.stream(), cuda.event(), cuda.pinned(4096));
        for round in 0..40_u8 {
            let at = cuda.alloc(4096 + usize::from(round) * (MIB / 16));
            let value = number * 50 + round;
            assert_eq!(cuda.cuMemsetD8Async(at, value, 4096, stream), 0);
            assert_eq!(cuda.cuMemcpyDtoHAsync_v2(host, at, 4096, stream), 0);
            assert_eq!(cuda.cuEventRecord(event, stream), 0);
            let of_pool = made(|at| cuda.cuMemAllocAsync(at, 4096, stream));
            until(|| cuda.cuEventQuery(event) == 0);
            assert_eq!(bytes_at(host, 4096), [value; 4096]);
            assert_eq!(cuda.cuMemFreeAsync(of_pool, stream), 0);
            assert_eq!(cuda.cuMemFree_v2(at), 0);
        }
        assert_eq!(cuda.cuMemFreeHost(host), 0);
        assert_eq!(cuda.cuEventDestroy_v2(event), 0);
        assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || work(number));
        }
    });
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

#[test]
fn each_device_maps_its_own_memory() {
    let cuda = Cuda::ready("devices=2,vram=64MiB,system=8MiB");
    let page = 2 * MIB;
    let of_second = Properties { device: 1, ..Properties::DEVICE };
    let handle = made(|at| cuda.cuMemCreate(at, page, &of_second, 0));
    let space = made(|at| cuda.cuMemAddressReserve(at, page, 0, 0, 0));
    assert_eq!(cuda.cuMemMap(space, page, 0, handle, 0), 0);
    let access = Access { device: 1, ..Access::READ_WRITE };
    assert_eq!(cuda.cuMemSetAccess(space, page, &access, 1), 0);
    let other = made(|at| cuda.cuDevicePrimaryCtxRetain(at, 1));
    for (context, free_pages) in [(None, 28), (Some(other), 27)] {
        if let Some(context) = context {
            assert_eq!(cuda.cuCtxSetCurrent(context), 0);
        }
        let mut free = 0;
        assert_eq!(cuda.cuMemGetInfo_v2(&mut free, &mut 0), 0);
        assert_eq!(free, free_pages * page);
    }
    let stream = cuda.stream();
    assert_eq!(cuda.cuMemsetD8Async(space, 1, page, stream), 0);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    cuda.assert_misused(&[]);
}

#[test]
fn registered_memory_may_have_another_address_on_the_device() {
    for (settings, same) in [("", true), ("same_host_pointer=off", false)] {
        let cuda = Cuda::ready(settings);
        let own = vec![0_u64; 512];
        let at = own.as_ptr() as u64;
        assert_eq!(cuda.cuMemHostRegister_v2(at, 4096, 0), 0);
        let on_device = made(|to| cuda.cuMemHostGetDevicePointer_v2(to, at, 0));
        assert_eq!(on_device == at, same);
        let (stream, device) = (cuda.stream(), cuda.alloc(64));
        assert_eq!(cuda.cuMemcpyHtoDAsync_v2(device, at, 64, stream), 0);
        assert_eq!(cuda.cuStreamWriteValue64_v2(stream, on_device + 8, 3, 0), 0);
        assert_eq!(cuda.cuStreamSynchronize(stream), 0);
        assert_eq!(own[1], 3);
        assert_eq!(cuda.cuMemHostUnregister(at), 0);
        assert_eq!(cuda.cuMemFree_v2(device), 0);
        assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
        assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
        cuda.fake.assert_clean();
    }
}

#[test]
fn batches_copy_and_pools_give_memory_in_stream_order() {
    let cuda = Cuda::ready("");
    let (stream, host) = (cuda.stream(), cuda.pinned(256));
    bytes_at(host, 256).iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    let pool = made(|at| cuda.cuMemPoolCreate(at, &PoolProperties::DEVICE));
    let at = made(|at| cuda.cuMemAllocFromPoolAsync(at, 256, pool, stream));
    let (dsts, srcs, sizes) = ([at, at + 128], [host + 128, host], [128, 128]);
    let (attributes, first) = ([CopyAttributes::IN_ORDER], [0]);
    let copied = cuda.cuMemcpyBatchAsync(
        dsts.as_ptr(),
        srcs.as_ptr(),
        sizes.as_ptr(),
        2,
        attributes.as_ptr(),
        first.as_ptr(),
        1,
        null_mut(),
        stream,
    );
    assert_eq!(copied, 0);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    assert_eq!(cuda.read(at, 256)[..128], bytes_at(host, 256)[128..]);
    assert_eq!(made(|value| cuda.cuMemPoolGetAttribute(pool, 7, value)), 512);
    assert_eq!(cuda.cuMemPoolSetAttribute(pool, 4, &mut u64::MAX.clone()), 0);
    assert_eq!(cuda.cuMemFreeAsync(at, stream), 0);
    let default = made(|at| cuda.cuMemAllocAsync(at, 64, stream));
    assert_eq!(cuda.cuMemFreeAsync(default, stream), 0);
    let plain = cuda.alloc(64);
    assert_eq!(cuda.cuMemFreeAsync(plain, stream), 0, "memory of no pool may be freed so too");
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    assert_eq!(cuda.cuMemPoolTrimTo(pool, 0), 0);
    assert_eq!(made(|value| cuda.cuMemPoolGetAttribute(pool, 5, value)), 0);
    assert_eq!(cuda.cuMemPoolDestroy(pool), 0);
    assert_eq!(cuda.cuMemFreeHost(host), 0);
    assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}

const PTX: &str = include_str!("../../kernels/gen/riverbed.ptx");

#[test]
fn kernels_give_the_references_results() {
    let cuda = Cuda::ready("");
    let (stream, data) = (cuda.stream(), cuda.alloc(1 << 12));
    let ptx = CString::new(PTX).unwrap();
    let module = made(|at| cuda.cuModuleLoadData(at, ptx.as_ptr()));
    let launch = |name: &CStr, words: &[u64]| {
        let function = made(|at| cuda.cuModuleGetFunction(at, module, name.as_ptr()));
        let parameters = [words.as_ptr()];
        assert_eq!(
            cuda.cuLaunchKernel(
                function,
                1,
                1,
                1,
                256,
                1,
                1,
                0,
                stream,
                parameters.as_ptr(),
                null()
            ),
            0,
            "{name:?}"
        );
    };
    let sum = data + 2048;
    launch(c"riverbed_fill", &[data, 1001, 0x0707_0707_0707_0707]);
    launch(c"riverbed_checksum_start", &[sum, 1001]);
    launch(c"riverbed_checksum", &[sum, 1001, data]);
    let mut gather = vec![0; 2 + 3 * 128];
    gather[..8].copy_from_slice(&[2, 1024, data, data + 3000, 10, sum, data + 3100, 18]);
    launch(c"riverbed_gather", &gather);
    // Five numbers of bfloat16, 0x0707 each, to floats.
    launch(c"riverbed_cast", &[data, data + 3200, 5, 3, 4, 0]);
    launch(c"riverbed_busy", &[1000]);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    let found = cuda.read(sum, 8);
    let wanted = riverbed::device::checksum(&[7; 1001]).to_le_bytes();
    assert_eq!(found, wanted);
    assert_eq!(cuda.read(data + 3000, 10), [7; 10]);
    assert_eq!(cuda.read(data + 3100, 8), wanted);
    assert_eq!(cuda.read(data + 3200, 20), 0x0707_0000_u32.to_le_bytes().repeat(5));
    assert_eq!(cuda.cuModuleUnload(module), 0);
    assert_eq!(cuda.cuMemFree_v2(data), 0);
    assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.fake.assert_clean();
}
