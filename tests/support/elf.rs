//! As much of ELF as tells what GPU a code object is for and what it defines, and what libraries
//! a program is linked with.
// Each test crate compiles this file for itself and uses a part of it.
#![allow(dead_code)]

/// A 64-bit little-endian ELF file.
pub(crate) struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        assert_eq!(bytes[..6], *b"\x7fELF\x02\x01", "no 64-bit little-endian ELF file");
        Self(bytes)
    }

    /// The system it is for, and that system's version of the format.
    pub(crate) fn abi(&self) -> (u8, u8) {
        (self.0[7], self.0[8])
    }

    /// The machine it is for.
    pub(crate) fn machine(&self) -> u16 {
        self.number(18, 2) as u16
    }

    /// The machine's own flags.
    pub(crate) fn flags(&self) -> u32 {
        self.number(48, 4) as u32
    }

    /// Names of the symbols that others can see, with the size of what they name in bytes.
    pub(crate) fn symbols(&self) -> Vec<(String, u64)> {
        const DYNSYM: u64 = 11;
        let symbols = self.sections().into_iter().find(|section| section.kind == DYNSYM);
        let symbols = symbols.expect("it has a table of symbols");
        let names = &self.sections()[symbols.link];
        (symbols.start..symbols.start + symbols.bytes)
            .step_by(24)
            .skip(1)
            .map(|at| {
                (self.text(names.start + self.number(at, 4) as usize), self.number(at + 16, 8))
            })
            .collect()
    }

    /// Names of the libraries that the loader must find.
    pub(crate) fn needed(&self) -> Vec<String> {
        const DYNAMIC: u64 = 6;
        const NEEDED: u64 = 1;
        let sections = self.sections();
        let Some(dynamic) = sections.iter().find(|section| section.kind == DYNAMIC) else {
            return Vec::new();
        };
        let names = &sections[dynamic.link];
        (dynamic.start..dynamic.start + dynamic.bytes)
            .step_by(16)
            .filter(|&at| self.number(at, 8) == NEEDED)
            .map(|at| self.text(names.start + self.number(at + 8, 8) as usize))
            .collect()
    }

    fn sections(&self) -> Vec<Section> {
        let (table, size, count) = (self.number(40, 8), self.number(58, 2), self.number(60, 2));
        (0..count)
            .map(|i| (table + i * size) as usize)
            .map(|at| Section {
                kind: self.number(at + 4, 4),
                start: self.number(at + 24, 8) as usize,
                bytes: self.number(at + 32, 8) as usize,
                link: self.number(at + 40, 4) as usize,
            })
            .collect()
    }

    fn number(&self, at: usize, bytes: usize) -> u64 {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&self.0[at..at + bytes]);
        u64::from_le_bytes(number)
    }

    fn text(&self, at: usize) -> String {
        let text = self.0[at..].split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

struct Section {
    kind: u64,
    start: usize,
    bytes: usize,
    link: usize,
}
