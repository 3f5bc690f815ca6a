//! A safetensors model in several files: the index names a shard for each tensor. Index and
//! shards must agree exactly. A listed tensor that a shard lacks would be missed at run time,
//! and a tensor that only a shard has means that the index belongs to other files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::base::FileError;

use super::cursor::Cursor;
use super::locate::file_name;
use super::model::ModelFile;
use super::safetensors::{self, HEADER_BYTES_MAX, json_offset, json_reason};
use super::tensor::{Tensor, duplicate, shown};

/// The part of the index that is used.
#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor name and shard, in the order of the text, so that a name standing twice is seen.
struct WeightMap(Vec<(String, String)>);

/// Reads the index and every shard's header. Files are in the order of their names, which is
/// the order of their numbers, and tensors in file order.
pub(super) fn read(index_path: &Path) -> Result<(Vec<ModelFile>, Vec<Tensor>), FileError> {
    let entries = read_index(index_path)?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &entries {
        shards.entry(shard).or_default().push(tensor);
    }
    let directory = index_path.parent().unwrap_or(Path::new(""));
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for (shard, listed) in shards {
        let path = shard_path(index_path, directory, shard)?;
        let cursor = Cursor::open(&path)?;
        let len_bytes = cursor.len();
        let mut held = safetensors::read(cursor)?;
        check_agreement(index_path, shard, listed, &held)?;
        for tensor in &mut held {
            tensor.file = files.len();
        }
        files.push(ModelFile { path, len_bytes });
        tensors.append(&mut held);
    }
    Ok((files, tensors))
}

fn read_index(path: &Path) -> Result<Vec<(String, String)>, FileError> {
    let mut cursor = Cursor::open(path)?;
    if cursor.len() > HEADER_BYTES_MAX {
        let reason =
            format!("a shard index of {} bytes is more than {HEADER_BYTES_MAX}", cursor.len());
        return Err(FileError::new(path, reason));
    }
    let bytes = cursor.bytes(cursor.len(), "the shard index")?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| FileError::at(path, e.valid_up_to() as u64, "the shard index is not UTF-8"))?;
    let index: Index = serde_json::from_str(text).map_err(|e| {
        let reason = format!("the shard index is malformed: {}", json_reason(&e));
        FileError::at(path, json_offset(text, &e), reason)
    })?;
    let entries = index.weight_map.0;
    if entries.is_empty() {
        return Err(FileError::new(path, "the shard index lists no tensors"));
    }
    if let Some(name) = duplicate(entries.iter().map(|(tensor, _)| tensor.as_str())) {
        let reason = format!("duplicate tensor name '{}' in the shard index", shown(name));
        return Err(FileError::new(path, reason));
    }
    Ok(entries)
}

/// Where a shard lies. A name that leads out of the index's directory is refused: an index is
/// somebody else's text and must not choose which of this machine's files are read.
fn shard_path(index: &Path, directory: &Path, shard: &str) -> Result<PathBuf, FileError> {
    let mut parts = Path::new(shard).components();
    let plain = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(part)), None) if part == shard
    );
    if !plain || shard.contains(['/', '\\', '\0']) {
        let reason = format!("shard '{}' is not a plain file name next to the index", shown(shard));
        return Err(FileError::new(index, reason));
    }
    let path = directory.join(shard);
    if path.exists() {
        return Ok(path);
    }
    Err(FileError::new(index, format!("shard '{}' is missing next to the index", shown(shard))))
}

fn check_agreement(
    index: &Path,
    shard: &str,
    mut listed: Vec<&str>,
    held: &[Tensor],
) -> Result<(), FileError> {
    let mut names: Vec<&str> = held.iter().map(|tensor| tensor.name.as_str()).collect();
    listed.sort_unstable();
    names.sort_unstable();
    if listed == names {
        return Ok(());
    }
    let absent = listed.iter().find(|name| names.binary_search(name).is_err());
    let reason = match absent {
        Some(name) => format!(
            "tensor '{}' is listed for shard '{}' and is not in it",
            shown(name),
            shown(shard)
        ),
        None => {
            let extra = names.iter().find(|name| listed.binary_search(name).is_err());
            format!(
                "tensor '{}' is in shard '{}' and not listed for it: the index of {} belongs to \
                 other files",
                shown(extra.unwrap_or(&"")),
                shown(shard),
                file_name(index)
            )
        }
    };
    Err(FileError::new(index, reason))
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WeightMapVisitor;
        impl<'de> Visitor<'de> for WeightMapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(WeightMapVisitor)
    }
}
