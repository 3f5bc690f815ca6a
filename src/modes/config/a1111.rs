//! AUTOMATIC1111's webui: its flags, from `COMMANDLINE_ARGS` or as keys, and what of its
//! `config.json` is about offload.

use crate::base::{Error, Result};
use crate::weights::Dtype;

use super::super::names::mode;
use super::super::settings::OffloadSettings;
use super::super::system::System;
use super::keys::{Keys, listed};
use super::read::ARGUMENTS;

/// Keys that make a file AUTOMATIC1111's; not those that SD.Next, which grew out of it, kept.
pub(super) const KEYS: &[&str] = &[
    ARGUMENTS,
    "cache_fp16_weight",
    "fp8_storage",
    "medvram-sdxl",
    "medvram_sdxl",
    "sd_checkpoints_keep_in_cpu",
    "sd_checkpoints_limit",
];

const REMARKS: &[(&str, &str)] = &[
    ("batch_cond_uncond", "a lease may cover several calls, batched or not"),
    ("cache_fp16_weight", "the file's own weights are never changed, so patches apply to them"),
    ("sd_checkpoint_cache", "the RAM budget says how many models stay; write riverbed.ram"),
    ("sd_checkpoints_limit", "the RAM budget says how many models stay; write riverbed.ram"),
];

/// The flags that choose a mode.
#[derive(Default)]
struct Flags {
    low: bool,
    medium: bool,
    medium_sdxl: bool,
}

pub(super) fn read(keys: &mut Keys) -> Result<OffloadSettings> {
    let mut warnings = Vec::new();
    let mut flags = Flags::default();
    if let Some(arguments) = keys.text(ARGUMENTS)? {
        flags.arguments(&arguments, &mut warnings);
    }
    flags.low |= keys.truth("lowvram")?.unwrap_or(false);
    flags.medium |= keys.truth("medvram")?.unwrap_or(false);
    for key in ["medvram-sdxl", "medvram_sdxl"] {
        flags.medium_sdxl |= keys.truth(key)?.unwrap_or(false);
    }
    let mode = mode(flags.mode()?);
    let mut settings = OffloadSettings::of(Some(System::A1111), mode);
    match keys.text("fp8_storage")?.as_deref() {
        None | Some("Disable") => {}
        Some("Enable") => settings.storage_dtype = Some(Dtype::F8_E4M3),
        Some("Enable for SDXL") => {
            settings.storage_dtype = Some(Dtype::F8_E4M3);
            settings.storage_if_sdxl = true;
        }
        Some(other) => {
            let expected = "write Disable, Enable or Enable for SDXL";
            return Err(Error::invalid("fp8_storage", other, expected));
        }
    }
    settings.keep_ram_copy = keys.truth("sd_checkpoints_keep_in_cpu")?.unwrap_or(true);
    keys.remarks(REMARKS, &mut warnings);
    settings.warnings = warnings;
    Ok(settings)
}

impl Flags {
    /// Takes the flags out of a command line. The rest is named in one warning.
    fn arguments(&mut self, line: &str, warnings: &mut Vec<String>) {
        let mut others = Vec::new();
        for word in line.split_whitespace().map(|word| word.trim_matches(['"', '\''])) {
            match word.to_lowercase().as_str() {
                "--lowvram" => self.low = true,
                "--medvram" => self.medium = true,
                "--medvram-sdxl" => self.medium_sdxl = true,
                "--always-batch-cond-uncond" => {
                    warnings.push(format!("{word}: a lease may cover several calls anyway"));
                }
                "--lowram" => {
                    warnings.push(format!("{word}: write keep_ram_copy: false below riverbed"));
                }
                _ if word.starts_with("--") => others.push(word),
                _ => {}
            }
        }
        if !others.is_empty() {
            let names = listed(&others);
            warnings.push(format!("arguments that are not about offload are ignored: {names}"));
        }
    }

    /// The mode's name.
    fn mode(&self) -> Result<&'static str> {
        match (self.low, self.medium, self.medium_sdxl) {
            (true, false, false) => Ok("a1111:lowvram"),
            (false, true, _) => Ok("a1111:medvram"),
            (false, false, true) => Ok("medvram-sdxl"),
            (false, false, false) => Ok("none"),
            (true, medium, _) => {
                let other = if medium { "medvram" } else { "medvram-sdxl" };
                let expected = "lowvram streams blocks, the other moves whole components: keep one \
                                of the two";
                Err(Error::invalid(ARGUMENTS, format!("lowvram and {other}"), expected))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::ConfigFormat;
    use super::super::settings_from_text;
    use super::*;

    fn read(json: &str) -> OffloadSettings {
        settings_from_text(json, ConfigFormat::Json).unwrap()
    }

    #[test]
    fn flags_come_from_the_command_line_or_as_keys() {
        for (json, name) in [
            (r#"{"COMMANDLINE_ARGS": "--medvram --xformers"}"#, "a1111:medvram"),
            (r#"{"COMMANDLINE_ARGS": "--lowvram"}"#, "a1111:lowvram"),
            (r#"{"COMMANDLINE_ARGS": "--medvram-sdxl --medvram"}"#, "a1111:medvram"),
            (r#"{"medvram-sdxl": true}"#, "medvram-sdxl"),
            (r#"{"COMMANDLINE_ARGS": ""}"#, "none"),
            (r#"{"medvram": true, "riverbed": {"system": "a1111"}}"#, "a1111:medvram"),
        ] {
            assert_eq!(read(json).mode.name(), name, "{json}");
        }
        let warnings = read(r#"{"COMMANDLINE_ARGS": "--medvram --port 80"}"#).warnings;
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("--port"), "{warnings:?}");
    }

    #[test]
    fn lowvram_beside_medvram_is_refused() {
        for line in ["--lowvram --medvram", "--medvram-sdxl --lowvram"] {
            let json = format!(r#"{{"COMMANDLINE_ARGS": "{line}"}}"#);
            let error = settings_from_text(&json, ConfigFormat::Json).unwrap_err().to_string();
            assert!(error.contains("keep one of the two"), "{error}");
        }
    }

    #[test]
    fn keys_that_sd_next_kept_do_not_make_a_file_of_both() {
        let a1111 = r#"{"sd_model_checkpoint": "a", "fp8_storage": "Disable", "lowvram": true}"#;
        assert_eq!(read(a1111).mode.name(), "a1111:lowvram");
        let sdnext = r#"{"sd_checkpoint_cache": 2, "diffusers_offload_mode": "model"}"#;
        assert_eq!(read(sdnext).system, Some(System::Sdnext));
    }

    #[test]
    fn fp8_storage_may_wait_for_sdxl() {
        let settings = read(r#"{"fp8_storage": "Enable for SDXL", "medvram_sdxl": true}"#);
        let storage = |sdxl| settings.clone().for_model(sdxl).storage_dtype;
        assert_eq!((storage(true), storage(false)), (Some(Dtype::F8_E4M3), None));
        let always = read(r#"{"fp8_storage": "Enable"}"#).for_model(false);
        assert_eq!(always.storage_dtype, Some(Dtype::F8_E4M3));
        assert_eq!(settings.for_model(false).mode.kind(), mode("none").kind());
    }
}
