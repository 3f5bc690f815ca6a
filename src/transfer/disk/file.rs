//! One file of a model, open for reads through the page cache and, where it allows them, past
//! it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Advice;

use super::cached;
use super::faults::{Faults, ReadFault};
use crate::base::{FileError, lock};

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::transfer) struct Identity {
    len_bytes: u64,
    modified: (i64, i64),
    place: (u64, u64),
}

impl Identity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            len_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            place: (metadata.dev(), metadata.ino()),
        }
    }
}

/// An open file. Any thread may read it.
#[derive(Debug)]
pub(in crate::transfer) struct OpenFile {
    path: PathBuf,
    /// Through the page cache, without reading ahead.
    buffered: File,
    /// Past it, once [`allow_direct`](Self::allow_direct) found that this works.
    direct: Option<File>,
    /// A direct read was refused since.
    direct_refused: AtomicBool,
    /// Length when the model was opened, in bytes.
    len_bytes: u64,
    known: Mutex<Identity>,
    /// Somebody was told that the file is not what it was.
    told: AtomicBool,
    faults: Faults,
}

/// No system reads further ahead unless it was told to: Linux's own figure is 128 KiB, and those for
/// large disks and network file systems are some MiB.
const READ_AHEAD_BYTES: u64 = 8 << 20;

impl OpenFile {
    /// Opens a file that has `len_bytes`.
    pub(in crate::transfer) fn open(path: &Path, len_bytes: u64) -> Result<Self, FileError> {
        let failed = |error: io::Error| FileError::new(path, error.to_string());
        let buffered = File::open(path).map_err(failed)?;
        let known = Identity::of(&buffered.metadata().map_err(failed)?);
        if known.len_bytes != len_bytes {
            let reason = format!(
                "it has {} bytes now and had {len_bytes} when its header was read",
                known.len_bytes
            );
            return Err(FileError::new(path, reason));
        }
        // Reads are as long as is good: what the kernel adds would stay in the page cache.
        let _ = rustix::fs::fadvise(&buffered, 0, None, Advice::Random);
        Ok(Self {
            path: path.to_owned(),
            buffered,
            direct: None,
            direct_refused: AtomicBool::new(false),
            len_bytes,
            known: Mutex::new(known),
            told: AtomicBool::new(false),
            faults: Faults::default(),
        })
    }

    pub(in crate::transfer) fn inject(&self, fault: ReadFault) {
        self.faults.add(fault);
    }

    /// What it is now, as far as it was looked at.
    pub(in crate::transfer) fn identity(&self) -> Identity {
        *lock(&self.known)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The file for reads through the page cache.
    pub(super) fn buffered(&self) -> &File {
        &self.buffered
    }

    /// The file for reads past the page cache, if they work.
    pub(super) fn direct(&self) -> Option<&File> {
        self.direct.as_ref().filter(|_| !self.direct_refused.load(Ordering::Relaxed))
    }

    /// Reads go past the page cache by `file` from now on.
    pub(super) fn allow_direct(&mut self, file: File) {
        // What the kernel cannot read directly it reads through the page cache.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        self.direct = Some(file);
    }

    /// Whether the page cache has `len` bytes at `offset`, and what the kernel would read ahead
    /// behind them: at the end of what is cached, a read of cached pages has it go on reading.
    pub(super) fn is_cached(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).saturating_add(READ_AHEAD_BYTES).min(self.len_bytes);
        cached::is_cached(&self.buffered, offset, end.saturating_sub(offset))
    }

    /// Drops a range from the page cache.
    pub(super) fn drop_cached(&self, offset: u64, len: u64) {
        if let Some(len) = NonZeroU64::new(len) {
            let _ = rustix::fs::fadvise(&self.buffered, offset, Some(len), Advice::DontNeed);
        }
    }

