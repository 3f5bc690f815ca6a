//! InvokeAI's `invokeai.yaml`. Its GB are 2^30 bytes.

use crate::base::{Error, Result, format_bytes};

use super::super::limit::VramLimit;
use super::super::names::mode;
use super::super::presets::{ModeKind, PARTIAL_WORKING_BYTES};
use super::super::settings::{OffloadSettings, RamLimit};
use super::super::system::System;
use super::keys::Keys;

/// Keys that make a file InvokeAI's.
pub(super) const KEYS: &[&str] = &[
    "device_working_mem_gb",
    "enable_partial_loading",
    "keep_ram_copy_of_weights",
    "lazy_offload",
    "max_cache_ram_gb",
    "max_cache_vram_gb",
    "pytorch_cuda_alloc_conf",
    "ram",
    "schema_version",
    "vram",
];

/// Keys that InvokeAI reads no more, and what follows them.
const DEAD: &[(&str, &str)] = &[
    ("ram", "is read no more; write max_cache_ram_gb"),
    ("vram", "is read no more; write max_cache_vram_gb"),
    ("lazy_offload", "is read no more; enable_partial_loading came in its place"),
];

const REMARKS: &[(&str, &str)] = &[(
    "model_cache_keep_alive_min",
    "nothing here unloads by the clock; drop what was loaded when it is idle",
)];

/// The keys as InvokeAI's source has them. Of precedence: `max_cache_vram_gb` is a cap on
/// everything, working memory included, so weights get the cap less `device_working_mem_gb`,
/// or less what an operation asks for, if that is more. The manual has it otherwise (the cap
/// goes over working memory); the source came later. Without the cap, what is free stands in
/// its place.
pub(super) fn read(keys: &mut Keys) -> Result<OffloadSettings> {
    let is_partial = keys.truth("enable_partial_loading")?.unwrap_or(true);
    let on_cpu = keys.text("device")?.is_some_and(|device| device == "cpu");
    let asked = keys.gib("device_working_mem_gb")?.unwrap_or(PARTIAL_WORKING_BYTES);
    let working_bytes = if on_cpu { 0 } else { asked };
    let mode = if is_partial {
        mode("partial").with_kind(ModeKind::Partial { working_bytes })
    } else {
        mode("model")
    };

    let mut settings = OffloadSettings::of(Some(System::Invoke), mode);
    settings.working_bytes = Some(working_bytes);
    settings.limit = keys.gib("max_cache_vram_gb")?.map(VramLimit::Bytes);
    if let Some(VramLimit::Bytes(cap)) = settings.limit.filter(|_| !on_cpu)
        && cap <= working_bytes
    {
        let expected = format!(
            "working memory ({}, device_working_mem_gb) is taken off it and leaves nothing for \
             weights; raise it, or lower device_working_mem_gb",
            format_bytes(working_bytes)
        );
        return Err(Error::invalid("max_cache_vram_gb", format_bytes(cap), expected));
    }
    settings.ram = keys.gib("max_cache_ram_gb")?.map_or(RamLimit::Invoke, RamLimit::Bytes);
    settings.keep_ram_copy = keys.truth("keep_ram_copy_of_weights")?.unwrap_or(true);
    settings.alloc_conf = keys.text("pytorch_cuda_alloc_conf")?;
    settings.conf()?;
    keys.drop("schema_version");
    for (key, successor) in DEAD {
        if keys.drop(key) {
            settings.warnings.push(format!("{key}: {successor}"));
        }
    }
    keys.remarks(REMARKS, &mut settings.warnings);
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::super::read::ConfigFormat;
    use super::super::settings_from_text;
    use super::*;
    use crate::base::GIB;
    use crate::modes::Card;

    fn read(json: &str) -> OffloadSettings {
        settings_from_text(json, ConfigFormat::Json).unwrap()
    }

    #[test]
    fn partial_loading_is_on_unless_switched_off() {
        assert_eq!(read(r#"{"schema_version": "4.0.2"}"#).mode.name(), "partial");
        assert_eq!(read(r#"{"enable_partial_loading": "no"}"#).mode.name(), "model");
    }

    #[test]
    fn working_memory_is_taken_off_the_cap_and_the_cap_goes_over_what_is_free() {
        let settings = read(r#"{"max_cache_vram_gb": 8, "device_working_mem_gb": 2}"#);
        let card = Card { total_bytes: 24 * GIB, free_bytes: 20 * GIB };
        let preset = settings.preset(&card);
        assert_eq!(preset.limit.bytes(&card), Some(8 * GIB));
        assert_eq!(preset.working_bytes, 2 * GIB);
        let free = read(r#"{"enable_partial_loading": true}"#).preset(&card);
        assert_eq!((free.limit.bytes(&card), free.working_bytes), (Some(20 * GIB), 3 * GIB));
    }

    #[test]
    fn a_cap_that_working_memory_eats_up_is_refused() {
        let json = r#"{"max_cache_vram_gb": 3}"#;
        let error = settings_from_text(json, ConfigFormat::Json).unwrap_err().to_string();
        assert!(error.contains("device_working_mem_gb"), "{error}");
        // On the CPU nothing is reserved.
        assert_eq!(read(r#"{"max_cache_vram_gb": 3, "device": "cpu"}"#).working_bytes, Some(0));
    }

    #[test]
    fn dead_keys_warn_with_their_successor() {
        let settings = read(r#"{"ram": 12, "vram": 0.25, "lazy_offload": true}"#);
        let warnings = settings.warnings.join("\n");
        for successor in ["max_cache_ram_gb", "max_cache_vram_gb", "enable_partial_loading"] {
            assert!(warnings.contains(successor), "{warnings}");
        }
        assert_eq!((settings.ram, settings.limit), (RamLimit::Invoke, None));
    }

    #[test]
    fn the_ram_copy_and_the_ram_cache_are_set() {
        let json = r#"{"keep_ram_copy_of_weights": false, "max_cache_ram_gb": 20}"#;
        let settings = read(json);
        assert!(!settings.keep_ram_copy);
        assert_eq!(settings.ram, RamLimit::Bytes(20 * GIB));
    }

    #[test]
    fn the_conf_string_is_checked_when_it_is_read() {
        let settings = read(r#"{"pytorch_cuda_alloc_conf": "backend:cudaMallocAsync"}"#);
        assert_eq!(settings.conf().unwrap().policy(), "mempool");
        let json = r#"{"pytorch_cuda_alloc_conf": "backend:best"}"#;
        assert!(settings_from_text(json, ConfigFormat::Json).is_err());
    }

    #[test]
    fn unrelated_keys_are_named_in_one_warning() {
        let settings = read(r#"{"schema_version": "4.0.2", "host": "0.0.0.0", "port": 9090}"#);
        assert_eq!(settings.warnings.len(), 1);
        assert!(settings.warnings[0].contains("host, port"), "{:?}", settings.warnings);
    }
}
