//! The functions that CUDA's driver interface and HIP share but for their names: HIP was made
//! after CUDA, and kept order and meaning of the arguments.
//!
//! Handles and device addresses are `u64`: both vendors' are pointers or 64-bit numbers.
//! Symbols of CUDA carry the version suffix that `cuda.h` maps the plain name to.

use std::ffi::{c_char, c_int, c_void};

use super::abi::{AccessDescription, AllocationProperties, PoolProperties};
use super::symbols::symbols;

/// The column of CUDA's names.
pub(in crate::device) const CUDA: usize = 0;
/// The column of HIP's names.
pub(in crate::device) const HIP: usize = 1;

/// What a function is for: what is lost where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) enum Part {
    /// Nothing works without.
    Core,
    VirtualMemory,
    Pools,
    /// The process's current pool.
    ProcessPool,
    Gates,
    Registration,
    BatchCopies,
    PitchedCopies,
    PeerCopies,
    Capture,
    /// Host functions of streams, where another call does the same.
    HostFunctions,
    Naming,
    /// Where the device sits.
    Place,
}

impl Part {
    /// What its absence costs.
    pub(in crate::device) fn cost(self) -> &'static str {
        match self {
            Self::Core => "the device cannot be used",
            Self::VirtualMemory => {
                "no virtual memory: the expandable policy falls back to segments"
            }
            Self::Pools => "no stream-ordered pools: the mempool policy is refused",
            Self::ProcessPool => "the process's pool cannot be installed",
            Self::Gates => "gates are host functions, which cost a few microseconds each",
            Self::Registration => "memory of one's own cannot be pinned: copies from it are staged",
            Self::BatchCopies => "batches are copied one by one",
            Self::PitchedCopies => "no pitched copies",
            Self::PeerCopies => "no copies between devices",
            Self::Capture => "graph capture is not seen",
            Self::HostFunctions => "host functions go through stream callbacks",
            Self::Naming => "statuses have no names",
            Self::Place => "neither the device's NUMA node nor its link is known",
        }
    }
}

/// A function on the host that a stream calls.
pub(in crate::device) type HostCallback = unsafe extern "C" fn(data: *mut c_void);

