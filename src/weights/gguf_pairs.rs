//! The key/value pairs of a GGUF header. Only the keys this crate acts on are kept; the rest,
//! such as a tokenizer's hundred thousand strings, is stepped over. Tensors are in `gguf`.

use std::collections::HashSet;

use crate::base::FileError;

use super::cursor::Cursor;
use super::gguf::NAME_BYTES_MAX;
use super::tensor::shown;

/// The smallest pair, in bytes: an empty key, a type and one byte of value.
pub(super) const PAIR_BYTES_MIN: u64 = 8 + 4 + 1;

/// Arrays in arrays are allowed by the format and used by nobody; this bounds recursion.
const ARRAY_DEPTH_MAX: u32 = 4;

/// Numbers of the value types that need more than their size.
const KIND_STRING: u32 = 8;
const KIND_ARRAY: u32 = 9;

/// The pairs this crate acts on.
#[derive(Default)]
pub(super) struct Pairs {
    pub(super) architecture: Option<String>,
    pub(super) name: Option<String>,
    pub(super) alignment: Option<u64>,
    pub(super) split_count: Option<u64>,
    pub(super) split_number: Option<u64>,
}

impl Pairs {
    /// Reads `count` pairs, which the caller has checked to be possible.
    pub(super) fn read(cursor: &mut Cursor, count: u64) -> Result<Self, FileError> {
        let mut pairs = Pairs::default();
        let mut seen = HashSet::new();
        for _ in 0..count {
            let at = cursor.position();
            let key = cursor.string(NAME_BYTES_MAX, "a key")?;
            let kind = cursor.u32("a value type")?;
            match key.as_str() {
                "general.architecture" => pairs.architecture = Some(text(cursor, kind, &key)?),
                "general.name" => pairs.name = Some(text(cursor, kind, &key)?),
                "general.alignment" => pairs.alignment = Some(alignment(cursor, kind, &key)?),
                "split.count" => pairs.split_count = Some(integer(cursor, kind, &key)?),
                "split.no" => pairs.split_number = Some(integer(cursor, kind, &key)?),
                _ => skip_value(cursor, kind, &key, 0)?,
            }
            if seen.contains(&key) {
                let reason = format!("duplicate key '{}'", shown(&key));
                return Err(FileError::at(cursor.path(), at, reason));
            }
            seen.insert(key);
        }
        Ok(pairs)
    }
}

fn text(cursor: &mut Cursor, kind: u32, key: &str) -> Result<String, FileError> {
    if kind != KIND_STRING {
        return Err(cursor.error(format!("'{key}' has value type {kind} and must be a string")));
    }
    cursor.string(NAME_BYTES_MAX, key)
}

fn integer(cursor: &mut Cursor, kind: u32, key: &str) -> Result<u64, FileError> {
    match kind {
        0 => cursor.array::<1>(key).map(|[byte]| u64::from(byte)),
        2 => cursor.array(key).map(|bytes| u64::from(u16::from_le_bytes(bytes))),
        4 => cursor.u32(key).map(u64::from),
        10 => cursor.u64(key),
        _ => {
            Err(cursor
                .error(format!("'{key}' has value type {kind} and must be an unsigned integer")))
        }
    }
}

fn alignment(cursor: &mut Cursor, kind: u32, key: &str) -> Result<u64, FileError> {
    let at = cursor.position();
    let value = integer(cursor, kind, key)?;
    if value.is_power_of_two() {
        return Ok(value);
    }
    let reason = format!("an alignment of {value} is not a power of two");
    Err(FileError::at(cursor.path(), at, reason))
}

/// Bytes of a value of fixed size.
fn fixed_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Steps over one value. Every turn consumes bytes of the file, so the time is bounded by them.
fn skip_value(cursor: &mut Cursor, kind: u32, key: &str, depth: u32) -> Result<(), FileError> {
    if let Some(bytes) = fixed_bytes(kind) {
        return cursor.skip(bytes, "a value");
    }
    match kind {
        KIND_STRING => {
            let len = cursor.u64("a string length")?;
            cursor.skip(len, "a string")
        }
        KIND_ARRAY if depth == ARRAY_DEPTH_MAX => Err(cursor.error(format!(
            "the value of '{}' nests arrays more than {ARRAY_DEPTH_MAX} deep",
            shown(key)
        ))),
        KIND_ARRAY => skip_array(cursor, key, depth),
        _ => Err(cursor.error(format!("unknown value type {kind} of key '{}'", shown(key)))),
    }
}

fn skip_array(cursor: &mut Cursor, key: &str, depth: u32) -> Result<(), FileError> {
    let kind = cursor.u32("an array's value type")?;
    let count = cursor.u64("an array length")?;
    if let Some(bytes) = fixed_bytes(kind) {
        cursor.need_entries(count, bytes, "array values")?;
        return cursor.skip(count * bytes, "an array");
    }
    // A string is a length at the least, an array a type and a length.
    let least = if kind == KIND_ARRAY { 12 } else { 8 };
    cursor.need_entries(count, least, "array values")?;
    for _ in 0..count {
        skip_value(cursor, kind, key, depth + 1)?;
    }
    Ok(())
}
