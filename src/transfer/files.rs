//! The files weights are read from: opened once, read at positions, from any thread.

use crate::base::{FileError, Result};
use crate::weights::Model;

use super::disk::{OpenFile, ReadFault};

/// The open files of a model.
#[derive(Debug)]
pub struct Files(pub(super) Vec<OpenFile>);

impl Files {
    /// Opens every file of `model`.
    ///
    /// # Errors
    /// A file that cannot be opened, or is not as long as its header was read with.
    pub fn open(model: &Model) -> Result<Self> {
        let files = model.files().iter().map(|file| OpenFile::open(&file.path, file.len_bytes));
        Ok(Self(files.collect::<Result<_, FileError>>()?))
    }

    /// Fills `into` from `offset` bytes into file number `file`, through the page cache. Blocks.
    ///
    /// # Errors
    /// The file ends too early, or cannot be read.
    pub fn read(&self, file: usize, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        let Some(file) = self.0.get(file) else {
            return Err(FileError::new("", format!("there is no file number {file}")));
        };
        file.read(offset, into)
    }

    /// Makes reads fail as told: for tests of what happens then.
    #[doc(hidden)]
    pub fn inject(&self, fault: ReadFault) {
        if let Some(file) = self.0.get(fault.file) {
            file.inject(fault);
        }
    }
}
