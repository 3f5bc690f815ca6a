//! ROCm through HIP, found at run time: what of it CUDA has not. Nothing here has run on an AMD
//! GPU: names, types and error paths are checked against the library and its headers, order and
//! books against a fake driver.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::contract::{Copy2d, Place};
use super::gpu::calls::{Calls, HIP, HostCallback, Part};
use super::gpu::library::Found;
use super::gpu::symbols::{Refusal, Symbol, symbols};
use super::gpu::vendor::{Attributes, Context, Image, Previous, Vendor};
use super::kernel::code_objects;

/// A callback of a stream: which, its status, the data.
type StreamCallback = unsafe extern "C" fn(stream: u64, status: u32, data: *mut c_void);

symbols! {
    /// The functions that only HIP has, or has with other arguments.
    HipCalls:
    device_current(device: *mut c_int) ["hipGetDevice"] Core;
    device_set(device: c_int) ["hipSetDevice"] Core;
    stream_callback(stream: u64, function: StreamCallback, data: *mut c_void, flags: u32)
        ["hipStreamAddCallback"] HostFunctions;
    copy_2d(
        target: u64, target_pitch: usize, source: u64, source_pitch: usize,
        width: usize, height: usize, kind: u32, stream: u64,
    ) ["hipMemcpy2DAsync"] PitchedCopies;
    copy_peer(target: u64, to: c_int, source: u64, from: c_int, bytes: usize, stream: u64)
        ["hipMemcpyPeerAsync"] PeerCopies;
}

/// HIP answers with the name itself.
type ErrorName = unsafe extern "C" fn(status: u32) -> *const c_char;

// Kinds of `hipMemcpyKind`, the same in every version.
pub(super) const HOST_TO_DEVICE: u32 = 1;
pub(super) const DEVICE_TO_HOST: u32 = 2;
pub(super) const DEVICE_TO_DEVICE: u32 = 3;
/// `hipDeviceAttributeWallClockRate`.
pub(super) const WALL_CLOCK_KHZ: u32 = 10017;
/// `hipEventReleaseToSystem`: what the host reads after the event has been reached is what the
/// device wrote, in non-coherent memory too.
pub(super) const RELEASE_TO_SYSTEM: u32 = 0x8000_0000;
/// ROCm.
#[derive(Debug)]
pub(super) struct Hip {
    calls: HipCalls,
    error_name: Symbol<ErrorName>,
}

/// Waits for values and batches of copies are left out. The waits are beta, need memory of a kind of
/// their own, and no version is proven: host functions do the same. `hipMemcpyBatchAsync` has lost
/// an argument between versions, under one name: a loop does the same.
impl Vendor for Hip {
    const KIND: &'static str = "hip";
    const NAME: &'static str = "ROCm";
    const COLUMN: usize = HIP;
    // Numbers of `hipDeviceAttribute_t`, the same in versions 5.2 to 7.14.
    const ATTRIBUTES: Attributes =
        Attributes { copy_engines: 2, virtual_memory: 89, pools: 88, wait_value: 10013 };
    const EVENT_FLAGS: u32 = RELEASE_TO_SYSTEM;
    // `hipMemPoolProps::maxSize`.
    const POOL_CAPS_FROM: (u32, u32) = (6, 2);
    // Access to a range of several handles fails on some versions.
    const ACCESS_BY_RANGE: bool = false;
    const TRUSTED: bool = false;
    // Before, memory is kept or mappings hang.
    const VIRTUAL_MEMORY_FROM: (u32, u32) = (7, 0);
    // Before, the struct of allocations has its fields in another order.
    const VIRTUAL_MEMORY_AT_ALL_FROM: (u32, u32) = (5, 4);
    // Corruption and leaks are known from 5.6 to 7.2.
    const POOLS: bool = false;

    fn libraries() -> Vec<String> {
        let numbered = [".so", ".so.7", ".so.6", ".so.5"].map(|end| format!("libamdhip64{end}"));
        let installed = ["ROCM_PATH", "HIP_PATH"]
            .into_iter()
            .filter_map(|variable| std::env::var(variable).ok())
            .filter(|root| !root.is_empty())
            .chain(["/opt/rocm".into()])
            .map(|root| format!("{root}/lib/libamdhip64.so"));
        installed.chain(numbered).collect()
    }

    unsafe fn find(found: &Found) -> Self {
        // SAFETY: the library is HIP's runtime, whose functions have these types.
        unsafe {
            Self {
                calls: HipCalls::find(found.library, 0),
                error_name: Symbol::find(found.library, "hipGetErrorName"),
            }
        }
    }

