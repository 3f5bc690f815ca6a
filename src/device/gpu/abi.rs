//! Structs and numbers that CUDA's driver interface and HIP share: HIP kept CUDA's layouts.
//! Reserved bytes are zero, so that newer drivers, which gave some of them a meaning, read
//! their defaults. A test compares all of it with bindings made from the vendors' headers.
//!
//! Sources: `cuda.h` 12.8 and `hip_runtime_api.h` 5.2 to 7.14.

use std::ffi::c_void;
use std::ptr::null_mut;

/// `CUmemLocation`, `hipMemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(in crate::device) struct Location {
    /// [`LOCATION_DEVICE`].
    pub(in crate::device) kind: u32,
    /// The device's ordinal.
    pub(in crate::device) id: i32,
}

/// `CU_MEM_LOCATION_TYPE_DEVICE`, `hipMemLocationTypeDevice`.
pub(in crate::device) const LOCATION_DEVICE: u32 = 1;

impl Location {
    /// A device's memory.
    pub(in crate::device) const fn device(ordinal: i32) -> Self {
        Self { kind: LOCATION_DEVICE, id: ordinal }
    }
}

/// `CUmemAllocationProp`, `hipMemAllocationProp`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(in crate::device) struct AllocationProperties {
    /// [`ALLOCATION_PINNED`].
    pub(in crate::device) kind: u32,
    /// Kinds of handles to export: none.
    pub(in crate::device) handle_kinds: u32,
    /// Where the memory is.
    pub(in crate::device) location: Location,
    /// Of Windows only.
    pub(in crate::device) windows: *mut c_void,
    /// Compression, RDMA, usage: none.
    pub(in crate::device) flags: [u8; 8],
}

/// `CU_MEM_ALLOCATION_TYPE_PINNED`, `hipMemAllocationTypePinned`.
pub(in crate::device) const ALLOCATION_PINNED: u32 = 1;

impl AllocationProperties {
    /// Plain memory of a device.
    pub(in crate::device) const fn on_device(ordinal: i32) -> Self {
        Self {
            kind: ALLOCATION_PINNED,
            handle_kinds: 0,
            location: Location::device(ordinal),
            windows: null_mut(),
            flags: [0; 8],
        }
    }
}

/// `CUmemAccessDesc`, `hipMemAccessDesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(in crate::device) struct AccessDescription {
    /// Who may.
    pub(in crate::device) location: Location,
    /// [`ACCESS_READ_WRITE`].
    pub(in crate::device) flags: u32,
}

