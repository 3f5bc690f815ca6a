//! The names modes are asked for by. One table; a new mode is a row in it.

use crate::base::{Error, Result};
use crate::conf::suggest;

use super::limit::VramLimit;
use super::options;
use super::presets::{Group, Mode, ModeKind, PARTIAL_WORKING_BYTES};
use super::system::System;

/// A row of the table of modes.
#[derive(Debug, Clone, Copy)]
pub struct ModeName {
    /// The mode's name, with a system in front where the bare name means different things.
    pub name: &'static str,
    /// The systems that know the bare name in this meaning; any of them may stand in front.
    pub systems: &'static [System],
    /// What may stand behind `=`; empty where nothing may.
    pub options: &'static str,
    /// What the mode does, in a sentence.
    pub about: &'static str,
    kind: ModeKind,
}

impl ModeName {
    /// The name without a system.
    #[must_use]
    pub fn bare(&self) -> &'static str {
        self.name.split_once(':').map_or(self.name, |(_, bare)| bare)
    }
}

/// Builds a row.
const fn row(
    name: &'static str,
    systems: &'static [System],
    options: &'static str,
    kind: ModeKind,
    about: &'static str,
) -> ModeName {
    ModeName { name, systems, options, about, kind }
}

const PARTIAL: ModeKind = ModeKind::Partial { working_bytes: PARTIAL_WORKING_BYTES };
const GROUP: ModeKind = ModeKind::Group(Group { blocks: None, stream: true });
const HF: &[System] = &[System::Diffusers, System::Sdnext];

#[rustfmt::skip]
const NAMES: &[ModeName] = &[
    row("auto", &[], "", ModeKind::Auto,
        "the fastest plan within the limit"),
    row("none", System::ALL, "", ModeKind::Whole,
        "all weights stay on the device, or the job is refused"),
    row("model", HF, "", ModeKind::Components,
        "components take turns on the device, each whole"),
    row("sequential", HF, "", ModeKind::Leaves,
        "nothing stays; tensors are streamed, two in flight"),
    row("group", HF, "leaf|BLOCKS[,stream|no-stream]", GROUP,
        "nothing stays; tensors or groups of layers are streamed"),
    row("balanced", &[System::Sdnext], "LOW,HIGH", ModeKind::Balanced(None),
        "components stay between two watermarks (fractions of the card, or sizes)"),
    row("partial", &[System::Invoke], "WORKING_GIB", PARTIAL,
        "weights take what is free, less memory to work in"),
    row("a1111:medvram", &[System::A1111], "", ModeKind::Components,
        "text encoder, UNet and VAE take turns on the device, each whole"),
    row("sdnext:medvram", &[System::Sdnext], "", ModeKind::BalancedFromZero,
        "as balanced, with the low watermark at 0"),
    row("medvram-sdxl", &[System::A1111], "", ModeKind::ComponentsIfSdxl,
        "as a1111:medvram if the model is SDXL, else as none"),
    row("a1111:lowvram", &[System::A1111], "", ModeKind::Layers,
        "nothing stays; blocks are streamed, two in flight"),
    row("sdnext:lowvram", &[System::Sdnext], "", ModeKind::Leaves,
        "as sequential"),
    row("vram_limit", &[System::Diffsynth], "GIB|none", ModeKind::Limit(VramLimit::Measured),
        "a cap in GiB: 0 is the smallest plan that runs, none is what is free"),
    row("disk", &[System::Diffsynth], "", ModeKind::Disk,
        "weights are read from disk in every pass"),
];

impl Mode {
    /// All modes, for `--help`.
    #[must_use]
    pub fn all() -> &'static [ModeName] {
        NAMES
    }

    /// Reads a mode's name, with its system in front (`sdnext:medvram`) where systems differ,
    /// and its options behind (`balanced=0.2,0.6`, `group=4,no-stream`, `vram_limit=10`).
    /// Letter case matters for nothing, and `-` is as good as `_`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: a name with several meanings is refused naming each; an
    /// unknown one with those near it.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, options) = match text.split_once('=') {
            Some((name, options)) => (name, Some(options)),
            None => (text, None),
        };
        let row = find(name.trim())?;
        let kind = match options {
            Some(options) => options::read(row, row.kind, options.trim())?,
            None => row.kind,
        };
        Ok(Self { name: row.name, kind })
    }

    /// The mode with a kind of the caller's: for config files, whose keys say more than a name.
    pub(super) fn with_kind(self, kind: ModeKind) -> Self {
        Self { kind, ..self }
    }
}

