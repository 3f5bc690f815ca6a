//! The device code as drivers take it, made by `scripts/make-kernels` from `kernels/`.

use std::ffi::CStr;

/// The code as PTX, for `cuModuleLoadData`: of so old a version that every driver takes it.
#[allow(dead_code, reason = "for the drivers of real devices")]
pub(in crate::device) fn ptx() -> &'static CStr {
    const TEXT: &str = concat!(include_str!("../../../kernels/gen/riverbed.ptx"), "\0");
    match CStr::from_bytes_with_nul(TEXT.as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    }
}

/// The code for an AMD GPU, for `hipModuleLoadData`: an ELF file. `arch` is the device's
/// `gcnArchName`, of which only the part before the first colon counts. `None` for a GPU
/// nothing was made for.
#[allow(dead_code, reason = "for the drivers of real devices")]
pub(in crate::device) fn code_object(arch: &str) -> Option<&'static [u8]> {
    let name = arch.split(':').next().unwrap_or_default();
    OBJECTS.iter().find(|(target, _)| *target == name).map(|&(_, object)| object)
}

/// Target and code object.
static OBJECTS: &[(&str, &[u8])] = &[];
