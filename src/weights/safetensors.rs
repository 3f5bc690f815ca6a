//! The safetensors header: a 64-bit length, JSON, then the tensors' bytes. The rules are those
//! of the `safetensors` crate (tensors cover the data from its first to its last byte, without
//! holes), with two more: a name may stand only once, where the crate lets the last one win,
//! and nothing is allocated on the header's word alone. Sharding is in `shards`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::base::FileError;

use super::cursor::Cursor;
use super::dtype::Dtype;
use super::tensor::{Tensor, duplicate, shown, shown_shape, shown_to, sized};

/// The longest header the `safetensors` crate accepts, in bytes.
pub(super) const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Bytes of the length in front of the header.
const LENGTH_BYTES: u64 = 8;

/// The key that holds no tensor.
const METADATA_KEY: &str = "__metadata__";

/// A tensor as the JSON has it.
#[derive(Deserialize)]
struct RawTensor {
    dtype: ::safetensors::Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads the header. The tensors come back in the order of their bytes, with file index 0.
pub(super) fn read(mut cursor: Cursor) -> Result<Vec<Tensor>, FileError> {
    let header_bytes = cursor.u64("the header length")?;
    if header_bytes > HEADER_BYTES_MAX {
        return Err(FileError::at(
            cursor.path(),
            0,
            format!("a header length of {header_bytes} bytes is more than {HEADER_BYTES_MAX}"),
        ));
    }
    let json = cursor.bytes(header_bytes, "the header")?;
    if json.first() != Some(&b'{') {
        return Err(FileError::at(
            cursor.path(),
            LENGTH_BYTES,
            "the header does not start with '{': not a safetensors file",
        ));
    }
    let raw = parse(&cursor, &json)?;
    drop(json);
    place(&cursor, raw)
}

/// Parses the header's JSON. Memory follows the bytes of the text: `serde_json` believes no
/// lengths, and bounds its own recursion.
fn parse(cursor: &Cursor, json: &[u8]) -> Result<Vec<(String, RawTensor)>, FileError> {
    let text = std::str::from_utf8(json).map_err(|e| {
        let bad = LENGTH_BYTES + e.valid_up_to() as u64;
        FileError::at(cursor.path(), bad, "the header is not UTF-8")
    })?;
    let entries: Entries = serde_json::from_str(text).map_err(|e| {
        let at = LENGTH_BYTES + json_offset(text, &e);
        FileError::at(cursor.path(), at, format!("the header is malformed: {}", json_reason(&e)))
    })?;
    if let Some(name) = duplicate(entries.0.iter().map(|(name, _)| name.as_str())) {
        return Err(FileError::at(
            cursor.path(),
            LENGTH_BYTES,
            format!("duplicate tensor name '{}'", shown(name)),
        ));
    }
    Ok(entries.0)
}

/// Checks every tensor against the file and turns data offsets into file offsets.
fn place(cursor: &Cursor, mut raw: Vec<(String, RawTensor)>) -> Result<Vec<Tensor>, FileError> {
    let data_start = cursor.position();
    let data_bytes = cursor.left();
    // By begin and then end, so that an empty tensor comes before the one it touches.
    raw.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut tensors: Vec<Tensor> = Vec::with_capacity(raw.len());
    let mut covered = 0;
    for (name, RawTensor { dtype, shape, data_offsets: (begin, end) }) in raw {
        let at = data_start.saturating_add(begin);
        let refuse = |reason: String| {
            FileError::at(cursor.path(), at, format!("tensor '{}': {reason}", shown(&name)))
        };
        if end < begin {
            return Err(refuse(format!("it ends at data offset {end}, before its begin {begin}")));
        }
        if end > data_bytes {
            return Err(refuse(format!(
                "data offsets [{begin}, {end}) are out of range: the file has {data_bytes} bytes \
                 of data"
            )));
        }
        if begin < covered {
            let before = tensors.last().map_or("", |tensor| &tensor.name);
            return Err(refuse(format!(
                "begin {begin} overlaps tensor '{}', which ends at {covered}",
                shown(before)
            )));
        }
        if begin > covered {
            return Err(refuse(format!(
                "begin {begin} leaves a hole of {} bytes behind offset {covered}",
                begin - covered
            )));
        }
        let known = Dtype::from_safetensors(dtype)
            .ok_or_else(|| refuse(format!("unknown dtype '{dtype}'")))?;
        let len_bytes = sized(known, &shape).map_err(refuse)?;
        if len_bytes != end - begin {
            return Err(refuse(format!(
                "{known} of shape {} is {len_bytes} bytes, its data offsets span {}",
                shown_shape(&shape),
                end - begin
            )));
        }
        covered = end;
        tensors.push(Tensor { name, dtype: known, shape, file: 0, offset_bytes: at, len_bytes });
    }
    if covered != data_bytes {
        return Err(FileError::at(
            cursor.path(),
            data_start + covered,
            format!("{} bytes behind the last tensor belong to none", data_bytes - covered),
        ));
    }
    Ok(tensors)
}

/// Offset of a parse error into its text.
pub(super) fn json_offset(text: &str, error: &serde_json::Error) -> u64 {
    let line_start = match error.line() {
        0 | 1 => 0,
        line => text
            .bytes()
            .enumerate()
            .filter(|&(_, byte)| byte == b'\n')
            .nth(line - 2)
            .map_or(text.len(), |(index, _)| index + 1),
    };
    (line_start + error.column().saturating_sub(1)).min(text.len()) as u64
}

/// What a parse error says, printable and bounded: it may quote the file.
pub(super) fn json_reason(error: &serde_json::Error) -> String {
    shown_to(&error.to_string(), 400)
}

/// The header's entries in the order of the text, so that a name standing twice is seen.
struct Entries(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                let mut metadata_seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA_KEY {
                        entries.push((name, map.next_value()?));
                    } else if std::mem::replace(&mut metadata_seen, true) {
                        return Err(A::Error::custom("duplicate key '__metadata__'"));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}
