//! Everything the CUDA library tells as misuse, and that the call then fails as the real one.

use std::ffi::c_void;
use std::ptr::null_mut;

use crate::cuda_calls::{Access, Copy2d, Cuda, PoolProperties, Properties, bytes_at, made, store};

const PAGE: usize = 2 << 20;

/// What a call answers, with nowhere of interest to put a result.
fn status(call: impl FnOnce(&mut u64) -> u32) -> u32 {
    call(&mut 0)
}

#[test]
fn calls_before_the_driver_is_ready_or_without_a_context() {
    let cuda = Cuda::new("");
    assert_eq!(cuda.cuDeviceGetCount(&mut 0), 3);
    assert_eq!(cuda.cuInit(0), 0);
    assert_eq!(status(|at| cuda.cuMemAlloc_v2(at, 64)), 201);
    cuda.assert_misused(&["not_initialized", "no_context"]);
    let context = made(|at| cuda.cuDevicePrimaryCtxRetain(at, 0));
    assert_eq!(cuda.cuCtxPushCurrent_v2(context), 0);
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| status(|at| cuda.cuMemAlloc_v2(at, 64)));
        assert_eq!(elsewhere.join().unwrap(), 201, "contexts are of threads");
    });
    assert_eq!(made(|at| cuda.cuCtxGetCurrent(at)), context);
    assert_eq!(made(|at| cuda.cuCtxPopCurrent_v2(at)), context);
    assert_eq!(status(|at| cuda.cuCtxPopCurrent_v2(at)), 201);
    assert_eq!(cuda.fake.report().leaks["context_retains"], 1);
}

#[test]
fn contexts_released_too_often_or_under_others() {
    let cuda = Cuda::ready("");
    let (stream, at) = (cuda.stream(), cuda.alloc(64));
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 0);
    cuda.assert_misused(&["context_destroyed_in_use"]);
    assert_eq!(cuda.cuDevicePrimaryCtxRelease_v2(0), 201);
    let kinds = ["context_destroyed_in_use", "unbalanced_release"];
    cuda.assert_misused(&kinds);
    assert_eq!(cuda.cuStreamQuery(stream), 709, "the current context is gone");
    let context = made(|at| cuda.cuDevicePrimaryCtxRetain(at, 0));
    assert_eq!(cuda.cuCtxSetCurrent(context), 0);
    assert_eq!(cuda.cuStreamQuery(stream), 400, "and its streams with it");
    assert_eq!(cuda.cuMemFree_v2(at), 1);
}

#[test]
fn handles_and_memory_of_another_device() {
    let cuda = Cuda::ready("devices=2");
    let (stream, event, at) = (cuda.stream(), cuda.event(), cuda.alloc(64));
    let other = made(|at| cuda.cuDevicePrimaryCtxRetain(at, 1));
    assert_eq!(cuda.cuCtxSetCurrent(other), 0);
    assert_eq!(cuda.cuMemsetD8Async(at, 0, 64, stream), 400);
    let there = cuda.stream();
    assert_eq!(cuda.cuEventRecord(event, there), 400);
    cuda.assert_misused(&["wrong_context"]);
    assert_eq!(cuda.fake.report().misuses.len(), 2);
}

#[test]
fn events_of_another_device_may_be_waited_for() {
    let cuda = Cuda::ready("devices=2,late_us=3000");
    let (stream, event, word) = (cuda.stream(), cuda.event(), cuda.pinned(1));
    assert_eq!(cuda.cuEventRecord(event, stream), 0);
    let other = made(|at| cuda.cuDevicePrimaryCtxRetain(at, 1));
    assert_eq!(cuda.cuCtxSetCurrent(other), 0);
    let there = cuda.stream();
    assert_eq!(cuda.cuStreamWaitEvent(there, event, 0), 0);
    assert_eq!(cuda.cuMemsetD8Async(word, 7, 1, there), 0);
    assert_eq!(cuda.cuStreamSynchronize(there), 0);
    assert_eq!(cuda.cuEventQuery(event), 0);
    assert_eq!(bytes_at(word, 1), [7]);
    cuda.assert_misused(&[]);
}

