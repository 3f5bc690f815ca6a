//! CUDA's driver interface, found at run time: what of it HIP has not.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

use super::contract::{Copy2d, Place};
use super::gpu::abi::{
    Copy2dParameters, CopyAttributes, Location, MEMORY_DEVICE, MEMORY_HOST, SOURCE_IN_STREAM_ORDER,
    WAIT_VALUE_AT_LEAST,
};
use super::gpu::calls::{CUDA, Calls, Part};
use super::gpu::library::Found;
use super::gpu::symbols::{Refusal, Symbol, check, symbols};
use super::gpu::vendor::{Attributes, Context, Image, Previous, Vendor};
use super::kernel::ptx;

symbols! {
    /// The functions that only CUDA has, or has with other arguments.
    CudaCalls:
    context_retain(context: *mut u64, device: c_int) ["cuDevicePrimaryCtxRetain"] Core;
    context_release(device: c_int) ["cuDevicePrimaryCtxRelease_v2"] Core;
    context_current(context: *mut u64) ["cuCtxGetCurrent"] Core;
    context_push(context: u64) ["cuCtxPushCurrent_v2"] Core;
    context_pop(context: *mut u64) ["cuCtxPopCurrent_v2"] Core;
    error_name(status: u32, name: *mut *const c_char) ["cuGetErrorName"] Naming;
    wait_value_64(stream: u64, at: u64, value: u64, flags: u32)
        ["cuStreamWaitValue64_v2"] Gates;
    copy_2d(copy: *const Copy2dParameters, stream: u64) ["cuMemcpy2DAsync_v2"] PitchedCopies;
    copy_peer(target: u64, to: u64, source: u64, from: u64, bytes: usize, stream: u64)
        ["cuMemcpyPeerAsync"] PeerCopies;
}

/// Arguments of a batch from driver 13.0 on.
type Batch = unsafe extern "C" fn(
    targets: *mut u64,
    sources: *mut u64,
    sizes: *mut usize,
    count: usize,
    attributes: *mut CopyAttributes,
    attribute_starts: *mut usize,
    attribute_count: usize,
    stream: u64,
) -> u32;

/// Arguments of a batch of drivers 12.8 and 12.9, which tell where it failed.
type BatchWithFailure = unsafe extern "C" fn(
    targets: *mut u64,
    sources: *mut u64,
    sizes: *mut usize,
    count: usize,
    attributes: *mut CopyAttributes,
    attribute_starts: *mut usize,
    attribute_count: usize,
    failed_at: *mut usize,
    stream: u64,
) -> u32;

/// CUDA.
#[derive(Debug)]
pub(super) struct Cuda {
    calls: CudaCalls,
    batch: Symbol<Batch>,
    batch_with_failure: Symbol<BatchWithFailure>,
}

impl Vendor for Cuda {
    const KIND: &'static str = "cuda";
    const NAME: &'static str = "CUDA";
    const COLUMN: usize = CUDA;
    // Numbers of `CUdevice_attribute`, cuda.h.
    const ATTRIBUTES: Attributes = Attributes {
        copy_engines: 40,
        virtual_memory: 102,
        pools: 115,
        // Of 64-bit waits under the names with `_v2`.
        wait_value: 122,
    };
    const EVENT_FLAGS: u32 = 0;
    // `CUmemPoolProps::maxSize`, cuda.h 12.2.
    const POOL_CAPS_FROM: (u32, u32) = (12, 2);
    const ACCESS_BY_RANGE: bool = true;
    const TRUSTED: bool = true;
    // Attribute and functions are there from 10.2 on.
    const VIRTUAL_MEMORY_FROM: (u32, u32) = (10, 2);
    const VIRTUAL_MEMORY_AT_ALL_FROM: (u32, u32) = (10, 2);
    const POOLS: bool = true;

    fn libraries() -> Vec<String> {
        // The versioned name first: an unversioned one may be a toolkit's stub.
        ["libcuda.so.1", "libcuda.so"].map(String::from).into()
    }

    unsafe fn find(found: &Found) -> Self {
        // SAFETY: the library is CUDA's driver, whose functions have these types; where two
        // types are known under one name, the name says which it is.
        unsafe {
            Self {
                calls: CudaCalls::find(found.library, 0),
                batch: Symbol::find(found.library, "cuMemcpyBatchAsync_v2"),
                batch_with_failure: Symbol::find(found.library, "cuMemcpyBatchAsync"),
            }
        }
    }

    fn missing(&self) -> Vec<(&'static str, Part)> {
        let mut missing = self.calls.missing();
        if !self.copies_batches() {
            missing.push((self.batch.name, Part::BatchCopies));
        }
        missing
    }

    fn version(number: u32) -> (u32, u32) {
        (number / 1000, number % 1000 / 10)
    }

    fn init(&self, calls: &Calls) -> Result<(), Refusal> {
        // SAFETY: 0 is the only value defined.
        unsafe { calls.init(0) }
    }