/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`, `hipMemAccessFlagsProtReadWrite`.
pub(in crate::device) const ACCESS_READ_WRITE: u32 = 3;
/// `CU_MEM_ALLOC_GRANULARITY_MINIMUM`, `hipMemAllocationGranularityMinimum`.
pub(in crate::device) const GRANULARITY_MINIMUM: u32 = 0;

/// `CUmemPoolProps`, `hipMemPoolProps`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(in crate::device) struct PoolProperties {
    /// [`ALLOCATION_PINNED`].
    pub(in crate::device) kind: u32,
    /// Kinds of handles to export: none.
    pub(in crate::device) handle_kinds: u32,
    /// Where the memory is.
    pub(in crate::device) location: Location,
    /// Of Windows only.
    pub(in crate::device) windows: *mut c_void,
    /// The cap in bytes, 0 for none; from CUDA 12.2 and HIP 6.2 on, reserved before.
    pub(in crate::device) max_bytes: usize,
    /// Usage and what is not given a meaning yet.
    pub(in crate::device) reserved: [u8; 56],
}

impl PoolProperties {
    /// A pool of a device's memory.
    pub(in crate::device) const fn on_device(ordinal: i32, max_bytes: usize) -> Self {
        Self {
            kind: ALLOCATION_PINNED,
            handle_kinds: 0,
            location: Location::device(ordinal),
            windows: null_mut(),
            max_bytes,
            reserved: [0; 56],
        }
    }
}

/// `CUmemcpyAttributes`, `hipMemcpyAttributes`: how a batch reads its sources.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(in crate::device) struct CopyAttributes {
    /// [`SOURCE_IN_STREAM_ORDER`].
    pub(in crate::device) source_access: u32,
    /// A hint; zero for none.
    pub(in crate::device) source: Location,
    /// A hint; zero for none.
    pub(in crate::device) target: Location,
    /// Hints.
    pub(in crate::device) flags: u32,
}

/// `CU_MEMCPY_SRC_ACCESS_ORDER_STREAM`, `hipMemcpySrcAccessOrderStream`.
pub(in crate::device) const SOURCE_IN_STREAM_ORDER: u32 = 1;

/// `CUDA_MEMCPY2D`. HIP's has the same layout, but numbers of memory kinds that changed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(in crate::device) struct Copy2dParameters {
    /// Where a row begins.
    pub(in crate::device) source_x_bytes: usize,
    /// The first row.
    pub(in crate::device) source_y: usize,
    /// [`MEMORY_HOST`] or [`MEMORY_DEVICE`].
    pub(in crate::device) source_kind: u32,
    /// Of host memory.
    pub(in crate::device) source_host: *const c_void,
    /// Of device memory.
    pub(in crate::device) source_device: u64,
    /// Of arrays.
    pub(in crate::device) source_array: *mut c_void,
    /// From row to row.
    pub(in crate::device) source_pitch_bytes: usize,
    /// Where a row begins.
    pub(in crate::device) target_x_bytes: usize,
    /// The first row.
    pub(in crate::device) target_y: usize,
    /// [`MEMORY_HOST`] or [`MEMORY_DEVICE`].
    pub(in crate::device) target_kind: u32,
    /// Of host memory.
    pub(in crate::device) target_host: *mut c_void,
    /// Of device memory.
    pub(in crate::device) target_device: u64,
    /// Of arrays.
    pub(in crate::device) target_array: *mut c_void,
    /// From row to row.
    pub(in crate::device) target_pitch_bytes: usize,
    /// Of a row.
    pub(in crate::device) width_bytes: usize,
    /// How many rows.
    pub(in crate::device) height: usize,
}

/// `CU_MEMORYTYPE_HOST`.
pub(in crate::device) const MEMORY_HOST: u32 = 1;
/// `CU_MEMORYTYPE_DEVICE`.
pub(in crate::device) const MEMORY_DEVICE: u32 = 2;

/// `CU_STREAM_NON_BLOCKING`, `hipStreamNonBlocking`: ordered with no default stream.
pub(in crate::device) const STREAM_NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DEFAULT`, `hipEventDefault`.
pub(in crate::device) const EVENT_TIMING: u32 = 0;
/// `CU_EVENT_DISABLE_TIMING`, `hipEventDisableTiming`.
pub(in crate::device) const EVENT_NO_TIMING: u32 = 2;
/// `CU_MEMHOSTALLOC_PORTABLE`, `hipHostMallocPortable`; of registering too.
pub(in crate::device) const HOST_PORTABLE: u32 = 1;
/// `CU_MEMHOSTALLOC_WRITECOMBINED`, `hipHostMallocWriteCombined`.
pub(in crate::device) const HOST_WRITE_COMBINED: u32 = 4;
/// `CU_MEMHOSTALLOC_DEVICEMAP`, `hipHostMallocMapped`; of registering too.
pub(in crate::device) const HOST_MAPPED: u32 = 2;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`, `hipStreamCaptureModeRelaxed`.
pub(in crate::device) const CAPTURE_RELAXED: u32 = 2;
/// `CU_STREAM_WAIT_VALUE_GEQ`, `hipStreamWaitValueGte`: wait until the signed difference of
/// what is there and the value is not negative.
pub(in crate::device) const WAIT_VALUE_AT_LEAST: u32 = 0;

/// `CUDA_ERROR_NO_DEVICE`, `hipErrorNoDevice`.
pub(in crate::device) const NO_DEVICE: u32 = 100;
/// `CUDA_ERROR_INVALID_DEVICE`, `hipErrorInvalidDevice`.
pub(in crate::device) const INVALID_DEVICE: u32 = 101;
/// `CUDA_ERROR_NOT_READY`, `hipErrorNotReady`.
pub(in crate::device) const NOT_READY: u32 = 600;

#[cfg(test)]
#[path = "abi_tests.rs"]
mod tests;
