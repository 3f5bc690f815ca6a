//! The status numbers CUDA and HIP share, with their names.

/// A status other than success.
pub type Status = u32;
/// What a call inside the model gives.
pub type Answer<T = ()> = Result<T, Status>;

macro_rules! statuses {
    ($($number:literal $constant:ident $cuda:literal $hip:literal $text:literal)*) => {
        $(
            #[doc = $text]
            pub const $constant: Status = $number;
        )*

        /// The names of a status: CUDA's, HIP's, and in words, each with a final zero byte.
        pub fn describe(status: u32) -> Option<(&'static str, &'static str, &'static str)> {
            match status {
                $($number => Some((
                    concat!($cuda, "\0"),
                    concat!($hip, "\0"),
                    concat!($text, "\0"),
                )),)*
                _ => None,
            }
        }
    };
}

statuses! {
    0 SUCCESS "CUDA_SUCCESS" "hipSuccess" "no error"
    1 INVALID_VALUE "CUDA_ERROR_INVALID_VALUE" "hipErrorInvalidValue" "invalid argument"
    2 OUT_OF_MEMORY "CUDA_ERROR_OUT_OF_MEMORY" "hipErrorOutOfMemory" "out of memory"
    3 NOT_INITIALIZED "CUDA_ERROR_NOT_INITIALIZED" "hipErrorNotInitialized" "initialization error"
    4 DEINITIALIZED "CUDA_ERROR_DEINITIALIZED" "hipErrorDeinitialized" "driver shutting down"
    100 NO_DEVICE "CUDA_ERROR_NO_DEVICE" "hipErrorNoDevice" "no capable device is detected"
    101 INVALID_DEVICE "CUDA_ERROR_INVALID_DEVICE" "hipErrorInvalidDevice" "invalid device ordinal"
    200 INVALID_IMAGE "CUDA_ERROR_INVALID_IMAGE" "hipErrorInvalidImage" "device kernel image is invalid"
    201 INVALID_CONTEXT "CUDA_ERROR_INVALID_CONTEXT" "hipErrorInvalidContext" "invalid device context"
    209 NO_BINARY "CUDA_ERROR_NO_BINARY_FOR_GPU" "hipErrorNoBinaryForGpu" "no kernel image is available for the device"
    218 INVALID_PTX "CUDA_ERROR_INVALID_PTX" "hipErrorInvalidKernelFile" "a PTX JIT compilation failed"
    222 PTX_VERSION "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" "hipErrorUnknown" "the PTX was made by a newer toolchain"
    400 INVALID_HANDLE "CUDA_ERROR_INVALID_HANDLE" "hipErrorInvalidHandle" "invalid resource handle"
    401 ILLEGAL_STATE "CUDA_ERROR_ILLEGAL_STATE" "hipErrorIllegalState" "the operation cannot be performed in the present state"
    500 NOT_FOUND "CUDA_ERROR_NOT_FOUND" "hipErrorNotFound" "named symbol not found"
    600 NOT_READY "CUDA_ERROR_NOT_READY" "hipErrorNotReady" "device not ready"
    700 ILLEGAL_ADDRESS "CUDA_ERROR_ILLEGAL_ADDRESS" "hipErrorIllegalAddress" "an illegal memory access was encountered"
    704 PEER_ALREADY_ENABLED "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED" "hipErrorPeerAccessAlreadyEnabled" "peer access is already enabled"
    708 CONTEXT_ACTIVE "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE" "hipErrorSetOnActiveProcess" "the primary context is active"
    709 CONTEXT_DESTROYED "CUDA_ERROR_CONTEXT_IS_DESTROYED" "hipErrorContextIsDestroyed" "context is destroyed"
    712 ALREADY_REGISTERED "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED" "hipErrorHostMemoryAlreadyRegistered" "part or all of the requested memory range is already mapped"
    713 NOT_REGISTERED "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED" "hipErrorHostMemoryNotRegistered" "pointer does not correspond to a registered memory region"
    719 LAUNCH_FAILED "CUDA_ERROR_LAUNCH_FAILED" "hipErrorLaunchFailure" "unspecified launch failure"
    800 NOT_PERMITTED "CUDA_ERROR_NOT_PERMITTED" "hipErrorNotPermitted" "operation not permitted"
    801 NOT_SUPPORTED "CUDA_ERROR_NOT_SUPPORTED" "hipErrorNotSupported" "operation not supported"
    900 CAPTURE_UNSUPPORTED "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" "hipErrorStreamCaptureUnsupported" "operation not permitted when stream is capturing"
    901 CAPTURE_INVALIDATED "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" "hipErrorStreamCaptureInvalidated" "operation failed due to a previous error during capture"
    903 CAPTURE_UNMATCHED "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED" "hipErrorStreamCaptureUnmatched" "capture was not ended in the same stream as it began"
    904 CAPTURE_UNJOINED "CUDA_ERROR_STREAM_CAPTURE_UNJOINED" "hipErrorStreamCaptureUnjoined" "capturing stream has unjoined work"
    905 CAPTURE_ISOLATION "CUDA_ERROR_STREAM_CAPTURE_ISOLATION" "hipErrorStreamCaptureIsolation" "dependency created on uncaptured work in another stream"
    906 CAPTURE_IMPLICIT "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT" "hipErrorStreamCaptureImplicit" "operation would make the legacy stream depend on a capturing blocking stream"
    907 CAPTURED_EVENT "CUDA_ERROR_CAPTURED_EVENT" "hipErrorCapturedEvent" "operation not permitted on an event last recorded in a capturing stream"
    908 CAPTURE_WRONG_THREAD "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD" "hipErrorStreamCaptureWrongThread" "attempt to terminate a thread-local capture sequence from another thread"
    999 UNKNOWN "CUDA_ERROR_UNKNOWN" "hipErrorUnknown" "unknown error"
}
