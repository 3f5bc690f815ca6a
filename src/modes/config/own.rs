//! This crate's own section: `riverbed`, with sizes that carry their units.

use crate::base::{Error, Result, parse_bytes};
use crate::conf::suggest;

use super::super::limit::VramLimit;
use super::super::presets::Mode;
use super::super::settings::{OffloadSettings, RamLimit};
use super::keys::Keys;

const KEYS: &[&str] = &[
    "alloc_conf",
    "always_offload",
    "keep_ram_copy",
    "mode",
    "never_offload",
    "pinned",
    "ram",
    "single_buffer",
    "split",
    "system",
    "vram",
    "working_mem",
];

/// Puts the section over what was read before. A key it does not know is refused: here it can
/// only be a slip of the pen.
pub(super) fn read(mut keys: Keys, settings: &mut OffloadSettings) -> Result<()> {
    if let Some(mode) = keys.text("mode")? {
        settings.mode = Mode::parse(&mode)?;
    }
    if let Some(vram) = keys.text("vram")? {
        settings.limit = Some(match vram.trim().to_lowercase().as_str() {
            "auto" => VramLimit::Measured,
            "smallest" => VramLimit::Smallest,
            _ => VramLimit::Bytes(bytes("riverbed.vram", &vram, "auto, smallest, ")?),
        });
    }
    if let Some(ram) = keys.text("ram")? {
        settings.ram = RamLimit::Bytes(bytes("riverbed.ram", &ram, "")?);
    }
    if let Some(pinned) = keys.text("pinned")? {
        settings.pinned_bytes = Some(bytes("riverbed.pinned", &pinned, "")?);
    }
    if let Some(working) = keys.text("working_mem")? {
        settings.working_bytes = Some(bytes("riverbed.working_mem", &working, "")?);
    }
    if let Some(conf) = keys.text("alloc_conf")? {
        settings.alloc_conf = Some(conf);
        settings.conf()?;
    }
    settings.keep_ram_copy = keys.truth("keep_ram_copy")?.unwrap_or(settings.keep_ram_copy);
    settings.split = keys.truth("split")?.unwrap_or(settings.split);
    settings.single_buffer = keys.truth("single_buffer")?.unwrap_or(settings.single_buffer);
    settings.always_offload = keys.list("always_offload")?.or(settings.always_offload.take());
    settings.never_offload = keys.list("never_offload")?.or(settings.never_offload.take());
    match keys.rest().first() {
        None => Ok(()),
        Some(unknown) => {
            let hint = suggest::hint(unknown, KEYS.iter().copied());
            let expected = format!("keys of this section are {}{hint}", KEYS.join(", "));
            Err(Error::invalid("riverbed", unknown, expected))
        }
    }
}

fn bytes(key: &str, text: &str, words: &str) -> Result<u64> {
    parse_bytes(text)
        .map_err(|why| Error::invalid(key, text, format!("write {words}a size like 8GB ({why})")))
}

#[cfg(test)]
mod tests {
    use super::super::read::ConfigFormat;
    use super::super::settings_from_text;
    use super::*;

    fn read(json: &str) -> Result<OffloadSettings> {
        settings_from_text(json, ConfigFormat::Json)
    }

    #[test]
    fn our_own_section_goes_over_foreign_keys() {
        let json = r#"{"device_working_mem_gb": 3, "riverbed": {
            "mode": "a1111:lowvram", "vram": "8GB", "ram": "32GiB", "pinned": "4GB",
            "working_mem": "500MB", "split": true, "never_offload": ["vae"]}}"#;
        let settings = read(json).unwrap();
        assert_eq!(settings.mode.name(), "a1111:lowvram");
        assert_eq!(settings.limit, Some(VramLimit::Bytes(8_000_000_000)));
        assert_eq!(settings.ram, RamLimit::Bytes(32 << 30));
        assert_eq!(settings.working_bytes, Some(500_000_000));
        assert!(settings.split && settings.never_offload == Some(vec!["vae".into()]));
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    }

    #[test]
    fn a_slip_of_the_pen_is_refused() {
        for (json, says) in [
            (r#"{"riverbed": {"modes": "auto"}}"#, "did you mean 'mode'?"),
            (r#"{"riverbed": {"vram": "lots"}}"#, "auto, smallest"),
            (r#"{"riverbed": {"mode": "medvram"}}"#, "sdnext:medvram"),
            (r#"{"riverbed": {"alloc_conf": "limt_mb:1"}}"#, "limit_mb"),
            (r#"{"riverbed": 3}"#, "keys below it"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }
}
