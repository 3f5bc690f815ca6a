//! The check that an export takes what the published binding passes.

use std::ffi::{c_char, c_void};

use cudarc::driver::sys;
use riverbed_fake_core::{In, InOut, Out, Untyped};

use crate::structs;

/// A published type that is passed just as `Mine` is.
pub(crate) trait SameAbi<Mine> {}

/// Stands for the argument a caller would pass; never called.
pub(crate) fn published<Mine, Published: SameAbi<Mine>>(_mine: Mine) -> Published {
    unreachable!("only its type is looked at")
}

macro_rules! same {
    ($($published:ty => $mine:ty),+ $(,)?) => {$(
        impl SameAbi<$mine> for $published {}
        const _: () = assert!(size_of::<$mine>() == size_of::<$published>());
        const _: () = assert!(align_of::<$mine>() == align_of::<$published>());
    )+};
}

same! {
    i32 => i32,
    u32 => u32,
    u64 => u64,
    usize => usize,
    u8 => u8,
    f32 => f32,
    c_char => c_char,
    sys::CUuuid => structs::Uuid,
    sys::CUhostFn => structs::HostFunction,
    sys::CUresult => u32,
    sys::CUdevice_attribute => u32,
    sys::CUpointer_attribute => u32,
    sys::CUmemPool_attribute => u32,
    sys::CUmemAllocationGranularity_flags => u32,
    sys::CUstreamCaptureStatus => u32,
    sys::CUstreamCaptureMode => u32,
    sys::CUmemAllocationProp => structs::AllocationProperties,
    sys::CUmemAccessDesc => structs::Access,
    sys::CUmemPoolProps => structs::PoolProperties,
    sys::CUmemcpyAttributes => structs::CopyAttributes,
    sys::CUDA_MEMCPY2D => structs::Copy2d,
}

// Text and parameters behind untyped pointers.
impl SameAbi<c_char> for c_void {}
impl SameAbi<u64> for c_void {}

// Handles and addresses are numbers to the fake.
impl<T> SameAbi<u64> for *mut T {}
impl<T> SameAbi<u64> for *const T {}
impl<T> SameAbi<Untyped> for *mut T {}
impl<T: SameAbi<U>, U> SameAbi<Out<U>> for *mut T {}
impl<T: SameAbi<U>, U> SameAbi<InOut<U>> for *mut T {}
impl<T: SameAbi<U>, U> SameAbi<In<U>> for *mut T {}
impl<T: SameAbi<U>, U> SameAbi<In<U>> for *const T {}
impl<T> SameAbi<*const T> for *const T {}

macro_rules! same_offsets {
    ($($published:ty, $mine:ty: $($theirs:ident => $ours:ident),+;)+) => {$($(
        const _: () = assert!(
            std::mem::offset_of!($published, $theirs) == std::mem::offset_of!($mine, $ours)
        );
    )+)+};
}

same_offsets! {
    sys::CUmemAllocationProp, structs::AllocationProperties:
        type_ => kind, requestedHandleTypes => handle_types, location => location;
    sys::CUmemAccessDesc, structs::Access: location => location, flags => flags;
    sys::CUmemPoolProps, structs::PoolProperties:
        allocType => kind, location => location, maxSize => max_bytes;
    sys::CUmemcpyAttributes, structs::CopyAttributes:
        srcAccessOrder => order, srcLocHint => src, dstLocHint => dst, flags => flags;
    sys::CUDA_MEMCPY2D, structs::Copy2d:
        srcXInBytes => src_x, srcY => src_y, srcMemoryType => src_type, srcHost => src_host,
        srcDevice => src_device, srcPitch => src_pitch, dstXInBytes => dst_x, dstY => dst_y,
        dstMemoryType => dst_type, dstHost => dst_host, dstDevice => dst_device,
        dstPitch => dst_pitch, WidthInBytes => width, Height => height;
}
