//! From a path to the one file to start from: a model file, a shard index, or a directory that
//! holds one of those. Files are told apart by their first bytes; the extension only decides
//! which reader's error a file that is neither gets. Reading headers is not here.

use std::path::{Path, PathBuf};

use crate::base::FileError;

use super::cursor::Cursor;
use super::gguf::MAGIC;

/// How a shard index is named.
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// Names shown when a directory is ambiguous.
const NAMES_SHOWN: usize = 6;

/// What to read, by format.
#[derive(Debug)]
pub(super) enum Source {
    Safetensors(PathBuf),
    Index(PathBuf),
    Gguf(PathBuf),
}

/// Finds what `path` means.
pub(super) fn locate(path: &Path) -> Result<Source, FileError> {
    if path.is_dir() { in_directory(path) } else { by_content(path) }
}

fn by_content(path: &Path) -> Result<Source, FileError> {
    let mut cursor = Cursor::open(path)?;
    let head = cursor.bytes(cursor.len().min(32), "the first bytes")?;
    let name = file_name(path);
    // The length in front of a safetensors header is far below 2^32, so its upper half is 0.
    let safetensors = head.get(8) == Some(&b'{') && head[4..8] == [0; 4];
    let text = head.iter().all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let json = text && head.trim_ascii_start().first() == Some(&b'{');
    let owned = path.to_path_buf();
    if head.starts_with(&MAGIC) {
        Ok(Source::Gguf(owned))
    } else if safetensors {
        Ok(Source::Safetensors(owned))
    } else if head.starts_with(b"version https://git-lfs") {
        Err(FileError::at(path, 0, "a Git LFS pointer and not the weights; fetch them first"))
    } else if json || name.ends_with(".json") {
        Ok(Source::Index(owned))
    } else if name.ends_with(".gguf") {
        Ok(Source::Gguf(owned))
    } else if name.ends_with(".safetensors") {
        Ok(Source::Safetensors(owned))
    } else {
        Err(FileError::at(path, 0, format!("not a model file: {}", describe(&head))))
    }
}

/// What an unusable file starts with, and what would have been read.
fn describe(head: &[u8]) -> String {
    let found = if head.is_empty() {
        "it is empty".to_owned()
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x80\x02") {
        "it looks like a PyTorch pickle, which has to be converted to safetensors".to_owned()
    } else {
        format!("it starts with '{}'", head[..head.len().min(9)].escape_ascii())
    };
    format!(
        "{found}; GGUF starts with 'GGUF', safetensors with a 64-bit length and '{{', a shard \
         index is JSON"
    )
}

fn in_directory(path: &Path) -> Result<Source, FileError> {
    let failed =
        |e: std::io::Error| FileError::new(path, format!("the directory cannot be read: {e}"));
    let (mut indexes, mut models) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file_name(&file);
        // Hidden files are another system's notes about the real ones (`._model.safetensors`).
        if name.starts_with('.') || !file.is_file() {
            continue;
        }
        if name.ends_with(INDEX_SUFFIX) {
            indexes.push(file);
        } else if name.ends_with(".safetensors") || name.ends_with(".gguf") {
            models.push(file);
        }
    }
    indexes.sort();
    models.sort();
    let is_gguf = |file: &PathBuf| file_name(file).ends_with(".gguf");
    match (indexes.as_slice(), models.as_slice()) {
        // The index decides which of the safetensors files belong to the model.
        ([index], files) if !files.iter().any(is_gguf) => Ok(Source::Index(index.clone())),
        ([], [file]) => by_content(file),
        ([], []) => Err(FileError::new(
            path,
            format!(
                "no model in this directory: looked for one '*{INDEX_SUFFIX}', one \
                 '*.safetensors' or one '*.gguf'"
            ),
        )),
        ([], files) if !files.iter().any(is_gguf) => Err(FileError::new(
            path,
            format!(
                "{} safetensors files and no '*{INDEX_SUFFIX}' that joins them: {}; name one of \
                 them",
                files.len(),
                names(files.iter())
            ),
        )),
        (indexes, files) => Err(FileError::new(
            path,
            format!(
                "more than one model in this directory: {}; name one of them",
                names(indexes.iter().chain(files))
            ),
        )),
    }
}

fn names<'a>(files: impl Iterator<Item = &'a PathBuf>) -> String {
    let mut names: Vec<String> = files.map(|file| file_name(file)).collect();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    names.truncate(NAMES_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

/// The last part of a path, as text.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
