//! What CUDA and HIP do not share: one implementation each in `cuda` and `hip`.

use std::ffi::{CStr, c_int, c_void};
use std::fmt;

use super::calls::{Calls, HostCallback, Part};
use super::library::Found;
use super::symbols::Refusal;
use crate::base::DeviceError;
use crate::device::contract::Copy2d;

/// Numbers of a vendor's device attributes.
#[derive(Debug)]
pub(in crate::device) struct Attributes {
    pub(in crate::device) copy_engines: u32,
    pub(in crate::device) virtual_memory: u32,
    pub(in crate::device) pools: u32,
    pub(in crate::device) wait_value: u32,
}

/// A vendor's kernels.
#[derive(Debug)]
pub(in crate::device) struct Image {
    /// What it is for, for messages.
    pub(in crate::device) target: &'static str,
    /// As the vendor's module call takes it: PTX ends with a zero byte.
    pub(in crate::device) bytes: &'static [u8],
}

/// A vendor.
pub(in crate::device) trait Vendor:
    fmt::Debug + Send + Sync + Sized + 'static
{
    /// The device kind in names (`cuda`).
    const KIND: &'static str;
    /// The vendor's name for people.
    const NAME: &'static str;
    /// The column of [`Calls`].
    const COLUMN: usize;
    const ATTRIBUTES: Attributes;
    /// Flags of every event, beside the one for timing.
    const EVENT_FLAGS: u32;
    /// The first version whose pools keep to a cap.
    const POOL_CAPS_FROM: (u32, u32);
    /// Whether access is set once over a range or once for each mapping.
    const ACCESS_BY_RANGE: bool;
    /// Whether virtual memory and pools are believed, or proven by a self-test first.
    const TRUSTED: bool;
    /// The first version whose virtual memory is tried without being asked for.
    const VIRTUAL_MEMORY_FROM: (u32, u32);
    /// The first version whose virtual memory is called as this crate calls it.
    const VIRTUAL_MEMORY_AT_ALL_FROM: (u32, u32);
    /// Whether the driver's pools are used without being asked for.
    const POOLS: bool;

    /// File names of the driver, in the order to try.
    fn libraries() -> Vec<String>;
    /// Looks up what only this vendor has.
    ///
    /// # Safety
    /// `found` is this vendor's driver.
    unsafe fn find(found: &Found) -> Self;
    /// The functions missing from what only this vendor has.
    fn missing(&self) -> Vec<(&'static str, Part)>;
    /// The version as (major, minor), from the number of the version call.
    fn version(number: u32) -> (u32, u32);
    /// Makes the library ready; before any other call.
    ///
    /// # Errors
    /// What the library says.
    fn init(&self, calls: &Calls) -> Result<(), Refusal>;
    /// Takes hold of the device; its context is shared with whoever else uses the device.
    ///
    /// # Errors
    /// What the library says.
    fn retain(&self, calls: &Calls, device: c_int) -> Result<Context, Refusal>;
    /// Lets go of the device.
    fn release(&self, context: Context) -> Result<(), Refusal>;
    /// Makes the device current on this thread; gives what to put back.
    ///
    /// # Errors
    /// What the library says.
    fn enter(&self, context: Context) -> Result<Previous, Refusal>;
    /// Puts back what was current.
    fn leave(&self, previous: Previous);
    /// The name of a status.
    fn status_name(&self, status: u32) -> Option<&'static CStr>;
    /// Enqueues a host function where the shared call is missing.
    ///
    /// # Safety
    /// `data` is what the function takes; the stream is live.
    unsafe fn launch_host(
        &self,
        stream: u64,
        function: HostCallback,
        data: *mut c_void,
    ) -> Result<(), Refusal> {
        let _ = (stream, function, data);
        Err(Refusal::own("host functions", DeviceError::NOT_SUPPORTED))
    }
    /// Whether 64-bit waits are to be had.
    fn waits_for_values(&self) -> bool {
        false
    }
    /// Makes a stream wait until the 8-aligned word at a device address is at `value`, as
    /// [`waits_for_values`](Self::waits_for_values) says it can.
    ///
    /// # Safety
    /// The stream is live, and the word stays until the wait is over.
    unsafe fn wait_value(&self, stream: u64, address: u64, value: u64) -> Result<(), Refusal> {
        let _ = (stream, address, value);
        Err(Refusal::own("waits for values", DeviceError::NOT_SUPPORTED))
    }
    /// Enqueues a pitched copy.
    ///
    /// # Safety
    /// As [`Driver::copy_2d`](crate::device::Driver::copy_2d).
    unsafe fn copy_2d(&self, stream: u64, copy: &Copy2d) -> Result<(), Refusal>;
    /// Enqueues a copy between two devices.
    ///
    /// # Safety
    /// As [`Driver::copy_peer`](crate::device::Driver::copy_peer).
    unsafe fn copy_peer(
        &self,
        stream: u64,
        target: (u64, Context),
        source: (u64, Context),
        bytes: usize,
    ) -> Result<(), Refusal>;
    /// Whether batches are to be had.
    fn copies_batches(&self) -> bool {
        false
    }
    /// Enqueues copies in one call.
    ///
    /// # Safety
    /// As [`Driver::copy_h2d_batch`](crate::device::Driver::copy_h2d_batch); the three slices
    /// are of one length, not empty.
    unsafe fn copy_batch(
        &self,
        stream: u64,
        targets: &mut [u64],
        sources: &mut [u64],
        sizes: &mut [usize],
    ) -> Result<(), Refusal> {
        let _ = (stream, targets, sources, sizes);
        Err(Refusal::own("batches", DeviceError::NOT_SUPPORTED))
    }
    /// The kernels, most fitting first; the first that loads is used.
    fn images() -> Vec<Image>;
    /// The rate of the clock that the busy kernel reads, in kHz; `None` where it counts
    /// nanoseconds.
    fn clock_khz(&self, calls: &Calls, device: c_int) -> Option<u32>;
}

/// A device taken hold of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) struct Context {
    pub(in crate::device) device: c_int,
    /// CUDA's primary context; 0 for HIP, which has none.
    pub(in crate::device) handle: u64,
}

/// What was current on a thread before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) enum Previous {
    /// The same: nothing to put back.
    Same,
    /// CUDA's stack of contexts keeps it.
    Stacked,
    /// HIP's device.
    Device(c_int),
}
