//! A small model in the temporary directory, with the checksums of what is in it.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{FileError, Random};
use crate::device::checksum;

/// Bytes outside the layers.
const REST_BYTES: usize = 100_000;
/// What makes a size end anywhere.
const ODD: usize = 13;

/// A safetensors file that is removed with its owner.
#[derive(Debug)]
pub(super) struct ScratchModel {
    path: PathBuf,
    /// Name and checksum of each tensor, in file order.
    pub(super) sums: Vec<(String, u64)>,
}

impl ScratchModel {
    /// Writes `layers` layers of nearly `layer_bytes` each, and one tensor outside of them.
    ///
    /// # Errors
    /// The file cannot be made or written: which, and why.
    pub(super) fn write(layers: usize, layer_bytes: usize) -> Result<Self, FileError> {
        let (path, file) = create()?;
        // From here on the file is there, and removed whatever happens.
        let mut model = Self { path: path.clone(), sums: Vec::new() };
        let filled = model.fill(file, layers, layer_bytes);
        filled.map(|()| model).map_err(|error| cannot_write(&path, &error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn fill(&mut self, file: File, layers: usize, layer_bytes: usize) -> std::io::Result<()> {
        let rest = ("model.embed.weight".to_string(), REST_BYTES);
        let layers = (0..layers).flat_map(|layer| {
            // Two tensors each: one that ends anywhere, and behind it one that ends where the
            // unit does, so that no byte at the end is padding.
            let small = (layer_bytes / 7).next_multiple_of(512);
            [("weight", layer_bytes.saturating_sub(small + ODD)), ("bias", small)]
                .map(|(name, len)| (format!("model.layers.{layer}.{name}"), len))
        });
        let tensors: Vec<(String, usize)> = std::iter::once(rest).chain(layers).collect();
        let mut file = BufWriter::new(file);
        let header = header(&tensors);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (seed, (name, len)) in (0..).zip(tensors) {
            let bytes = Random::bytes(seed, len);
            file.write_all(&bytes)?;
            self.sums.push((name, checksum(&bytes)));
        }
        file.flush()
    }
}

impl Drop for ScratchModel {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a scratch file stays");
        }
    }
}

/// Makes a file of a name that nothing has.
fn create() -> Result<(PathBuf, File), FileError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("riverbed-selftest-{}-{number}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            // Left by a process of the same number that was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot_write(&path, &error)),
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> FileError {
    let way_out = "set TMPDIR to a directory with room";
    FileError::new(path, format!("cannot be written: {error}; {way_out}"))
}

/// The header of a safetensors file, padded so that the data starts aligned.
fn header(tensors: &[(String, usize)]) -> String {
    let mut end = 0;
    let entries = tensors.iter().map(|(name, len)| {
        let begin = end;
        end += len;
        let entry =
            serde_json::json!({"dtype": "U8", "shape": [len], "data_offsets": [begin, end]});
        (name.clone(), entry)
    });
    let header = serde_json::Value::Object(entries.collect()).to_string();
    let padded = header.len().next_multiple_of(8);
    format!("{header:<padded$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Grouping, Model};

    #[test]
    fn the_file_is_a_model_while_its_owner_lives() {
        let scratch = ScratchModel::write(3, 5000).unwrap();
        let path = scratch.path().to_path_buf();
        let model = Model::open(&path).unwrap();
        let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        let expected: Vec<&str> = scratch.sums.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected);
        assert_eq!(Grouping::by_preset(&model).unwrap().layers.len(), 3);
        drop(scratch);
        assert!(!path.exists());
    }
}
