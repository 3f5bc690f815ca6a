//! A reader over one file's header that knows its position and the bytes left, so that every
//! error names an offset and no length from the file is believed before it is compared with
//! what the file really holds. Formats are not known here.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::base::FileError;

/// A positioned, bounded reader. All positions are bytes from the file's start.
#[derive(Debug)]
pub(super) struct Cursor {
    reader: BufReader<File>,
    path: PathBuf,
    position: u64,
    len: u64,
}

impl Cursor {
    /// Opens a regular file at its start.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let failed = |what: &str, e: std::io::Error| FileError::new(path, format!("{what}: {e}"));
        // Asked before opening: opening a named pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(|e| failed("cannot be found", e))?;
        if !kind.is_file() {
            return Err(FileError::new(path, "not a regular file"));
        }
        let file = File::open(path).map_err(|e| failed("cannot be opened", e))?;
        let len = file.metadata().map_err(|e| failed("its size cannot be read", e))?.len();
        // Buffers no more than a small file holds.
        let buffer = usize::try_from(len.min(64 << 10)).unwrap_or(64 << 10);
        let reader = BufReader::with_capacity(buffer.max(16), file);
        Ok(Self { reader, path: path.to_path_buf(), position: 0, len })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The file's length.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes between the position and the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.len.saturating_sub(self.position)
    }

    /// An error at the current position.
    pub(super) fn error(&self, reason: impl Into<String>) -> FileError {
        FileError::at(&self.path, self.position, reason)
    }

    /// Refuses when fewer than `bytes` are left. `what` is what they would hold.
    pub(super) fn need(&self, bytes: u64, what: &str) -> Result<(), FileError> {
        if bytes <= self.left() {
            return Ok(());
        }
        Err(self.error(format!(
            "{what} needs {bytes} bytes and the file has {} left: cut short, or a wrong length",
            self.left()
        )))
    }

    /// Refuses a count whose entries, at `entry_bytes` each at the least, cannot be there.
    pub(super) fn need_entries(
        &self,
        count: u64,
        entry_bytes: u64,
        what: &str,
    ) -> Result<(), FileError> {
        match count.checked_mul(entry_bytes) {
            Some(bytes) if bytes <= self.left() => Ok(()),
            _ => Err(self.error(format!(
                "{count} {what} of at least {entry_bytes} bytes each cannot be in the {} bytes \
                 left",
                self.left()
            ))),
        }
    }

    fn fill(&mut self, into: &mut [u8], what: &str) -> Result<(), FileError> {
        self.need(into.len() as u64, what)?;
        self.reader.read_exact(into).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => self.error(format!("{what}: the file became shorter")),
            _ => self.error(format!("{what}: {e}")),
        })?;
        self.position += into.len() as u64;
        Ok(())
    }

    /// Reads `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FileError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, FileError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, FileError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads `len` bytes; nothing is allocated before they are known to be there.
    pub(super) fn bytes(&mut self, len: u64, what: &str) -> Result<Vec<u8>, FileError> {
        self.need(len, what)?;
        let size = usize::try_from(len)
            .map_err(|_| self.error(format!("{what}: {len} bytes do not fit in memory")))?;
        let mut bytes = vec![0; size];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// Reads a 64-bit length and that many bytes of UTF-8, `max` at most.
    pub(super) fn string(&mut self, max: u64, what: &str) -> Result<String, FileError> {
        let at = self.position;
        let len = self.u64(what)?;
        if len > max {
            return Err(FileError::at(
                &self.path,
                at,
                format!("{what} of {len} bytes is longer than the {max} allowed"),
            ));
        }
        let bytes = self.bytes(len, what)?;
        String::from_utf8(bytes).map_err(|e| {
            let bad = at + 8 + e.utf8_error().valid_up_to() as u64;
            FileError::at(&self.path, bad, format!("{what} is not UTF-8"))
        })
    }

    /// Steps over `bytes` without reading them.
    pub(super) fn skip(&mut self, bytes: u64, what: &str) -> Result<(), FileError> {
        self.need(bytes, what)?;
        let step = i64::try_from(bytes)
            .map_err(|_| self.error(format!("{what}: {bytes} bytes are too many to step over")))?;
        self.reader.seek_relative(step).map_err(|e| self.error(format!("{what}: {e}")))?;
        self.position += bytes;
        Ok(())
    }
}
