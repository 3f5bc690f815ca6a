//! The device code as drivers take it, made by `scripts/make-kernels` from `kernels/`.

use std::ffi::CStr;

/// The code as PTX, for `cuModuleLoadData`: of so old a version that every driver takes it.
pub(in crate::device) fn ptx() -> &'static CStr {
    const TEXT: &str = concat!(include_str!("../../../kernels/gen/riverbed.ptx"), "\0");
    match CStr::from_bytes_with_nul(TEXT.as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    }
}

/// The code for AMD GPUs, for `hipModuleLoadData`: the target and an ELF file for it. The
/// runtime refuses one that was made for another GPU.
pub(in crate::device) fn code_objects() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    OBJECTS.iter().copied()
}

/// Target and code object.
static OBJECTS: &[(&str, &[u8])] = &[];