/// The mode of this row of the table, by its whole name; `auto` for a name that has none.
pub(super) fn mode(name: &str) -> Mode {
    let row = NAMES.iter().find(|row| row.name == name);
    row.map_or_else(Mode::auto, |row| Mode { name: row.name, kind: row.kind })
}

fn find(given: &str) -> Result<&'static ModeName> {
    let plain = plain(given);
    let (system, bare) = match plain.split_once(':') {
        Some((system, bare)) => (Some(System::parse(system)?), bare),
        None => (None, plain.as_str()),
    };
    let named: Vec<&ModeName> =
        NAMES.iter().filter(|row| self::plain(row.bare()) == bare).collect();
    let meant: Vec<&&ModeName> =
        named.iter().filter(|row| system.is_none_or(|s| row.systems.contains(&s))).collect();
    match (meant.as_slice(), named.as_slice()) {
        ([row], _) => Ok(row),
        ([], []) => Err(unknown(given, bare)),
        ([], rows) => Err(Error::invalid(
            "mode",
            given,
            format!("'{bare}' is not of that system; write {}", names(rows)),
        )),
        (_, rows) => {
            let meanings = rows.iter().map(|row| format!("{} ({})", row.name, row.about));
            let expected = format!(
                "it means different things; write {}",
                meanings.collect::<Vec<_>>().join(" or ")
            );
            Err(Error::invalid("mode", given, expected))
        }
    }
}

fn unknown(given: &str, bare: &str) -> Error {
    let hint = suggest::nearest(bare, NAMES.iter().map(ModeName::bare))
        .map(|near| {
            let rows: Vec<&ModeName> = NAMES.iter().filter(|row| row.bare() == near).collect();
            format!("did you mean {}? ", names(&rows))
        })
        .unwrap_or_default();
    let all = names(&NAMES.iter().collect::<Vec<_>>());
    Error::invalid("mode", given, format!("{hint}modes are {all}"))
}

fn names(rows: &[&ModeName]) -> String {
    rows.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

/// A name as it is compared.
fn plain(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str) -> String {
        Mode::parse(name).unwrap_err().to_string()
    }

    #[test]
    fn every_name_reads_back_bare_or_qualified() {
        for row in Mode::all() {
            assert_eq!(Mode::parse(row.name).unwrap().name(), row.name);
            for system in row.systems {
                let qualified = format!("{system}:{}", row.bare());
                assert_eq!(Mode::parse(&qualified).unwrap().name(), row.name, "{qualified}");
            }
        }
    }

    #[test]
    fn a_bare_name_with_two_meanings_is_refused_naming_both() {
        for bare in ["medvram", "LowVRAM"] {
            let error = error(bare);
            let lower = bare.to_lowercase();
            assert!(error.contains(&format!("a1111:{lower}")), "{error}");
            assert!(error.contains(&format!("sdnext:{lower}")), "{error}");
        }
    }

    #[test]
    fn spelling_is_lenient() {
        for (text, name) in [
            ("InvokeAI:partial", "partial"),
            ("VRAM-limit", "vram_limit"),
            ("A1111:medvram_sdxl", "medvram-sdxl"),
            (" auto ", "auto"),
        ] {
            assert_eq!(Mode::parse(text).unwrap().name(), name);
        }
    }

    #[test]
    fn unknown_names_are_told_what_is_near() {
        assert!(error("balansed").contains("did you mean balanced?"));
        assert!(error("lowvran").contains("did you mean a1111:lowvram, sdnext:lowvram?"));
        assert!(error("zzz").contains("modes are auto, none"));
        assert!(error("invoke:balanced").contains("not of that system"));
        assert!(error("").contains("modes are"));
    }
}