    fn missing(&self) -> Vec<(&'static str, Part)> {
        self.calls.missing()
    }

    fn version(number: u32) -> (u32, u32) {
        (number / 10_000_000, number / 100_000 % 100)
    }

    fn init(&self, _: &Calls) -> Result<(), Refusal> {
        // hipInit without a device answers "invalid device"; the count call says it better, and
        // every call initialises.
        Ok(())
    }

    fn retain(&self, _: &Calls, device: c_int) -> Result<Context, Refusal> {
        // HIP has one context a device, which is there once the device is current.
        let context = Context { device, handle: 0 };
        self.enter(context).map(|previous| self.leave(previous))?;
        Ok(context)
    }

    fn release(&self, _: Context) -> Result<(), Refusal> {
        Ok(())
    }

    fn enter(&self, context: Context) -> Result<Previous, Refusal> {
        let mut current = 0;
        // SAFETY: the pointer is to a live int; the device is there.
        unsafe {
            self.calls.device_current(&raw mut current)?;
            if current == context.device {
                return Ok(Previous::Same);
            }
            self.calls.device_set(context.device)?;
        }
        Ok(Previous::Device(current))
    }

    fn leave(&self, previous: Previous) {
        if let Previous::Device(device) = previous {
            // SAFETY: the device was current before.
            if let Err(refusal) = unsafe { self.calls.device_set(device) } {
                tracing::warn!(?refusal, "the thread keeps another device current");
            }
        }
    }

    fn status_name(&self, status: u32) -> Option<&'static CStr> {
        // SAFETY: the call takes any number, also one it has no name for.
        let name = unsafe { self.error_name.function?(status) };
        // SAFETY: names are constants of the library, which is never closed.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
    }

    unsafe fn launch_host(
        &self,
        stream: u64,
        function: HostCallback,
        data: *mut c_void,
    ) -> Result<(), Refusal> {
        let callback = Box::into_raw(Box::new(Callback { function, data }));
        // SAFETY: the stream is live; `forward` takes the box back, once.
        let enqueued = unsafe { self.calls.stream_callback(stream, forward, callback.cast(), 0) };
        if enqueued.is_err() {
            // SAFETY: nobody else took the box.
            drop(unsafe { Box::from_raw(callback) });
        }
        enqueued
    }

    unsafe fn copy_2d(&self, stream: u64, copy: &Copy2d) -> Result<(), Refusal> {
        let address = |place| match place {
            Place::Device(at) => at.0,
            Place::Host(at) => at as u64,
        };
        let kind = match (copy.dst, copy.src) {
            (Place::Device(_), Place::Host(_)) => HOST_TO_DEVICE,
            (Place::Host(_), _) => DEVICE_TO_HOST,
            (Place::Device(_), Place::Device(_)) => DEVICE_TO_DEVICE,
        };
        // SAFETY: the caller's.
        unsafe {
            self.calls.copy_2d(
                address(copy.dst),
                copy.dst_pitch as usize,
                address(copy.src),
                copy.src_pitch as usize,
                copy.width as usize,
                copy.height as usize,
                kind,
                stream,
            )
        }
    }

    unsafe fn copy_peer(
        &self,
        stream: u64,
        (target, to): (u64, Context),
        (source, from): (u64, Context),
        bytes: usize,
    ) -> Result<(), Refusal> {
        // SAFETY: the caller's.
        unsafe { self.calls.copy_peer(target, to.device, source, from.device, bytes, stream) }
    }

    fn images() -> Vec<Image> {
        // The runtime refuses a code object that was made for another GPU.
        code_objects().map(|(target, bytes)| Image { target, bytes }).collect()
    }

    fn clock_khz(&self, calls: &Calls, device: c_int) -> Option<u32> {
        let mut khz = 0;
        // SAFETY: the pointer is to a live int.
        let asked = unsafe { calls.device_attribute(&raw mut khz, WALL_CLOCK_KHZ, device) };
        // 100 MHz is the rate of CDNA and RDNA GPUs.
        let khz = asked.ok().and_then(|()| u32::try_from(khz).ok()).filter(|&khz| khz > 0);
        Some(khz.unwrap_or(100_000))
    }
}

/// A host function on its way through a stream callback.
struct Callback {
    function: HostCallback,
    data: *mut c_void,
}

unsafe extern "C" fn forward(_: u64, _: u32, data: *mut c_void) {
    // SAFETY: the data is the box that `launch_host` gave, and this is the only call with it.
    let callback = unsafe { Box::from_raw(data.cast::<Callback>()) };
    // SAFETY: by the caller of `launch_host`, this is what the function takes.
    unsafe { (callback.function)(callback.data) };
}
