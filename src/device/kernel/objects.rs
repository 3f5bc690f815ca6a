//! The device code as drivers take it, made by `scripts/make-kernels` from `kernels/`.

use std::ffi::CStr;

/// The code as PTX, for `cuModuleLoadData`: of so old a version that every driver takes it.
pub(in crate::device) const fn ptx() -> &'static CStr {
    const TEXT: &[u8] = concat!(include_str!("../../../kernels/gen/riverbed.ptx"), "\0").as_bytes();
    const PTX: &CStr = match CStr::from_bytes_with_nul(TEXT) {
        Ok(text) => text,
        // When this is compiled, and never in a program: PTX is a constant.
        Err(_) => panic!("the text holds a zero"),
    };
    PTX
}

/// The code for AMD GPUs, for `hipModuleLoadData`: the target and an ELF file for it. That for
/// one GPU goes before that for a family, which only ROCm 6.3 and newer load. The runtime
/// refuses code for another GPU, so that nobody needs to know which GPU it is: the struct that
/// says so has changed its layout between versions.
pub(in crate::device) fn code_objects() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    OBJECTS.iter().copied()
}

macro_rules! objects {
    ($($target:literal),+ $(,)?) => {
        &[$((
            $target,
            include_bytes!(concat!("../../../kernels/gen/", $target, ".hsaco")),
        )),+]
    };
}

/// Target and code object.
static OBJECTS: &[(&str, &[u8])] = objects![
    "gfx906",
    "gfx908",
    "gfx90a",
    "gfx942",
    "gfx1030",
    "gfx1100",
    "gfx1101",
    "gfx1102",
    "gfx1200",
    "gfx1201",
    "gfx9-generic",
    "gfx10-1-generic",
    "gfx10-3-generic",
    "gfx11-generic",
    "gfx12-generic",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_for_a_family_comes_last() {
        let generic = |(target, _): &(&str, _)| target.ends_with("-generic");
        let first = OBJECTS.iter().position(generic).unwrap();
        assert!(OBJECTS[first..].iter().all(generic));
    }

    #[test]
    fn the_ptx_is_text_to_its_end() {
        let text = ptx().to_str().unwrap_or_default();
        assert!(text.starts_with(".version 4.3"));
        assert!(text.trim_end().ends_with('}'));
    }

    #[test]
    fn every_product_is_embedded() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/gen");
        let mut objects = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "hsaco") {
                let target = path.file_stem().unwrap().to_str().unwrap();
                assert!(OBJECTS.iter().any(|(other, _)| *other == target), "{target}");
                objects += 1;
            }
        }
        assert_eq!(objects, OBJECTS.len());
    }
}