symbols! {
    /// What both vendors have under other names.
    Calls:
    init(flags: u32) ["cuInit", "hipInit"] Core;
    driver_version(version: *mut c_int) ["cuDriverGetVersion", "hipRuntimeGetVersion"] Core;
    device_count(count: *mut c_int) ["cuDeviceGetCount", "hipGetDeviceCount"] Core;
    device_get(device: *mut c_int, ordinal: c_int) ["cuDeviceGet", "hipDeviceGet"] Core;
    device_name(name: *mut c_char, len: c_int, device: c_int)
        ["cuDeviceGetName", "hipDeviceGetName"] Core;
    device_total(bytes: *mut usize, device: c_int)
        ["cuDeviceTotalMem_v2", "hipDeviceTotalMem"] Core;
    device_attribute(value: *mut c_int, attribute: u32, device: c_int)
        ["cuDeviceGetAttribute", "hipDeviceGetAttribute"] Core;
    device_pci_bus_id(text: *mut c_char, len: c_int, device: c_int)
        ["cuDeviceGetPCIBusId", "hipDeviceGetPCIBusId"] Place;
    context_synchronize() ["cuCtxSynchronize", "hipDeviceSynchronize"] Core;
    priority_range(least: *mut c_int, greatest: *mut c_int)
        ["cuCtxGetStreamPriorityRange", "hipDeviceGetStreamPriorityRange"] Core;
    memory_info(free: *mut usize, total: *mut usize) ["cuMemGetInfo_v2", "hipMemGetInfo"] Core;

    memory_alloc(at: *mut u64, bytes: usize) ["cuMemAlloc_v2", "hipMalloc"] Core;
    memory_free(at: u64) ["cuMemFree_v2", "hipFree"] Core;

    address_reserve(at: *mut u64, bytes: usize, alignment: usize, hint: u64, flags: u64)
        ["cuMemAddressReserve", "hipMemAddressReserve"] VirtualMemory;
    address_free(at: u64, bytes: usize) ["cuMemAddressFree", "hipMemAddressFree"] VirtualMemory;
    page_create(page: *mut u64, bytes: usize, properties: *const AllocationProperties, flags: u64)
        ["cuMemCreate", "hipMemCreate"] VirtualMemory;
    page_release(page: u64) ["cuMemRelease", "hipMemRelease"] VirtualMemory;
    page_map(at: u64, bytes: usize, offset: usize, page: u64, flags: u64)
        ["cuMemMap", "hipMemMap"] VirtualMemory;
    page_unmap(at: u64, bytes: usize) ["cuMemUnmap", "hipMemUnmap"] VirtualMemory;
    page_access(at: u64, bytes: usize, access: *const AccessDescription, count: usize)
        ["cuMemSetAccess", "hipMemSetAccess"] VirtualMemory;
    page_granularity(bytes: *mut usize, properties: *const AllocationProperties, which: u32)
        ["cuMemGetAllocationGranularity", "hipMemGetAllocationGranularity"] VirtualMemory;

    stream_create(stream: *mut u64, flags: u32, priority: c_int)
        ["cuStreamCreateWithPriority", "hipStreamCreateWithPriority"] Core;
    stream_destroy(stream: u64) ["cuStreamDestroy_v2", "hipStreamDestroy"] Core;
    stream_synchronize(stream: u64) ["cuStreamSynchronize", "hipStreamSynchronize"] Core;
    stream_wait_event(stream: u64, event: u64, flags: u32)
        ["cuStreamWaitEvent", "hipStreamWaitEvent"] Core;
    stream_is_capturing(stream: u64, status: *mut u32)
        ["cuStreamIsCapturing", "hipStreamIsCapturing"] Capture;
    exchange_capture_mode(mode: *mut u32)
        ["cuThreadExchangeStreamCaptureMode", "hipThreadExchangeStreamCaptureMode"] Capture;
    launch_host(stream: u64, function: HostCallback, data: *mut c_void)
        ["cuLaunchHostFunc", "hipLaunchHostFunc"] HostFunctions;

    event_create(event: *mut u64, flags: u32) ["cuEventCreate", "hipEventCreateWithFlags"] Core;
    event_destroy(event: u64) ["cuEventDestroy_v2", "hipEventDestroy"] Core;
    event_record(event: u64, stream: u64) ["cuEventRecord", "hipEventRecord"] Core;
    event_query(event: u64) ["cuEventQuery", "hipEventQuery"] Core;
    event_synchronize(event: u64) ["cuEventSynchronize", "hipEventSynchronize"] Core;
    event_elapsed(milliseconds: *mut f32, start: u64, end: u64)
        ["cuEventElapsedTime", "hipEventElapsedTime"] Core;

    host_alloc(at: *mut *mut c_void, bytes: usize, flags: u32)
        ["cuMemHostAlloc", "hipHostMalloc"] Core;
    host_free(at: *mut c_void) ["cuMemFreeHost", "hipHostFree"] Core;
    host_register(at: *mut c_void, bytes: usize, flags: u32)
        ["cuMemHostRegister_v2", "hipHostRegister"] Registration;
    host_unregister(at: *mut c_void) ["cuMemHostUnregister", "hipHostUnregister"] Registration;
    host_device_pointer(device: *mut u64, host: *mut c_void, flags: u32)
        ["cuMemHostGetDevicePointer_v2", "hipHostGetDevicePointer"] Gates;

    copy_h2d(target: u64, source: *const c_void, bytes: usize, stream: u64)
        ["cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync"] Core;
    copy_d2h(target: *mut c_void, source: u64, bytes: usize, stream: u64)
        ["cuMemcpyDtoHAsync_v2", "hipMemcpyDtoHAsync"] Core;
    copy_d2d(target: u64, source: u64, bytes: usize, stream: u64)
        ["cuMemcpyDtoDAsync_v2", "hipMemcpyDtoDAsync"] Core;

    module_load(module: *mut u64, image: *const c_void) ["cuModuleLoadData", "hipModuleLoadData"] Core;
    module_unload(module: u64) ["cuModuleUnload", "hipModuleUnload"] Core;
    module_function(function: *mut u64, module: u64, name: *const c_char)
        ["cuModuleGetFunction", "hipModuleGetFunction"] Core;
    launch(
        function: u64,
        grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32,
        shared_bytes: u32,
        stream: u64,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) ["cuLaunchKernel", "hipModuleLaunchKernel"] Core;

    pool_create(pool: *mut u64, properties: *const PoolProperties)
        ["cuMemPoolCreate", "hipMemPoolCreate"] Pools;
    pool_destroy(pool: u64) ["cuMemPoolDestroy", "hipMemPoolDestroy"] Pools;
    pool_alloc(at: *mut u64, bytes: usize, pool: u64, stream: u64)
        ["cuMemAllocFromPoolAsync", "hipMallocFromPoolAsync"] Pools;
    pool_free(at: u64, stream: u64) ["cuMemFreeAsync", "hipFreeAsync"] Pools;
    pool_trim(pool: u64, keep_bytes: usize) ["cuMemPoolTrimTo", "hipMemPoolTrimTo"] Pools;
    pool_get(pool: u64, attribute: u32, value: *mut c_void)
        ["cuMemPoolGetAttribute", "hipMemPoolGetAttribute"] Pools;
    pool_set(pool: u64, attribute: u32, value: *mut c_void)
        ["cuMemPoolSetAttribute", "hipMemPoolSetAttribute"] Pools;
    device_default_pool(pool: *mut u64, device: c_int)
        ["cuDeviceGetDefaultMemPool", "hipDeviceGetDefaultMemPool"] ProcessPool;
    device_pool(pool: *mut u64, device: c_int)
        ["cuDeviceGetMemPool", "hipDeviceGetMemPool"] ProcessPool;
    device_set_pool(device: c_int, pool: u64)
        ["cuDeviceSetMemPool", "hipDeviceSetMemPool"] ProcessPool;
}
