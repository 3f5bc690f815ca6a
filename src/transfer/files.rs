//! The files weights are read from: opened once, read at positions, from any thread.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::base::{FileError, Result};
use crate::weights::Model;

/// The open files of a model.
#[derive(Debug)]
pub struct Files(Vec<(PathBuf, File)>);

impl Files {
    /// Opens every file of `model`.
    ///
    /// # Errors
    /// A file that cannot be opened, or is not as long as its header was read with.
    pub fn open(model: &Model) -> Result<Self> {
        let open = |file: &crate::weights::ModelFile| {
            let failed = |error: io::Error| FileError::new(&file.path, error.to_string());
            let handle = File::open(&file.path).map_err(failed)?;
            let len_bytes = handle.metadata().map_err(failed)?.len();
            if len_bytes != file.len_bytes {
                let reason = format!(
                    "it has {len_bytes} bytes now and had {} when its header was read",
                    file.len_bytes
                );
                return Err(FileError::new(&file.path, reason));
            }
            Ok((file.path.clone(), handle))
        };
        Ok(Self(model.files().iter().map(open).collect::<Result<_, FileError>>()?))
    }

    /// Fills `into` from `offset` bytes into file number `file`. Blocks.
    ///
    /// # Errors
    /// The file ends too early, or cannot be read.
    pub fn read(&self, file: usize, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        let Some((path, handle)) = self.0.get(file) else {
            return Err(FileError::new("", format!("there is no file number {file}")));
        };
        handle.read_exact_at(into, offset).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    format!("it ends before the {} bytes to read here", into.len())
                }
                _ => format!("reading {} bytes failed: {error}", into.len()),
            };
            FileError::at(path, offset, reason)
        })
    }
}