    /// Fills `into` from `offset`, through the page cache. Blocks.
    pub(in crate::transfer) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        let len = into.len() as u64;
        self.fill(offset, into, 0, offset..offset + len)
    }

    /// What a read of `len` bytes at `offset` ended in, for whoever carried it out.
    pub(super) fn outcome(
        &self,
        offset: u64,
        len: u64,
        result: io::Result<usize>,
    ) -> io::Result<usize> {
        self.faults.strike(offset, len, result)
    }

    /// Whether a read that failed so is to be done again, through the page cache. Where the file
    /// turns out not to allow direct reads, there will be none any more.
    pub(super) fn is_passing(&self, error: &io::Error, direct: bool) -> bool {
        use rustix::io::Errno;
        let number = error.raw_os_error();
        let refused = [Errno::INVAL, Errno::OPNOTSUPP];
        if direct && refused.iter().any(|errno| number == Some(errno.raw_os_error())) {
            if !self.direct_refused.swap(true, Ordering::Relaxed) {
                let path = self.path.display();
                tracing::warn!(%path, %error, "direct reads are refused: reading through the page cache");
            }
            return true;
        }
        is_passing(error)
    }

    /// Goes on with a read through the page cache, of which `got` bytes are there, until those
    /// of the range `needed` are. Blocks.
    pub(super) fn fill(
        &self,
        offset: u64,
        into: &mut [u8],
        mut got: usize,
        needed: std::ops::Range<u64>,
    ) -> Result<(), FileError> {
        while offset + (got as u64) < needed.end {
            let at = offset + got as u64;
            let rest = into.get_mut(got..).unwrap_or_default();
            let len = rest.len() as u64;
            match self.outcome(at, len, self.buffered.read_at(rest, at)) {
                Ok(0) => return Err(self.ends_at(at.max(needed.start), &needed)),
                Ok(more) => got += more,
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(self.failed(at.max(needed.start), &needed, &error)),
            }
        }
        Ok(())
    }

    /// The file ended at `offset`, where more bytes were needed.
    fn ends_at(&self, offset: u64, needed: &std::ops::Range<u64>) -> FileError {
        self.told.store(true, Ordering::Relaxed);
        let now = self.buffered.metadata().map_or(0, |metadata| metadata.len());
        let reason = format!(
            "it ends before the {} bytes to read here: it has {now} bytes now and had {}; put it \
             back, or open the model again",
            needed.end - needed.start,
            self.len_bytes,
        );
        FileError::at(&self.path, offset, reason)
    }

    /// Reading failed.
    pub(super) fn failed(
        &self,
        offset: u64,
        needed: &std::ops::Range<u64>,
        error: &io::Error,
    ) -> FileError {
        let bytes = needed.end - needed.start;
        FileError::at(&self.path, offset, format!("reading {bytes} bytes failed: {error}"))
    }

    /// Whether the file still is what it was; told once, and of what can be told: reads of a
    /// file cut short fail where it ends.
    pub(super) fn check(&self, offset: u64) -> Result<(), FileError> {
        let Ok(metadata) = self.buffered.metadata() else { return Ok(()) };
        let mut now = Identity::of(&metadata);
        if now.len_bytes < self.len_bytes {
            return Ok(());
        }
        let named = std::fs::metadata(&self.path).ok();
        let mut known = lock(&self.known);
        // A file that was unlinked is whole as long as it is open.
        now.place = named.map_or(known.place, |named| Identity::of(&named).place);
        if now == *known {
            return Ok(());
        }
        let replaced = now.place != known.place;
        *known = now;
        if self.told.swap(false, Ordering::Relaxed) && !replaced {
            // It was cut short and is whole again; who read it then was told.
            return Ok(());
        }
        let reason = if replaced {
            "another file has taken its name while it was read; open the model again to read that"
                .into()
        } else {
            format!(
                "it was written to while it was read (it has {} bytes now and had {}); load again, \
                 or open the model again if it is another model now",
                now.len_bytes, self.len_bytes
            )
        };
        Err(FileError::at(&self.path, offset, reason))
    }
}

/// Whether the same read may succeed when it is asked again at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
