//! Our structs and numbers beside those of bindings made from the vendors' headers.

use std::mem::{align_of, offset_of, size_of};

use super::*;

/// Compares sizes, alignments and the offsets of fields.
macro_rules! same_layout {
    ($ours:ident, $theirs:ty: $($field:ident as $their_field:ident),+ $(,)?) => {
        assert_eq!(size_of::<$ours>(), size_of::<$theirs>(), "{}", stringify!($theirs));
        assert_eq!(align_of::<$ours>(), align_of::<$theirs>(), "{}", stringify!($theirs));
        $(assert_eq!(
            offset_of!($ours, $field),
            offset_of!($theirs, $their_field),
            "{}::{}", stringify!($theirs), stringify!($their_field)
        );)+
    };
}

/// Compares numbers, as plain ones.
macro_rules! same_numbers {
    ($($ours:expr => $theirs:expr),+ $(,)?) => {
        $(assert_eq!(u64::from($ours), $theirs as u64, "{}", stringify!($theirs));)+
    };
}

#[test]
fn structs_are_those_of_cuda() {
    use cudarc::driver::sys::*;
    same_layout!(Location, CUmemLocation: kind as type_, id as id);
    same_layout!(AllocationProperties, CUmemAllocationProp:
        kind as type_, handle_kinds as requestedHandleTypes, location as location,
        windows as win32HandleMetaData, flags as allocFlags);
    same_layout!(AccessDescription, CUmemAccessDesc: location as location, flags as flags);
    same_layout!(PoolProperties, CUmemPoolProps:
        kind as allocType, handle_kinds as handleTypes, location as location,
        windows as win32SecurityAttributes, max_bytes as maxSize, reserved as usage);
    same_layout!(CopyAttributes, CUmemcpyAttributes:
        source_access as srcAccessOrder, source as srcLocHint, target as dstLocHint,
        flags as flags);
    same_layout!(Copy2dParameters, CUDA_MEMCPY2D:
        source_x_bytes as srcXInBytes, source_y as srcY, source_kind as srcMemoryType,
        source_host as srcHost, source_device as srcDevice, source_array as srcArray,
        source_pitch_bytes as srcPitch, target_x_bytes as dstXInBytes, target_y as dstY,
        target_kind as dstMemoryType, target_host as dstHost, target_device as dstDevice,
        target_array as dstArray, target_pitch_bytes as dstPitch, width_bytes as WidthInBytes,
        height as Height);
    assert_eq!(size_of::<CUdeviceptr>(), size_of::<u64>());
    assert_eq!(size_of::<CUmemGenericAllocationHandle>(), size_of::<u64>());
    assert_eq!(size_of::<CUstream>(), size_of::<u64>());
}

#[test]
fn numbers_are_those_of_cuda() {
    use crate::base::DeviceError;
    use crate::device::cuda::Cuda;
    use crate::device::gpu::vendor::Vendor;
    use cudarc::driver::sys::*;
    same_numbers!(
        LOCATION_DEVICE => CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        ALLOCATION_PINNED => CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        ACCESS_READ_WRITE => CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        GRANULARITY_MINIMUM =>
            CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM,
        SOURCE_IN_STREAM_ORDER =>
            CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
        MEMORY_HOST => CUmemorytype::CU_MEMORYTYPE_HOST,
        MEMORY_DEVICE => CUmemorytype::CU_MEMORYTYPE_DEVICE,
        STREAM_NON_BLOCKING => CUstream_flags::CU_STREAM_NON_BLOCKING,
        EVENT_TIMING => CUevent_flags::CU_EVENT_DEFAULT,
        EVENT_NO_TIMING => CUevent_flags::CU_EVENT_DISABLE_TIMING,
        HOST_PORTABLE => CU_MEMHOSTALLOC_PORTABLE,
        HOST_PORTABLE => CU_MEMHOSTREGISTER_PORTABLE,
        HOST_WRITE_COMBINED => CU_MEMHOSTALLOC_WRITECOMBINED,
        HOST_MAPPED => CU_MEMHOSTALLOC_DEVICEMAP,
        HOST_MAPPED => CU_MEMHOSTREGISTER_DEVICEMAP,
        CAPTURE_RELAXED => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        WAIT_VALUE_AT_LEAST => CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ,
        NO_DEVICE => CUresult::CUDA_ERROR_NO_DEVICE,
        INVALID_DEVICE => CUresult::CUDA_ERROR_INVALID_DEVICE,
        NOT_READY => CUresult::CUDA_ERROR_NOT_READY,
        DeviceError::INVALID_VALUE => CUresult::CUDA_ERROR_INVALID_VALUE,
        DeviceError::OUT_OF_MEMORY => CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        DeviceError::INVALID_HANDLE => CUresult::CUDA_ERROR_INVALID_HANDLE,
        DeviceError::ALREADY_REGISTERED =>
            CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
        DeviceError::NOT_SUPPORTED => CUresult::CUDA_ERROR_NOT_SUPPORTED,
        DeviceError::UNKNOWN => CUresult::CUDA_ERROR_UNKNOWN,
        Cuda::ATTRIBUTES.copy_engines =>
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT,
        Cuda::ATTRIBUTES.virtual_memory =>
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        Cuda::ATTRIBUTES.pools =>
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
        Cuda::ATTRIBUTES.wait_value =>
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS,
    );
}

