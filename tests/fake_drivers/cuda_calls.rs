//! The CUDA calls the tests make, by name, and short ways to what most tests need.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::fake::{FakeDriver, Vendor};

/// `CUmemAllocationProp` of memory on a device.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Properties {
    pub(crate) kind: u32,
    pub(crate) handle_types: u32,
    pub(crate) location_kind: u32,
    pub(crate) device: i32,
    pub(crate) rest: [u64; 2],
}

impl Properties {
    pub(crate) const DEVICE: Self =
        Self { kind: 1, handle_types: 0, location_kind: 1, device: 0, rest: [0; 2] };
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) location_kind: u32,
    pub(crate) device: i32,
    pub(crate) flags: u32,
}

impl Access {
    pub(crate) const READ_WRITE: Self = Self { location_kind: 1, device: 0, flags: 3 };
}

/// `CUmemPoolProps` of memory on a device.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolProperties {
    pub(crate) kind: u32,
    pub(crate) handle_types: u32,
    pub(crate) location_kind: u32,
    pub(crate) device: i32,
    pub(crate) security: u64,
    pub(crate) max_bytes: u64,
    pub(crate) rest: [u64; 7],
}

impl PoolProperties {
    pub(crate) const DEVICE: Self = Self {
        kind: 1,
        handle_types: 0,
        location_kind: 1,
        device: 0,
        security: 0,
        max_bytes: 0,
        rest: [0; 7],
    };
}

/// `CUmemcpyAttributes` of copies in the order of the stream.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyAttributes {
    pub(crate) order: u32,
    pub(crate) hints: [u32; 4],
    pub(crate) flags: u32,
}

impl CopyAttributes {
    pub(crate) const IN_ORDER: Self = Self { order: 1, hints: [0; 4], flags: 0 };
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Copy2d {
    pub(crate) src_x: usize,
    pub(crate) src_y: usize,
    pub(crate) src_kind: u32,
    pub(crate) src_host: u64,
    pub(crate) src_device: u64,
    pub(crate) src_array: u64,
    pub(crate) src_pitch: usize,
    pub(crate) dst_x: usize,
    pub(crate) dst_y: usize,
    pub(crate) dst_kind: u32,
    pub(crate) dst_host: u64,
    pub(crate) dst_device: u64,
    pub(crate) dst_array: u64,
    pub(crate) dst_pitch: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);

macro_rules! calls {
    ($(fn $name:ident($($arg:ident: $type:ty),*);)+) => {
        impl Cuda {$(
            pub(crate) fn $name(&self, $($arg: $type),*) -> u32 {
                let call: unsafe extern "C" fn($($type),*) -> u32 = self.fake.symbol(stringify!($name));
                // SAFETY: the types are the driver's; the pointers the tests pass are to live
                // values of their own, and wrong handles and addresses are told, not followed.
                unsafe { call($($arg),*) }
            }
        )+}
    };
}

/// A fake CUDA driver with its calls.
#[derive(Debug)]
pub(crate) struct Cuda {
    pub(crate) fake: FakeDriver,
}

calls! {
    fn cuInit(flags: u32);
    fn cuDriverGetVersion(version: &mut i32);
    fn cuDeviceGetCount(count: &mut i32);
    fn cuDeviceGet(device: &mut i32, ordinal: i32);
    fn cuDeviceGetPCIBusId(name: *mut c_char, len: i32, device: i32);
    fn cuDeviceTotalMem_v2(bytes: &mut usize, device: i32);
    fn cuDeviceGetAttribute(value: &mut i32, attribute: u32, device: i32);
    fn cuDevicePrimaryCtxRetain(context: &mut u64, device: i32);
    fn cuDevicePrimaryCtxRelease_v2(device: i32);
    fn cuCtxSetCurrent(context: u64);
    fn cuCtxGetCurrent(context: &mut u64);
    fn cuCtxPushCurrent_v2(context: u64);
    fn cuCtxPopCurrent_v2(context: &mut u64);
    fn cuCtxSynchronize();
    fn cuGetErrorName(error: u32, name: &mut *const c_char);
    fn cuMemGetInfo_v2(free: &mut usize, total: &mut usize);
    fn cuMemAlloc_v2(at: &mut u64, bytes: usize);
    fn cuMemFree_v2(at: u64);
    fn cuMemAddressReserve(at: &mut u64, bytes: usize, align: usize, hint: u64, flags: u64);
    fn cuMemAddressFree(at: u64, bytes: usize);
    fn cuMemCreate(handle: &mut u64, bytes: usize, properties: &Properties, flags: u64);
    fn cuMemRelease(handle: u64);
    fn cuMemMap(at: u64, bytes: usize, offset: usize, handle: u64, flags: u64);
    fn cuMemUnmap(at: u64, bytes: usize);
    fn cuMemSetAccess(at: u64, bytes: usize, access: &Access, count: usize);
    fn cuMemGetAllocationGranularity(bytes: &mut usize, properties: &Properties, option: u32);
    fn cuStreamCreate(stream: &mut u64, flags: u32);
    fn cuStreamDestroy_v2(stream: u64);
    fn cuStreamSynchronize(stream: u64);
    fn cuStreamQuery(stream: u64);
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32);
    fn cuStreamIsCapturing(stream: u64, status: &mut u32);
    fn cuStreamBeginCapture_v2(stream: u64, mode: u32);
    fn cuStreamEndCapture(stream: u64, graph: &mut u64);
    fn cuGraphDestroy(graph: u64);
    fn cuThreadExchangeStreamCaptureMode(mode: &mut u32);
    fn cuLaunchHostFunc(stream: u64, function: HostFunction, data: *mut c_void);
    fn cuStreamWaitValue64_v2(stream: u64, at: u64, value: u64, flags: u32);
    fn cuStreamWriteValue64_v2(stream: u64, at: u64, value: u64, flags: u32);
    fn cuEventCreate(event: &mut u64, flags: u32);
    fn cuEventDestroy_v2(event: u64);
    fn cuEventRecord(event: u64, stream: u64);
    fn cuEventQuery(event: u64);
    fn cuEventSynchronize(event: u64);
    fn cuEventElapsedTime(ms: &mut f32, start: u64, end: u64);
    fn cuMemHostAlloc(at: &mut u64, bytes: usize, flags: u32);
    fn cuMemFreeHost(at: u64);
    fn cuMemHostRegister_v2(at: u64, bytes: usize, flags: u32);
    fn cuMemHostUnregister(at: u64);
    fn cuMemHostGetDevicePointer_v2(device: &mut u64, at: u64, flags: u32);
    fn cuMemcpyHtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64);
    fn cuMemcpyDtoHAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64);
    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64);
    fn cuMemcpyBatchAsync(dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, first: *const usize, attribute_count: usize, failed: *mut usize, stream: u64);
    fn cuMemcpy2DAsync_v2(copy: &Copy2d, stream: u64);
    fn cuMemsetD8Async(dst: u64, value: u8, bytes: usize, stream: u64);
    fn cuModuleLoadData(module: &mut u64, image: *const c_char);
    fn cuModuleUnload(module: u64);
    fn cuModuleGetFunction(function: &mut u64, module: u64, name: *const c_char);
    fn cuLaunchKernel(function: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: u64, parameters: *const *const u64, extra: *const c_void);
    fn cuMemPoolCreate(pool: &mut u64, properties: &PoolProperties);
    fn cuMemPoolDestroy(pool: u64);
    fn cuMemPoolGetAttribute(pool: u64, attribute: u32, value: &mut u64);
    fn cuMemPoolSetAttribute(pool: u64, attribute: u32, value: &mut u64);
    fn cuMemPoolTrimTo(pool: u64, keep: usize);
    fn cuMemAllocFromPoolAsync(at: &mut u64, bytes: usize, pool: u64, stream: u64);
    fn cuMemAllocAsync(at: &mut u64, bytes: usize, stream: u64);
    fn cuMemFreeAsync(at: u64, stream: u64);
}