#[test]
fn handles_that_are_gone_or_never_were() {
    let cuda = Cuda::ready("");
    let (stream, event) = (cuda.stream(), cuda.event());
    assert_eq!(cuda.cuStreamDestroy_v2(stream), 0);
    assert_eq!(cuda.cuEventDestroy_v2(event), 0);
    assert_eq!(cuda.cuStreamQuery(stream), 400);
    assert_eq!(cuda.cuEventDestroy_v2(event), 400);
    cuda.assert_misused(&["destroyed_handle"]);
    assert_eq!(cuda.cuStreamSynchronize(0x7777_7777), 400);
    assert_eq!(cuda.cuEventQuery(0x7777_7777), 400);
    assert_eq!(cuda.cuMemPoolTrimTo(0x7777_7777, 0), 1);
    cuda.assert_misused(&["destroyed_handle", "unknown_handle"]);
}

#[test]
fn memory_freed_twice_or_by_the_wrong_call() {
    let cuda = Cuda::ready("");
    let (at, host) = (cuda.alloc(4096), cuda.pinned(64));
    assert_eq!(cuda.cuMemFree_v2(at + 512), 1);
    assert_eq!(cuda.cuMemFree_v2(host), 1);
    assert_eq!(cuda.cuMemFreeHost(at), 1);
    assert_eq!(cuda.cuMemHostUnregister(host), 713);
    assert_eq!(cuda.cuMemFree_v2(0x1234), 1);
    cuda.assert_misused(&["invalid_free"]);
    assert_eq!(cuda.cuMemFree_v2(at), 0);
    assert_eq!(cuda.cuMemFree_v2(at), 1);
    assert_eq!(cuda.cuMemFreeHost(host), 0);
    assert_eq!(cuda.cuMemFreeHost(host), 1);
    cuda.assert_misused(&["invalid_free", "double_free"]);
}

#[test]
fn copies_outside_live_memory_or_of_pageable_memory() {
    let cuda = Cuda::ready("");
    let (stream, at, host) = (cuda.stream(), cuda.alloc(64), cuda.pinned(64));
    assert_eq!(cuda.cuMemcpyHtoDAsync_v2(at, host, 65, stream), 1);
    assert_eq!(cuda.cuMemcpyDtoHAsync_v2(host, at + 512, 1, stream), 1);
    assert_eq!(cuda.cuMemsetD8Async(at + 1, 0, 64, stream), 1);
    let gone = cuda.alloc(PAGE);
    assert_eq!(cuda.cuMemFree_v2(gone), 0);
    assert_eq!(cuda.cuMemcpyDtoHAsync_v2(host, gone, 64, stream), 1);
    cuda.assert_misused(&["outside_live_memory"]);
    let mut own = [3_u8; 64];
    assert_eq!(cuda.cuMemcpyHtoDAsync_v2(at, own.as_ptr() as u64, 64, stream), 0);
    own.fill(0);
    assert_eq!(cuda.cuMemcpyDtoHAsync_v2(own.as_mut_ptr() as u64, at, 64, stream), 0);
    assert_eq!(own, [3; 64], "pageable memory is taken, and filled, before the calls return");
    cuda.assert_misused(&["outside_live_memory", "pageable_copy"]);
    assert_eq!(cuda.cuMemcpyHtoDAsync_v2(host, at, 64, stream), 1);
    assert_eq!(cuda.cuMemcpyDtoDAsync_v2(at, at + 8, 16, stream), 1);
    cuda.assert_misused(&[
        "outside_live_memory",
        "pageable_copy",
        "wrong_direction",
        "overlapping_copy",
    ]);
    let narrow = Copy2d {
        src_kind: 1,
        src_host: host,
        src_pitch: 8,
        dst_kind: 2,
        dst_device: at,
        dst_pitch: 8,
        width: 9,
        height: 1,
        ..Copy2d::default()
    };
    assert_eq!(cuda.cuMemcpy2DAsync_v2(&narrow, stream), 1);
}

