//! The HIP calls the tests make, by name.

use std::ffi::{c_char, c_void};

use crate::cuda_calls::{Access, CopyAttributes, HostFunction, PoolProperties, made};
use crate::fake::{FakeDriver, Vendor};

/// `hipMemAllocationProp`, by words.
pub(crate) type Properties = [u32; 8];

/// Of memory on the first device, as ROCm 6 has it and as it was before.
pub(crate) const DEVICE: Properties = [1, 0, 1, 0, 0, 0, 0, 0];
pub(crate) const OLD_DEVICE: Properties = [0, 1, 0, 0, 1, 0, 0, 0];

/// `hipPointerAttribute_t`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct PointerAttributes {
    pub(crate) kind: u32,
    pub(crate) device: i32,
    pub(crate) device_address: u64,
    pub(crate) host_address: u64,
    pub(crate) rest: [u32; 2],
}

pub(crate) type Callback = unsafe extern "C" fn(u64, u32, *mut c_void);

macro_rules! calls {
    ($(fn $name:ident($($arg:ident: $type:ty),*);)+) => {
        impl Hip {$(
            pub(crate) fn $name(&self, $($arg: $type),*) -> u32 {
                let call: unsafe extern "C" fn($($type),*) -> u32 = self.fake.symbol(stringify!($name));
                // SAFETY: the types are the runtime's; the pointers the tests pass are to live
                // values of their own, and wrong handles and addresses are told, not followed.
                unsafe { call($($arg),*) }
            }
        )+}
    };
}

/// A fake HIP runtime with its calls.
#[derive(Debug)]
pub(crate) struct Hip {
    pub(crate) fake: FakeDriver,
}

calls! {
    fn hipInit(flags: u32);
    fn hipRuntimeGetVersion(version: &mut i32);
    fn hipGetDeviceCount(count: &mut i32);
    fn hipDeviceGetAttribute(value: &mut i32, attribute: u32, device: i32);
    fn hipGetDevicePropertiesR0600(properties: *mut u8, device: i32);
    fn hipGetDevice(device: &mut i32);
    fn hipSetDevice(device: i32);
    fn hipDeviceSynchronize();
    fn hipGetLastError();
    fn hipMemGetInfo(free: &mut usize, total: &mut usize);
    fn hipMalloc(at: &mut u64, bytes: usize);
    fn hipExtMallocWithFlags(at: &mut u64, bytes: usize, flags: u32);
    fn hipFree(at: u64);
    fn hipMemAddressReserve(at: &mut u64, bytes: usize, align: usize, hint: u64, flags: u64);
    fn hipMemAddressFree(at: u64, bytes: usize);
    fn hipMemCreate(handle: &mut u64, bytes: usize, properties: &Properties, flags: u64);
    fn hipMemRelease(handle: u64);
    fn hipMemMap(at: u64, bytes: usize, offset: usize, handle: u64, flags: u64);
    fn hipMemUnmap(at: u64, bytes: usize);
    fn hipMemSetAccess(at: u64, bytes: usize, access: &Access, count: usize);
    fn hipStreamCreateWithPriority(stream: &mut u64, flags: u32, priority: i32);
    fn hipStreamDestroy(stream: u64);
    fn hipStreamSynchronize(stream: u64);
    fn hipStreamWaitEvent(stream: u64, event: u64, flags: u32);
    fn hipLaunchHostFunc(stream: u64, function: HostFunction, data: *mut c_void);
    fn hipStreamAddCallback(stream: u64, callback: Callback, data: *mut c_void, flags: u32);
    fn hipStreamWaitValue64(stream: u64, at: u64, value: u64, flags: u32, mask: u64);
    fn hipEventCreateWithFlags(event: &mut u64, flags: u32);
    fn hipEventDestroy(event: u64);
    fn hipEventRecord(event: u64, stream: u64);
    fn hipEventSynchronize(event: u64);
    fn hipEventElapsedTime(ms: &mut f32, start: u64, end: u64);
    fn hipHostMalloc(at: &mut u64, bytes: usize, flags: u32);
    fn hipHostFree(at: u64);
    fn hipHostRegister(at: u64, bytes: usize, flags: u32);
    fn hipHostUnregister(at: u64);
    fn hipHostGetDevicePointer(device: &mut u64, at: u64, flags: u32);
    fn hipMemcpyAsync(dst: u64, src: u64, bytes: usize, kind: u32, stream: u64);
    fn hipMemcpyHtoDAsync(dst: u64, src: u64, bytes: usize, stream: u64);
    fn hipMemcpyDtoHAsync(dst: u64, src: u64, bytes: usize, stream: u64);
    fn hipMemcpy2DAsync(dst: u64, dst_pitch: usize, src: u64, src_pitch: usize, width: usize, height: usize, kind: u32, stream: u64);
    fn hipMemcpyPeerAsync(dst: u64, dst_device: i32, src: u64, src_device: i32, bytes: usize, stream: u64);
    fn hipMemcpyBatchAsync(dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, attributes: *const CopyAttributes, first: *const usize, attribute_count: usize, failed: *mut usize, stream: u64);
    fn hipMemsetAsync(dst: u64, value: i32, bytes: usize, stream: u64);
    fn hipPointerGetAttributes(attributes: &mut PointerAttributes, at: u64);
    fn hipModuleLoadData(module: &mut u64, image: *const u8);
    fn hipModuleUnload(module: u64);
    fn hipModuleGetFunction(function: &mut u64, module: u64, name: *const c_char);
    fn hipModuleLaunchKernel(function: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: u64, parameters: *const *const u64, extra: *const c_void);
    fn hipMemPoolCreate(pool: &mut u64, properties: &PoolProperties);
    fn hipMemPoolDestroy(pool: u64);
    fn hipMallocFromPoolAsync(at: &mut u64, bytes: usize, pool: u64, stream: u64);
    fn hipMallocAsync(at: &mut u64, bytes: usize, stream: u64);
    fn hipFreeAsync(at: u64, stream: u64);
}

impl Hip {
    pub(crate) fn new(settings: &str) -> Self {
        Self { fake: FakeDriver::new(Vendor::Hip, settings, &[]) }
    }

    /// A stream ordered with no other.
    pub(crate) fn stream(&self) -> u64 {
        made(|at| self.hipStreamCreateWithPriority(at, 1, 0))
    }

    pub(crate) fn alloc(&self, bytes: usize) -> u64 {
        made(|at| self.hipMalloc(at, bytes))
    }

    pub(crate) fn pinned(&self, bytes: usize) -> u64 {
        made(|at| self.hipHostMalloc(at, bytes, 0))
    }

    /// The kinds of misuse seen since, in order, once each.
    #[track_caller]
    pub(crate) fn assert_misused(&self, kinds: &[&str]) {
        let mut seen = self.fake.misuses();
        seen.dedup();
        assert_eq!(seen, kinds, "{:#?}", self.fake.report().misuses);
    }
}
