//! The file a profile goes to: known to be writable before anything is measured.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use riverbed::base::FileError;

use crate::Failure;

/// An open file that keeps what it had until the profile is written, and goes if it was not
/// there before and none is.
pub(super) struct ProfileFile {
    path: PathBuf,
    file: File,
    is_new: bool,
}

impl ProfileFile {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let open = |new: bool| OpenOptions::new().write(true).create_new(new).open(path);
        let (file, is_new) = match open(false) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (open(true), true),
            opened => (opened, false),
        };
        let file = file.map_err(|error| cannot_write(path, &error))?;
        Ok(Self { path: path.to_path_buf(), file, is_new })
    }

    pub(super) fn write(mut self, text: &str) -> Result<(), Failure> {
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .and_then(|()| self.file.sync_all());
        written.map_err(|error| cannot_write(&self.path, &error))?;
        self.is_new = false;
        Ok(())
    }
}

impl Drop for ProfileFile {
    fn drop(&mut self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let reason = format!("cannot be written: {error}; name another file with --save-profile");
    Failure::Failed(FileError::new(path, reason).to_string())
}
