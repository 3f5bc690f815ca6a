//! Config files of other systems, and this crate's own section, into [`OffloadSettings`].
//!
//! Keys and units are as in the system they come from; which system that is, the keys say. A
//! section (or table) `riverbed` is this crate's own and goes over the rest. Keys that have
//! nothing to do with offload are ignored with one warning that names them.

mod a1111;
mod diffsynth;
mod invoke;
mod keys;
mod own;
mod read;
mod sdnext;
#[cfg(feature = "config")]
mod yaml;

use std::path::Path;

use crate::base::{Error, FileError, Result};

use super::presets::Mode;
use super::settings::OffloadSettings;
use super::system::System;
use keys::{Keys, listed};
pub use read::ConfigFormat;

/// Flags two systems have under one name, with different meanings.
const FLAGS_OF_TWO: &[&str] = &["medvram", "lowvram"];

/// Reads a config file: YAML (`.yaml`, `.yml`), TOML (`.toml`), JSON (`.json`), or a script with
/// `COMMANDLINE_ARGS` (`.sh`, `.bat`). YAML and TOML need the feature `config`.
///
/// # Errors
/// [`Error::File`] with the path: it cannot be read, has a form that is not known, or a key has
/// a value that is not allowed; keys contradict each other, or are of more than one system.
pub fn settings_from_file(path: impl AsRef<Path>) -> Result<OffloadSettings> {
    let path = path.as_ref();
    let named = |error: Error| match error {
        Error::File(error) => Error::File(error),
        error => FileError::new(path, error.to_string()).into(),
    };
    let format = ConfigFormat::of(path).map_err(named)?;
    let text = read::text(path)?;
    settings_from_text(&text, format).map_err(named)
}

/// As [`settings_from_file`], from text.
///
/// # Errors
/// [`Error::InvalidArgument`] that names the key, its value and what is allowed;
/// [`Error::Unsupported`] for YAML and TOML without the feature `config`.
///
/// ```
/// use riverbed::modes::{ConfigFormat, settings_from_text};
/// let json = r#"{"enable_partial_loading": true, "device_working_mem_gb": 4, "ram": 12}"#;
/// let settings = settings_from_text(json, ConfigFormat::Json)?;
/// assert_eq!(settings.mode.name(), "partial");
/// assert_eq!(settings.working_bytes, Some(4 << 30));
/// assert!(settings.warnings[0].contains("max_cache_ram_gb"));
/// # Ok::<(), riverbed::Error>(())
/// ```
pub fn settings_from_text(text: &str, format: ConfigFormat) -> Result<OffloadSettings> {
    let mut keys = Keys::new(read::map(text, format)?);
    let mut own = keys.section("riverbed")?;
    let mut settings = match system_of(&keys, own.as_mut())? {
        Some(System::A1111) => a1111::read(&mut keys)?,
        Some(System::Sdnext) => sdnext::read(&mut keys)?,
        Some(System::Invoke) => invoke::read(&mut keys)?,
        Some(System::Diffsynth) => diffsynth::read(&mut keys)?,
        Some(System::Diffusers) => {
            let expected = "diffusers has no config file of its own; write the mode";
            return Err(Error::invalid("system", System::Diffusers, expected));
        }
        None => OffloadSettings::of(None, Mode::auto()),
    };
    if let Some(own) = own {
        own::read(own, &mut settings)?;
    }
    let ignored = keys.rest();
    if !ignored.is_empty() {
        let names = listed(&ignored);
        settings.warnings.push(format!("keys that are not about offload are ignored: {names}"));
    }
    Ok(settings)
}

/// The system the keys are of; the section of our own may say.
fn system_of(keys: &Keys, own: Option<&mut Keys>) -> Result<Option<System>> {
    let said = match own {
        Some(own) => own.text("system")?.map(|text| System::parse(&text)).transpose()?,
        None => None,
    };
    if said.is_some() {
        return Ok(said);
    }
    let found: Vec<(System, Vec<&str>)> = [
        (System::A1111, a1111::KEYS),
        (System::Diffsynth, diffsynth::KEYS),
        (System::Invoke, invoke::KEYS),
        (System::Sdnext, sdnext::KEYS),
    ]
    .into_iter()
    .map(|(system, names)| (system, keys.present(names)))
    .filter(|(_, present)| !present.is_empty())
    .collect();
    match found.as_slice() {
        [(system, _)] => Ok(Some(*system)),
        [] => {
            let flags = keys.present(FLAGS_OF_TWO);
            if flags.is_empty() {
                return Ok(None);
            }
            let names = listed(&flags);
            let expected = "it means different things in AUTOMATIC1111 and SD.Next; write \
                            riverbed.system: a1111 or sdnext, or riverbed.mode: \
                            a1111:medvram, sdnext:medvram, a1111:lowvram or sdnext:lowvram";
            Err(Error::invalid("config", names, expected))
        }
        several => {
            let keys = several.iter().map(|(system, names)| format!("{system}: {}", listed(names)));
            let keys = keys.collect::<Vec<_>>().join("; ");
            let expected = "the keys are of several systems: keep those of one, or say which with \
                            riverbed.system";
            Err(Error::invalid("config", keys, expected))
        }
    }
}