impl Cuda {
    /// A fake with nothing called yet.
    pub(crate) fn new(settings: &str) -> Self {
        Self { fake: FakeDriver::new(Vendor::Cuda, settings, &[]) }
    }

    /// One that is initialised, with the first device's context current on this thread.
    pub(crate) fn ready(settings: &str) -> Self {
        let cuda = Self::new(settings);
        assert_eq!(cuda.cuInit(0), 0);
        let context = made(|at| cuda.cuDevicePrimaryCtxRetain(at, 0));
        assert_eq!(cuda.cuCtxSetCurrent(context), 0);
        cuda
    }

    /// A stream ordered with no other.
    pub(crate) fn stream(&self) -> u64 {
        made(|at| self.cuStreamCreate(at, 1))
    }

    pub(crate) fn event(&self) -> u64 {
        made(|at| self.cuEventCreate(at, 2))
    }

    pub(crate) fn alloc(&self, bytes: usize) -> u64 {
        made(|at| self.cuMemAlloc_v2(at, bytes))
    }

    pub(crate) fn pinned(&self, bytes: usize) -> u64 {
        made(|at| self.cuMemHostAlloc(at, bytes, 0))
    }

    /// Device memory as bytes: copied to the host on a stream of its own.
    pub(crate) fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let (stream, host) = (self.stream(), self.pinned(bytes));
        assert_eq!(self.cuMemcpyDtoHAsync_v2(host, at, bytes, stream), 0);
        assert_eq!(self.cuStreamSynchronize(stream), 0);
        let read = bytes_at(host, bytes).to_vec();
        assert_eq!(self.cuMemFreeHost(host), 0);
        assert_eq!(self.cuStreamDestroy_v2(stream), 0);
        read
    }

    /// The kinds of misuse seen since, in order, once each.
    #[track_caller]
    pub(crate) fn assert_misused(&self, kinds: &[&str]) {
        let mut seen = self.fake.misuses();
        seen.dedup();
        assert_eq!(seen, kinds, "{:#?}", self.fake.report().misuses);
    }
}

/// What a call puts at its pointer.
#[track_caller]
pub(crate) fn made<T: Default>(call: impl FnOnce(&mut T) -> u32) -> T {
    let mut value = T::default();
    assert_eq!(call(&mut value), 0);
    value
}

/// Memory of the host that a fake gave.
pub(crate) fn bytes_at<'a>(at: u64, bytes: usize) -> &'a mut [u8] {
    // SAFETY: the tests pass addresses the fake gave for that many bytes, while nothing else
    // touches them.
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, bytes) }
}

/// Sets a word that a stream may be looking at.
pub(crate) fn store(at: u64, value: u64) {
    // SAFETY: the tests pass words the fake gave, which streams read by atomic accesses too.
    unsafe { &*(at as *const AtomicU64) }.store(value, Ordering::Release);
}

/// Waits until `done`, or fails the test.
#[track_caller]
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_micros(200));
    }
}
