//! A JSON file read field by field, so that an error names the file, the field and what is
//! allowed there.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::base::{Error, FileError, MIB, Result, parse_bytes};

/// Larger files are no descriptions: weights, most likely.
const FILE_BYTES_MAX: u64 = 16 * MIB;
/// How much of a value an error shows, in characters.
const SHOWN_CHARS: usize = 40;

/// Whether the file in `path` may be a description at all.
pub(super) fn may_describe(path: &Path) -> bool {
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    is_json && path.metadata().is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES_MAX)
}

/// The JSON in `path`.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let cannot = |error: std::io::Error| FileError::new(path, format!("cannot be read: {error}"));
    let len_bytes = std::fs::metadata(path).map_err(cannot)?.len();
    if len_bytes > FILE_BYTES_MAX {
        let reason = format!("{len_bytes} bytes are too many for shapes or a job");
        return Err(FileError::new(path, reason).into());
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    let read = serde_json::from_str(&text);
    Ok(read.map_err(|error| FileError::new(path, format!("is not JSON: {error}")))?)
}

/// A value and the way to it.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) file: &'a Path,
    way: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    pub(super) fn root(file: &'a Path, value: &'a Value) -> Self {
        Self { file, way: String::new(), value }
    }

    /// An error about this value.
    pub(super) fn refuse(&self, expected: &str) -> Error {
        let text = self.value.to_string();
        let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        let way = if self.way.is_empty() { "the whole" } else { &self.way };
        FileError::new(self.file, format!("{way}: {shown} is not accepted; {expected}")).into()
    }

    /// What is wrong with the file that this value names, as an error of this one.
    pub(super) fn because(&self, error: Error) -> Error {
        match error {
            Error::File(named) => {
                FileError::new(self.file, format!("{}: {named}", self.way)).into()
            }
            error => error,
        }
    }

    /// This value as an object with no keys but `known`.
    pub(super) fn object(&self, known: &[&str]) -> Result<&'a Map<String, Value>> {
        let keys = known.join(", ");
        let expected = || format!("an object with the keys {keys}");
        let object = self.value.as_object().ok_or_else(|| self.refuse(&expected()))?;
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.at(key, &Value::Null).refuse_key(&keys)),
            None => Ok(object),
        }
    }

    /// A member of this object, if it is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(self.at(key, value))
    }

    /// A member of this object.
    pub(super) fn need(&self, key: &str) -> Result<Self> {
        self.get(key).ok_or_else(|| {
            let way = self.at(key, self.value).way;
            FileError::new(self.file, format!("{way}: is missing")).into()
        })
    }

    /// The elements of this list.
    pub(super) fn list(&self) -> Result<Vec<Self>> {
        let list = self.value.as_array().ok_or_else(|| self.refuse("a list"))?;
        let element = |(at, value): (usize, &'a Value)| {
            let (file, way) = (self.file, format!("{}[{at}]", self.way));
            Self { file, way, value }
        };
        Ok(list.iter().enumerate().map(element).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        let text = self.value.as_str().filter(|text| !text.is_empty());
        text.ok_or_else(|| self.refuse("a text that is not empty"))
    }

    /// A size in bytes: a whole number, or a text with a unit (`"2GiB"`).
    pub(super) fn bytes(&self, least: u64) -> Result<u64> {
        let expected = format!("bytes, at least {least}, or a size like \"1.5GB\" or \"64MiB\"");
        let bytes = match self.value {
            Value::String(text) => parse_bytes(text).ok(),
            value => value.as_u64(),
        };
        bytes.filter(|&bytes| bytes >= least).ok_or_else(|| self.refuse(&expected))
    }

    pub(super) fn whole(&self, allowed: RangeInclusive<u64>) -> Result<u64> {
        let expected = format!("a whole number from {} to {}", allowed.start(), allowed.end());
        let number = self.value.as_u64().filter(|number| allowed.contains(number));
        number.ok_or_else(|| self.refuse(&expected))
    }

    pub(super) fn number(&self, allowed: RangeInclusive<f64>) -> Result<f64> {
        let expected = format!("a number from {} to {:e}", allowed.start(), allowed.end());
        let number = self.value.as_f64().filter(|number| allowed.contains(number));
        number.ok_or_else(|| self.refuse(&expected))
    }

    fn at(&self, key: &str, value: &'a Value) -> Self {
        let dot = if self.way.is_empty() { "" } else { "." };
        let key: String = key.chars().take(SHOWN_CHARS).collect();
        let (file, way) = (self.file, format!("{}{dot}{}", self.way, key.escape_debug()));
        Self { file, way, value }
    }

    fn refuse_key(&self, keys: &str) -> Error {
        let reason = format!("{}: no such field; fields are {keys}", self.way);
        FileError::new(self.file, reason).into()
    }
}