#[test]
fn memory_freed_while_a_stream_is_to_touch_it() {
    let cuda = Cuda::ready("free_waits=off");
    let (stream, at, word) = (cuda.stream(), cuda.alloc(64), cuda.pinned(8));
    store(word, 0);
    assert_eq!(cuda.cuStreamWaitValue64_v2(stream, word, 1, 0), 0);
    assert_eq!(cuda.cuMemsetD8Async(at, 1, 64, stream), 0);
    assert_eq!(cuda.cuMemFree_v2(at), 0);
    let other = cuda.stream();
    assert_eq!(cuda.cuStreamWriteValue64_v2(other, word, 1, 0), 0);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    cuda.assert_misused(&["freed_in_flight"]);
    assert_eq!(cuda.fake.report().misuses[0].call, "cuMemsetD8Async");
}

#[test]
fn freeing_behind_a_stream_that_stands() {
    let cuda = Cuda::ready("longest_wait_ms=20");
    let (stream, at, word) = (cuda.stream(), cuda.alloc(64), cuda.pinned(8));
    store(word, 0);
    assert_eq!(cuda.cuStreamWaitValue64_v2(stream, word, 1, 0), 0);
    assert_eq!(cuda.cuMemFree_v2(at), 0);
    cuda.assert_misused(&["waits_for_blocked_stream"]);
    store(word, 1);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
}

#[test]
fn virtual_memory_out_of_balance() {
    let cuda = Cuda::ready("");
    let space = made(|at| cuda.cuMemAddressReserve(at, 4 * PAGE, 0, 0, 0));
    let page = made(|at| cuda.cuMemCreate(at, 2 * PAGE, &Properties::DEVICE, 0));
    assert_eq!(status(|at| cuda.cuMemCreate(at, PAGE + 1, &Properties::DEVICE, 0)), 1);
    assert_eq!(status(|at| cuda.cuMemAddressReserve(at, 4096, 0, 0, 0)), 1);
    cuda.assert_misused(&["off_granularity"]);
    assert_eq!(cuda.cuMemMap(space + 3 * PAGE as u64, 2 * PAGE, 0, page, 0), 1);
    assert_eq!(cuda.cuMemMap(space, 2 * PAGE, 0, page, 0), 0);
    assert_eq!(cuda.cuMemMap(space + PAGE as u64, 2 * PAGE, 0, page, 0), 1);
    let stream = cuda.stream();
    assert_eq!(cuda.cuMemsetD8Async(space, 1, 8, stream), 1);
    let read_only = Access { flags: 1, ..Access::READ_WRITE };
    assert_eq!(cuda.cuMemSetAccess(space, 2 * PAGE, &read_only, 1), 0);
    assert_eq!(cuda.cuMemsetD8Async(space, 1, 8, stream), 1);
    assert_eq!(cuda.cuMemSetAccess(space, 4 * PAGE, &read_only, 1), 1);
    assert_eq!(cuda.cuMemUnmap(space, PAGE), 1);
    assert_eq!(cuda.cuMemUnmap(space + 2 * PAGE as u64, PAGE), 1);
    assert_eq!(cuda.cuMemAddressFree(space, 4 * PAGE), 1);
    assert_eq!(cuda.cuMemUnmap(space, 2 * PAGE), 0);
    assert_eq!(cuda.cuMemsetD8Async(space, 1, 8, stream), 1);
    assert_eq!(cuda.cuMemAddressFree(space, 2 * PAGE), 1);
    assert_eq!(cuda.cuMemRelease(page), 0);
    assert_eq!(cuda.cuMemRelease(page), 1);
    assert_eq!(cuda.cuMemAddressFree(space, 4 * PAGE), 0);
    cuda.assert_misused(&[
        "off_granularity",
        "invalid_map",
        "no_access",
        "not_mapped",
        "partial_mapping",
        "not_mapped",
        "reservation_in_use",
        "outside_live_memory",
        "invalid_free",
        "double_free",
    ]);
}

