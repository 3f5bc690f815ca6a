//! AMD code objects: ELF files, each for one target. Read as far as a loader must: whom it is
//! for, and which kernels it holds.

use riverbed_fake_core::status::INVALID_IMAGE;
use riverbed_fake_core::{Answer, In, bytes, misuse};

/// A code object.
#[derive(Debug)]
pub(crate) struct CodeObject {
    target: Option<&'static str>,
    pub(crate) functions: Vec<String>,
}

/// Targets by the low byte of the flags in the header (LLVM's `EF_AMDGPU_MACH`).
const TARGETS: &[(u32, &str)] = &[
    (0x2f, "gfx906"),
    (0x30, "gfx908"),
    (0x3f, "gfx90a"),
    (0x4c, "gfx942"),
    (0x36, "gfx1030"),
    (0x41, "gfx1100"),
    (0x46, "gfx1101"),
    (0x47, "gfx1102"),
    (0x48, "gfx1200"),
    (0x4e, "gfx1201"),
    (0x51, "gfx9-generic"),
    (0x52, "gfx10-1-generic"),
    (0x53, "gfx10-3-generic"),
    (0x54, "gfx11-generic"),
    (0x59, "gfx12-generic"),
];

const HEADER_BYTES: usize = 64;
const SECTION_BYTES: usize = 64;
const AMDGPU: u16 = 224;
const SYMBOL_BYTES: usize = 24;
const DYNAMIC_SYMBOLS: u32 = 11;

impl CodeObject {
    /// Reads a code object, whose length its header tells.
    pub(crate) fn read(image: In<u8>) -> Answer<Self> {
        let broken = || misuse("invalid_argument", "no AMD code object", INVALID_IMAGE);
        let header = bytes(image, HEADER_BYTES)?;
        if header[..4] != *b"\x7fELF" || half(&header, 18) != Some(AMDGPU) {
            return Err(broken());
        }
        let sections_at = long(&header, 40).ok_or_else(broken)? as usize;
        let count = usize::from(half(&header, 60).ok_or_else(broken)?);
        let file = bytes(image, sections_at + count * SECTION_BYTES)?;
        let flags = word(&header, 48).ok_or_else(broken)?;
        let target = TARGETS.iter().find(|(number, _)| *number == flags & 0xff);
        let functions = functions(&file, sections_at, count).ok_or_else(broken)?;
        Ok(Self { target: target.map(|(_, name)| *name), functions })
    }

    /// Whether it is for that GPU, or for its family.
    pub(crate) fn runs_on(&self, gpu: &str) -> bool {
        self.target.is_some_and(|target| {
            let family = match gpu {
                "gfx906" => "gfx9-generic",
                "gfx1010" => "gfx10-1-generic",
                "gfx1030" | "gfx1032" => "gfx10-3-generic",
                _ if gpu.starts_with("gfx11") => "gfx11-generic",
                _ if gpu.starts_with("gfx12") => "gfx12-generic",
                _ => "",
            };
            target == gpu || target == family
        })
    }
}

/// Names of the kernels: each has a descriptor, called as it is with `.kd` behind.
fn functions(file: &[u8], sections_at: usize, count: usize) -> Option<Vec<String>> {
    let section = |index: usize| file.get(sections_at + index * SECTION_BYTES..);
    let mut names = Vec::new();
    for index in 0..count {
        let symbols = section(index)?;
        if word(symbols, 4)? != DYNAMIC_SYMBOLS {
            continue;
        }
        let names_at = long(section(word(symbols, 40)? as usize)?, 24)? as usize;
        let (at, bytes) = (long(symbols, 24)? as usize, long(symbols, 32)? as usize);
        for symbol in file.get(at..at + bytes)?.chunks_exact(SYMBOL_BYTES) {
            let name = file.get(names_at + word(symbol, 0)? as usize..)?;
            let name = name.split(|&byte| byte == 0).next()?;
            let name = String::from_utf8_lossy(name);
            names.extend(name.strip_suffix(".kd").map(str::to_string));
        }
    }
    Some(names)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