#[cfg(all(test, feature = "config"))]
mod tests {
    use super::super::limit::{Card, VramLimit};
    use super::super::settings::RamLimit;
    use super::*;
    use crate::base::GIB;
    use crate::plan::{Granularity, Retention, Source};

    fn example(name: &str) -> OffloadSettings {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
        settings_from_file(directory.join(name)).unwrap()
    }

    #[test]
    fn invokeais_file_reads() {
        let settings = example("invokeai.yaml");
        assert_eq!((settings.system, settings.mode.name()), (Some(System::Invoke), "partial"));
        assert_eq!(settings.limit, Some(VramLimit::Bytes(21 * GIB / 2)));
        assert_eq!(settings.ram, RamLimit::Bytes(24 * GIB));
        assert_eq!(settings.working_bytes, Some(4 * GIB));
        assert!(!settings.keep_ram_copy);
        assert_eq!(settings.conf().unwrap().policy(), "mempool");
        assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
    }

    #[test]
    fn sdnexts_file_reads() {
        let settings = example("sdnext.json");
        assert_eq!((settings.system, settings.mode.name()), (Some(System::Sdnext), "balanced"));
        let marks = Retention::Watermarks { low_bytes: 2 * GIB, high_bytes: 13 * GIB };
        assert_eq!(settings.preset(&Card::of(20 * GIB)).rules.retention, marks);
        assert!(settings.moves.base);
        assert_eq!(settings.never_offload.unwrap(), ["CLIPTextModel", "AutoencoderKL"]);
    }

    #[test]
    fn a1111s_scripts_read() {
        assert_eq!(example("webui-user.sh").mode.name(), "medvram-sdxl");
        assert_eq!(example("webui-user.bat").mode.name(), "a1111:lowvram");
    }

    #[test]
    fn diffsynths_states_read() {
        let settings = example("diffsynth.toml");
        assert_eq!((settings.system, settings.mode.name()), (Some(System::Diffsynth), "disk"));
        assert_eq!(settings.source, Some(Source::Disk));
        assert_eq!(settings.limit, Some(VramLimit::Bytes(15 * GIB / 2)));
    }

    #[test]
    fn our_own_file_reads() {
        let settings = example("riverbed.toml");
        let preset = settings.preset(&Card::of(GIB));
        assert_eq!(preset.rules.granularity, Granularity::Group(4));
        assert_eq!(preset.limit, VramLimit::Bytes(8_000_000_000));
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn the_section_shown_on_the_page_reads() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parity.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, after) = page.split_once("```toml\n").unwrap();
        let (section, _) = after.split_once("```").unwrap();
        let settings = settings_from_text(section, ConfigFormat::Toml).unwrap();
        assert_eq!(settings.pinned_bytes, Some(8 * GIB));
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn keys_of_two_systems_and_flags_of_two_meanings_are_refused() {
        let refusal = |json| settings_from_text(json, ConfigFormat::Json).unwrap_err().to_string();
        let error = refusal(r#"{"max_cache_vram_gb": 8, "vram_limit": 8}"#);
        assert!(error.contains("invoke: max_cache_vram_gb"), "{error}");
        assert!(error.contains("diffsynth: vram_limit"), "{error}");
        let error = refusal(r#"{"medvram": true}"#);
        assert!(error.contains("a1111:medvram") && error.contains("sdnext:medvram"), "{error}");
        let said = r#"{"lowvram": true, "riverbed": {"system": "sdnext"}}"#;
        let settings = settings_from_text(said, ConfigFormat::Json).unwrap();
        assert_eq!(settings.mode.name(), "sdnext:lowvram");
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_is_read_or_refused() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
        let mut refused = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let format = ConfigFormat::of(&path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            for at in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
                refused += usize::from(settings_from_text(&text[..at], format).is_err());
                for other in ["\0", "-", "{", "9", ": ", "\n"] {
                    let changed = format!("{}{other}{}", &text[..at], &text[at..]);
                    refused += usize::from(settings_from_text(&changed, format).is_err());
                }
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn errors_name_the_file() {
        let error = settings_from_file("no/such.yaml").unwrap_err().to_string();
        assert!(error.starts_with("no/such.yaml: "), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.yaml");
        std::fs::write(&path, "vram_limit: lots").unwrap();
        let error = settings_from_file(&path).unwrap_err().to_string();
        assert!(error.contains("bad.yaml: vram_limit: "), "{error}");
    }
}