#[test]
fn pools_out_of_order() {
    let cuda = Cuda::ready("");
    let (one, two) = (cuda.stream(), cuda.stream());
    let word = cuda.pinned(8);
    store(word, 0);
    let pool = made(|at| cuda.cuMemPoolCreate(at, &PoolProperties::DEVICE));
    // The first stream stands, so that nothing on it is over.
    assert_eq!(cuda.cuStreamWaitValue64_v2(one, word, 1, 0), 0);
    let at = made(|at| cuda.cuMemAllocFromPoolAsync(at, 4096, pool, one));
    assert_eq!(cuda.cuMemsetD8Async(at, 1, 8, two), 1);
    assert_eq!(cuda.cuMemFreeAsync(at, two), 1);
    let event = cuda.event();
    assert_eq!(cuda.cuEventRecord(event, one), 0);
    assert_eq!(cuda.cuStreamWaitEvent(two, event, 0), 0);
    assert_eq!(cuda.cuMemsetD8Async(at, 1, 8, two), 0);
    assert_eq!(cuda.cuMemFreeAsync(at, two), 0);
    assert_eq!(cuda.cuMemFreeAsync(at, two), 1);
    assert_eq!(cuda.cuMemsetD8Async(at, 1, 8, two), 1);
    cuda.assert_misused(&["unordered_use", "unordered_free", "double_free", "outside_live_memory"]);
    store(word, 1);
    assert_eq!(cuda.cuStreamSynchronize(two), 0);
}

#[test]
fn registering_and_timing_wrongly() {
    let cuda = Cuda::ready("");
    let own = vec![0_u64; 1024];
    let at = own.as_ptr() as u64;
    assert_eq!(cuda.cuMemHostRegister_v2(at, 4096, 0), 0);
    assert_eq!(cuda.cuMemHostRegister_v2(at + 1024, 4096, 0), 712);
    assert_eq!(cuda.cuMemHostUnregister(at + 8), 713);
    assert_eq!(cuda.cuMemFreeHost(at), 1);
    assert_eq!(cuda.cuMemHostUnregister(at), 0);
    cuda.assert_misused(&["already_registered", "invalid_free"]);
    let (stream, event) = (cuda.stream(), cuda.event());
    assert_eq!(cuda.cuEventRecord(event, stream), 0);
    assert_eq!(cuda.cuEventElapsedTime(&mut 0.0, event, event), 400);
    assert_eq!(status(|at| cuda.cuEventCreate(at, 0x40)), 1);
    assert_eq!(status(|at| cuda.cuMemAlloc_v2(at, 0)), 1);
    cuda.assert_misused(&["already_registered", "invalid_free", "invalid_argument"]);
}

#[test]
fn a_host_function_that_calls_the_driver() {
    unsafe extern "C" fn calls_back(cuda: *mut c_void) {
        // SAFETY: the test passes its driver, which outlives the stream's work.
        let cuda = unsafe { &*cuda.cast::<Cuda>() };
        assert_eq!(cuda.cuCtxSynchronize(), 800);
    }
    let cuda = Cuda::ready("");
    let stream = cuda.stream();
    let at = (&raw const cuda).cast_mut().cast();
    assert_eq!(cuda.cuLaunchHostFunc(stream, calls_back, at), 0);
    assert_eq!(cuda.cuStreamSynchronize(stream), 0);
    cuda.assert_misused(&["call_in_host_function"]);
    assert_eq!(cuda.fake.report().misuses[0].call, "cuCtxSynchronize");
}

#[test]
fn a_batch_described_wrongly() {
    let cuda = Cuda::ready("");
    let stream = cuda.stream();
    let (nothing, no_attributes) = ([0_u64; 1], std::ptr::null());
    let copied = cuda.cuMemcpyBatchAsync(
        nothing.as_ptr(),
        nothing.as_ptr(),
        [1_usize].as_ptr(),
        1,
        no_attributes,
        std::ptr::null(),
        0,
        null_mut(),
        stream,
    );
    assert_eq!(copied, 1);
    cuda.assert_misused(&["invalid_argument"]);
}
