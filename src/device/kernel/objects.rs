//! The device code as drivers take it, made by `scripts/make-kernels` from `kernels/`.

use std::ffi::CStr;

/// The code as PTX, for `cuModuleLoadData`: of so old a version that every driver takes it.
#[allow(dead_code, reason = "for the drivers of real devices")]
pub(in crate::device) const fn ptx() -> &'static CStr {
    const TEXT: &[u8] = concat!(include_str!("../../../kernels/gen/riverbed.ptx"), "\0").as_bytes();
    const PTX: &CStr = match CStr::from_bytes_with_nul(TEXT) {
        Ok(text) => text,
        Err(_) => panic!("the text holds a zero"),
    };
    PTX
}

/// The code for an AMD GPU, for `hipModuleLoadData`: an ELF file. `arch` is the device's
/// `gcnArchName`, of which only the part before the first colon counts: the code is for any
/// setting of the features behind it. `None` for a GPU nothing was made for.
///
/// Where there is no code for the very GPU there may be one for its family, which only ROCm 6.3
/// and newer load.
#[allow(dead_code, reason = "for the drivers of real devices")]
pub(in crate::device) fn code_object(arch: &str) -> Option<&'static [u8]> {
    let name = arch.split(':').next().unwrap_or_default();
    let of = |wanted: &str| OBJECTS.iter().find(|(target, _)| *target == wanted);
    let object = of(name).or_else(|| of(family(name)?));
    object.map(|&(_, object)| object)
}

/// The generic target that covers a GPU, as in LLVM's "User Guide for AMDGPU Backend".
fn family(name: &str) -> Option<&'static str> {
    Some(match name {
        "gfx900" | "gfx902" | "gfx904" | "gfx906" | "gfx909" | "gfx90c" => "gfx9-generic",
        "gfx1010" | "gfx1011" | "gfx1012" | "gfx1013" => "gfx10-1-generic",
        "gfx1030" | "gfx1031" | "gfx1032" | "gfx1033" | "gfx1034" | "gfx1035" | "gfx1036" => {
            "gfx10-3-generic"
        }
        "gfx1100" | "gfx1101" | "gfx1102" | "gfx1103" | "gfx1150" | "gfx1151" | "gfx1152"
        | "gfx1153" => "gfx11-generic",
        "gfx1200" | "gfx1201" => "gfx12-generic",
        _ => return None,
    })
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

    fn target(arch: &str) -> Option<&'static str> {
        let object = code_object(arch)?;
        OBJECTS.iter().find(|(_, other)| std::ptr::eq(*other, object)).map(|&(target, _)| target)
    }

    #[test]
    fn a_gpu_gets_its_own_code_or_its_familys() {
        assert_eq!(target("gfx90a:sramecc+:xnack-"), Some("gfx90a"));
        assert_eq!(target("gfx1030"), Some("gfx1030"));
        assert_eq!(target("gfx1032"), Some("gfx10-3-generic"));
        assert_eq!(target("gfx900:xnack-"), Some("gfx9-generic"));
        assert_eq!(target("gfx1151"), Some("gfx11-generic"));
        for unknown in ["", "gfx803", "gfx90", "gfx9-generic2", "gfx950"] {
            assert_eq!(target(unknown), None, "{unknown}");
        }
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
