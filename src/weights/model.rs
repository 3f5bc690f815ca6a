//! A model on disk: its files and its tensors. How tensors group into layers is in `units`;
//! where the formats' rules live is in `safetensors`, `shards` and `gguf`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::base::{FileError, Result};

use super::cursor::Cursor;
use super::dtype::Dtype;
use super::locate::{Source, locate};
use super::tensor::Tensor;
use super::{gguf, safetensors, shards};

/// The format of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// One safetensors file, or several joined by an index.
    Safetensors,
    /// One GGUF file of version 2 or 3.
    Gguf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
        })
    }
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length when it was opened, in bytes.
    pub len_bytes: u64,
}

/// A model's headers, read and checked: every tensor lies inside its file, shares no byte with
/// another, and has the length its type and shape ask for. No file is held open.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) files: Vec<ModelFile>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) total_bytes: u64,
    pub(super) architecture: Option<String>,
    pub(super) name: Option<String>,
    /// Types in the files, of tensors that are narrowed.
    pub(super) kept: BTreeMap<usize, Dtype>,
}

impl Model {
    /// Opens a model: a `.safetensors` file, a `*.safetensors.index.json` with its shards next
    /// to it, a `.gguf` file, or a directory that holds exactly one of those. Formats are told
    /// apart by content. Only headers are read, so that this takes milliseconds for a model of
    /// any size, and memory follows the headers' real length, whatever they claim.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) with the file, the offset where one is known, and
    /// the value at fault: the file is missing, cut short, malformed or of an unknown type.
    ///
    /// ```
    /// use riverbed::weights::{Dtype, Model};
    /// let header = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    /// let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    /// bytes.extend_from_slice(header);
    /// bytes.extend_from_slice(&[0; 8]);
    /// let directory = tempfile::tempdir()?;
    /// std::fs::write(directory.path().join("model.safetensors"), bytes)?;
    ///
    /// let model = Model::open(directory.path())?;
    /// assert_eq!(model.tensors()[0].dtype, Dtype::F32);
    /// assert_eq!(model.total_bytes(), 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut architecture, mut name) = (None, None);
        let (format, files, tensors) = match locate(path)? {
            Source::Safetensors(file) => {
                let (file, cursor) = open_file(file)?;
                (Format::Safetensors, vec![file], safetensors::read(cursor)?)
            }
            Source::Index(file) => {
                let (files, tensors) = shards::read(&file)?;
                (Format::Safetensors, files, tensors)
            }
            Source::Gguf(file) => {
                let (file, cursor) = open_file(file)?;
                let header = gguf::read(cursor)?;
                (architecture, name) = (header.architecture, header.name);
                (Format::Gguf, vec![file], header.tensors)
            }
        };
        let total_bytes = tensors
            .iter()
            .try_fold(0u64, |sum, tensor| sum.checked_add(tensor.len_bytes))
            .ok_or_else(|| FileError::new(path, "the tensors have more than 2^64 bytes"))?;
        let path = path.to_path_buf();
        let kept = BTreeMap::new();
        Ok(Self { path, format, files, tensors, total_bytes, architecture, name, kept })
    }

    /// The path the model was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format of its files.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its files, shards in the order of their names.
    #[must_use]
    pub fn files(&self) -> &[ModelFile] {
        &self.files
    }

    /// Its tensors in file order: by file, then by offset.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Bytes of all tensors together, without headers and padding.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// A GGUF file's `general.architecture` (`llama`).
    #[must_use]
    pub fn architecture(&self) -> Option<&str> {
        self.architecture.as_deref()
    }

    /// A GGUF file's `general.name`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

fn open_file(path: PathBuf) -> Result<(ModelFile, Cursor), FileError> {
    let cursor = Cursor::open(&path)?;
    let len_bytes = cursor.len();
    Ok((ModelFile { path, len_bytes }, cursor))
}
