//! Riverbed's kernels on a GPU: the module is loaded at the first launch, and stays.

use std::ffi::c_void;
use std::ptr::null_mut;

use super::calls::Calls;
use super::symbols::Refusal;
use super::vendor::{Image, Vendor};
use crate::base::DeviceError;
use crate::device::kernel::{FUNCTIONS, Kernel, Launch};

/// A loaded module.
#[derive(Debug)]
pub(super) struct Module {
    handle: u64,
    /// By place in [`FUNCTIONS`].
    functions: Vec<u64>,
    /// The rate of the clock that the busy kernel reads.
    clock_khz: Option<u32>,
}

impl Module {
    /// Loads the first image that the device takes.
    pub(super) fn load<V: Vendor>(vendor: &V, calls: &Calls, device: i32) -> Result<Self, Refusal> {
        let mut refused = Refusal::own("kernels", DeviceError::NOT_SUPPORTED);
        for Image { target, bytes } in V::images() {
            let mut handle = 0;
            // SAFETY: the image is whole, and of the kind the vendor's call takes.
            match unsafe { calls.module_load(&raw mut handle, bytes.as_ptr().cast()) } {
                Ok(()) => {
                    tracing::debug!(target, "kernels loaded");
                    return Self::with_functions(calls, handle, vendor.clock_khz(calls, device));
                }
                Err(refusal) => refused = refusal,
            }
        }
        Err(refused)
    }

    fn with_functions(calls: &Calls, handle: u64, clock_khz: Option<u32>) -> Result<Self, Refusal> {
        let mut module = Self { handle, functions: Vec::new(), clock_khz };
        for name in FUNCTIONS {
            let mut function = 0;
            // SAFETY: the module is loaded and the name ends with a zero byte.
            match unsafe { calls.module_function(&raw mut function, handle, name.as_ptr()) } {
                Ok(()) => module.functions.push(function),
                Err(refusal) => {
                    module.unload(calls);
                    return Err(refusal);
                }
            }
        }
        Ok(module)
    }

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// As [`Driver::launch`](crate::device::Driver::launch); the stream is live.
    pub(super) unsafe fn run(
        &self,
        calls: &Calls,
        stream: u64,
        kernel: &Kernel,
    ) -> Result<(), Refusal> {
        kernel.launches(self.clock_khz).try_for_each(|launch| {
            // SAFETY: the caller's.
            unsafe { self.launch(calls, stream, &launch) }
        })
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn launch(&self, calls: &Calls, stream: u64, launch: &Launch) -> Result<(), Refusal> {
        let place = FUNCTIONS.iter().position(|name| *name == launch.function);
        let function = place.and_then(|place| self.functions.get(place));
        // Every function that kernels launch is in the list.
        let Some(&function) = function else {
            return Err(Refusal::own("kernels", DeviceError::NOT_SUPPORTED));
        };
        let mut parameters: [*mut c_void; 1] = [launch.args.as_ptr().cast_mut().cast()];
        // SAFETY: the function takes one struct of these words, which the driver copies before
        // it returns; the memory it names is the caller's promise.
        unsafe {
            calls.launch(
                function,
                launch.grid,
                1,
                1,
                launch.block,
                1,
                1,
                0,
                stream,
                parameters.as_mut_ptr(),
                null_mut(),
            )
        }
    }

    /// Unloads it. Nothing of it runs, and it is not used again.
    pub(super) fn unload(&self, calls: &Calls) {
        // SAFETY: the module is loaded, and this value is the only way to it.
        if let Err(refusal) = unsafe { calls.module_unload(self.handle) } {
            tracing::warn!(?refusal, "the kernels stay loaded");
        }
    }
}