    fn retain(&self, _: &Calls, device: c_int) -> Result<Context, Refusal> {
        let mut handle = 0;
        // SAFETY: the pointer is to a live handle.
        unsafe { self.calls.context_retain(&raw mut handle, device) }?;
        Ok(Context { device, handle })
    }

    fn release(&self, context: Context) -> Result<(), Refusal> {
        // SAFETY: it was retained once for this value, which is given up.
        unsafe { self.calls.context_release(context.device) }
    }

    fn enter(&self, context: Context) -> Result<Previous, Refusal> {
        let mut current = 0;
        // SAFETY: the pointer is to a live handle; the context is retained.
        unsafe {
            self.calls.context_current(&raw mut current)?;
            if current == context.handle {
                return Ok(Previous::Same);
            }
            self.calls.context_push(context.handle)?;
        }
        Ok(Previous::Stacked)
    }

    fn leave(&self, previous: Previous) {
        if previous == Previous::Stacked {
            let mut popped = 0;
            // SAFETY: the pointer is to a live handle, and `enter` pushed a context.
            if let Err(refusal) = unsafe { self.calls.context_pop(&raw mut popped) } {
                tracing::warn!(?refusal, "the thread keeps the device's context");
            }
        }
    }

    fn status_name(&self, status: u32) -> Option<&'static CStr> {
        let mut name = null();
        // SAFETY: the pointer is to a live pointer.
        unsafe { self.calls.error_name(status, &raw mut name) }.ok()?;
        // SAFETY: names are constants of the library, which is never closed.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
    }

    fn waits_for_values(&self) -> bool {
        self.calls.wait_value_64.function.is_some()
    }

    unsafe fn wait_value(&self, stream: u64, address: u64, value: u64) -> Result<(), Refusal> {
        // SAFETY: the caller's.
        unsafe { self.calls.wait_value_64(stream, address, value, WAIT_VALUE_AT_LEAST) }
    }

    unsafe fn copy_2d(&self, stream: u64, copy: &Copy2d) -> Result<(), Refusal> {
        let (source_kind, source_host, source_device) = match copy.src {
            Place::Device(at) => (MEMORY_DEVICE, null_mut(), at.0),
            Place::Host(at) => (MEMORY_HOST, at.cast(), 0),
        };
        let (target_kind, target_host, target_device) = match copy.dst {
            Place::Device(at) => (MEMORY_DEVICE, null_mut(), at.0),
            Place::Host(at) => (MEMORY_HOST, at.cast(), 0),
        };
        let parameters = Copy2dParameters {
            source_x_bytes: 0,
            source_y: 0,
            source_kind,
            source_host,
            source_device,
            source_array: null_mut(),
            source_pitch_bytes: copy.src_pitch as usize,
            target_x_bytes: 0,
            target_y: 0,
            target_kind,
            target_host,
            target_device,
            target_array: null_mut(),
            target_pitch_bytes: copy.dst_pitch as usize,
            width_bytes: copy.width as usize,
            height: copy.height as usize,
        };
        // SAFETY: the caller's; the driver reads the parameters before it returns.
        unsafe { self.calls.copy_2d(&raw const parameters, stream) }
    }

    unsafe fn copy_peer(
        &self,
        stream: u64,
        (target, to): (u64, Context),
        (source, from): (u64, Context),
        bytes: usize,
    ) -> Result<(), Refusal> {
        // SAFETY: the caller's; both contexts are retained.
        unsafe { self.calls.copy_peer(target, to.handle, source, from.handle, bytes, stream) }
    }

    fn copies_batches(&self) -> bool {
        self.batch.function.is_some() || self.batch_with_failure.function.is_some()
    }

    unsafe fn copy_batch(
        &self,
        stream: u64,
        targets: &mut [u64],
        sources: &mut [u64],
        sizes: &mut [usize],
    ) -> Result<(), Refusal> {
        // Sources are read in stream order: an event then tells when they may be used again.
        let nowhere = Location { kind: 0, id: 0 };
        let mut attributes = CopyAttributes {
            source_access: SOURCE_IN_STREAM_ORDER,
            source: nowhere,
            target: nowhere,
            flags: 0,
        };
        let mut starts = 0_usize;
        let (to, from, bytes) = (targets.as_mut_ptr(), sources.as_mut_ptr(), sizes.as_mut_ptr());
        let (how, at, count) = (&raw mut attributes, &raw mut starts, targets.len());
        if let Some(batch) = self.batch.function {
            // SAFETY: the caller's; the driver reads the arrays before it returns.
            let status = unsafe { batch(to, from, bytes, count, how, at, 1, stream) };
            return check(self.batch.name, status);
        }
        let batch = self.batch_with_failure.get()?;
        let mut failed_at = 0;
        // SAFETY: as above.
        let status =
            unsafe { batch(to, from, bytes, count, how, at, 1, &raw mut failed_at, stream) };
        check(self.batch_with_failure.name, status)
    }

    fn images() -> Vec<Image> {
        vec![Image { target: "PTX", bytes: ptx().to_bytes_with_nul() }]
    }

    fn clock_khz(&self, _: &Calls, _: c_int) -> Option<u32> {
        // `globaltimer` counts nanoseconds.
        None
    }
}
