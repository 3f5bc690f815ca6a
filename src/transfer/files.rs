//! The files weights are read from: opened once, read at positions, from any thread.

use crate::base::{FileError, Result};
use crate::weights::Model;

use super::disk::{Identity, OpenFile, ReadFault};

/// The open files of a model.
#[derive(Debug)]
pub struct Files(pub(super) Vec<OpenFile>);

/// What tells the state of one model's files from another's: bytes that were read from one set
/// may stand for those of an equal one.
pub(super) type FileSet = Vec<Identity>;

impl Files {
    /// What the files are.
    pub(super) fn identity(&self) -> FileSet {
        self.0.iter().map(OpenFile::identity).collect()
    }

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