#[test]
fn structs_are_those_of_hip() {
    use hip_sys::hiprt::*;
    same_layout!(Location, hipMemLocation: kind as type_, id as id);
    same_layout!(AllocationProperties, hipMemAllocationProp:
        kind as type_, handle_kinds as requestedHandleType, location as location,
        windows as win32HandleMetaData, flags as allocFlags);
    same_layout!(AccessDescription, hipMemAccessDesc: location as location, flags as flags);
    // The cap lies in what was reserved before 6.2.
    same_layout!(PoolProperties, hipMemPoolProps:
        kind as allocType, handle_kinds as handleTypes, location as location,
        windows as win32SecurityAttributes, max_bytes as reserved);
    assert_eq!(size_of::<hipDeviceptr_t>(), size_of::<u64>());
    assert_eq!(size_of::<hipMemGenericAllocationHandle_t>(), size_of::<u64>());
    assert_eq!(size_of::<hipStream_t>(), size_of::<u64>());
}

#[test]
fn numbers_are_those_of_hip() {
    use crate::base::DeviceError;
    use crate::device::gpu::vendor::Vendor;
    use crate::device::hip::{
        DEVICE_TO_DEVICE, DEVICE_TO_HOST, HOST_TO_DEVICE, Hip, RELEASE_TO_SYSTEM, WALL_CLOCK_KHZ,
    };
    use hip_sys::hiprt::*;
    same_numbers!(
        LOCATION_DEVICE => hipMemLocationType::hipMemLocationTypeDevice,
        ALLOCATION_PINNED => hipMemAllocationType::hipMemAllocationTypePinned,
        ACCESS_READ_WRITE => hipMemAccessFlags::hipMemAccessFlagsProtReadWrite,
        GRANULARITY_MINIMUM =>
            hipMemAllocationGranularity_flags::hipMemAllocationGranularityMinimum,
        STREAM_NON_BLOCKING => hipStreamNonBlocking,
        EVENT_TIMING => hipEventDefault,
        EVENT_NO_TIMING => hipEventDisableTiming,
        RELEASE_TO_SYSTEM => hipEventReleaseToSystem,
        HOST_PORTABLE => hipHostMallocPortable,
        HOST_PORTABLE => hipHostRegisterPortable,
        HOST_WRITE_COMBINED => hipHostMallocWriteCombined,
        HOST_MAPPED => hipHostMallocMapped,
        HOST_MAPPED => hipHostRegisterMapped,
        CAPTURE_RELAXED => hipStreamCaptureMode::hipStreamCaptureModeRelaxed,
        WAIT_VALUE_AT_LEAST => hipStreamWaitValueGte,
        HOST_TO_DEVICE => hipMemcpyKind::hipMemcpyHostToDevice,
        DEVICE_TO_HOST => hipMemcpyKind::hipMemcpyDeviceToHost,
        DEVICE_TO_DEVICE => hipMemcpyKind::hipMemcpyDeviceToDevice,
        NO_DEVICE => hipError_t::hipErrorNoDevice,
        INVALID_DEVICE => hipError_t::hipErrorInvalidDevice,
        NOT_READY => hipError_t::hipErrorNotReady,
        DeviceError::INVALID_VALUE => hipError_t::hipErrorInvalidValue,
        DeviceError::OUT_OF_MEMORY => hipError_t::hipErrorOutOfMemory,
        DeviceError::INVALID_HANDLE => hipError_t::hipErrorInvalidHandle,
        DeviceError::ALREADY_REGISTERED => hipError_t::hipErrorHostMemoryAlreadyRegistered,
        DeviceError::NOT_SUPPORTED => hipError_t::hipErrorNotSupported,
        DeviceError::UNKNOWN => hipError_t::hipErrorUnknown,
        Hip::ATTRIBUTES.copy_engines => hipDeviceAttribute_t::hipDeviceAttributeAsyncEngineCount,
        Hip::ATTRIBUTES.virtual_memory =>
            hipDeviceAttribute_t::hipDeviceAttributeVirtualMemoryManagementSupported,
        Hip::ATTRIBUTES.pools => hipDeviceAttribute_t::hipDeviceAttributeMemoryPoolsSupported,
        Hip::ATTRIBUTES.wait_value =>
            hipDeviceAttribute_t::hipDeviceAttributeCanUseStreamWaitValue,
        WALL_CLOCK_KHZ => hipDeviceAttribute_t::hipDeviceAttributeWallClockRate,
    );
}
