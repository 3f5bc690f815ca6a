//! From a file to a map of keys, whichever of the forms it has.

use std::path::Path;

use serde_json::{Map, Value};

use crate::base::{Error, FileError, Result, format_bytes};

/// Larger files are no settings.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The variable AUTOMATIC1111's scripts set.
pub(super) const ARGUMENTS: &str = "COMMANDLINE_ARGS";

/// The form of a config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigFormat {
    /// JSON.
    Json,
    /// TOML; needs the feature `config`.
    Toml,
    /// YAML; needs the feature `config`.
    Yaml,
    /// A shell or batch script that sets `COMMANDLINE_ARGS`.
    Script,
}

impl ConfigFormat {
    /// The form that a file's extension stands for.
    ///
    /// # Errors
    /// [`Error::File`] for any other extension.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "json" => Ok(Self::Json),
            "toml" => Ok(Self::Toml),
            "yaml" | "yml" => Ok(Self::Yaml),
            "sh" | "bat" => Ok(Self::Script),
            _ => {
                let reason = "settings are read from .yaml, .yml, .toml, .json, .sh and .bat files";
                Err(FileError::new(path, reason).into())
            }
        }
    }
}

/// The file's text.
pub(super) fn text(path: &Path) -> Result<String> {
    let refused = |reason: String| Error::from(FileError::new(path, reason));
    let len_bytes = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if len_bytes > FILE_BYTES_MAX {
        let (len, max) = (format_bytes(len_bytes), format_bytes(FILE_BYTES_MAX));
        return Err(refused(format!("{len} are no settings; at most {max} are read")));
    }
    std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))
}

/// The top level of the text. An empty file has no keys.
pub(super) fn map(text: &str, format: ConfigFormat) -> Result<Map<String, Value>> {
    let text = text.trim_start_matches('\u{feff}');
    let value = match format {
        ConfigFormat::Script => return Ok(script(text)),
        _ if text.trim().is_empty() => return Ok(Map::new()),
        ConfigFormat::Json => serde_json::from_str(text)
            .map_err(|error| Error::invalid("config", "the JSON given", error.to_string()))?,
        ConfigFormat::Toml => toml(text)?,
        ConfigFormat::Yaml => yaml(text)?,
    };
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err(Error::invalid("config", "the text given", "write keys with values")),
    }
}

#[cfg(feature = "config")]
fn toml(text: &str) -> Result<Value> {
    toml::from_str(text)
        .map_err(|error| Error::invalid("config", "the TOML given", error.to_string()))
}

#[cfg(feature = "config")]
fn yaml(text: &str) -> Result<Value> {
    super::yaml::value(text).map_err(|reason| Error::invalid("config", "the YAML given", reason))
}

#[cfg(not(feature = "config"))]
fn toml(_text: &str) -> Result<Value> {
    Err(unsupported("TOML"))
}

#[cfg(not(feature = "config"))]
fn yaml(_text: &str) -> Result<Value> {
    Err(unsupported("YAML"))
}

#[cfg(not(feature = "config"))]
fn unsupported(what: &str) -> Error {
    Error::Unsupported {
        what: format!("a config file in {what}"),
        by: "this build".into(),
        way_out: "build with the feature 'config', or write JSON".into(),
    }
}

/// What a script's last uncommented assignment gives `COMMANDLINE_ARGS`. The script is not run.
fn script(text: &str) -> Map<String, Value> {
    let mut assigned = text.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches('@');
        let line = ["export ", "set ", "SET "]
            .iter()
            .find_map(|word| line.strip_prefix(word))
            .unwrap_or(line)
            .trim_start_matches('"');
        let value = line.strip_prefix(ARGUMENTS)?.trim_start().strip_prefix('=')?;
        Some(value.trim().trim_matches(['"', '\'']).to_string())
    });
    let value = assigned.next_back().map(Value::String);
    value.into_iter().map(|value| (ARGUMENTS.to_string(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_their_extension() {
        assert_eq!(ConfigFormat::of(Path::new("a/invokeai.YAML")).ok(), Some(ConfigFormat::Yaml));
        assert_eq!(ConfigFormat::of(Path::new("webui-user.bat")).ok(), Some(ConfigFormat::Script));
        let error = ConfigFormat::of(Path::new("config.ini")).unwrap_err().to_string();
        assert!(error.contains(".yaml"), "{error}");
    }

    #[test]
    fn scripts_give_their_arguments_and_nothing_else() {
        for (text, expected) in [
            ("export COMMANDLINE_ARGS=\"--medvram --xformers\"\n", Some("--medvram --xformers")),
            ("@echo off\nset COMMANDLINE_ARGS=--lowvram\r\ncall webui.bat", Some("--lowvram")),
            ("#export COMMANDLINE_ARGS=\"\"\nx=1", None),
            ("COMMANDLINE_ARGS='--a'\nexport COMMANDLINE_ARGS='--b'", Some("--b")),
            ("", None),
        ] {
            let map = map(text, ConfigFormat::Script).unwrap();
            assert_eq!(map.get(ARGUMENTS).and_then(Value::as_str), expected, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_map_is_refused() {
        for (text, format) in [
            ("[1]", ConfigFormat::Json),
            ("{", ConfigFormat::Json),
            #[cfg(feature = "config")]
            ("a = ", ConfigFormat::Toml),
            #[cfg(feature = "config")]
            ("- 1", ConfigFormat::Yaml),
        ] {
            assert!(map(text, format).is_err(), "{text}");
        }
        assert!(map("", ConfigFormat::Json).unwrap().is_empty());
    }
}
