//! What the disk gives to plain reads: the limit that loading is held against.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use riverbed::base::{FileError, format_bytes};
use rustix::fs::{Advice, Mode, OFlags};

use crate::Failure;

/// What direct reads have to be aligned to, at most, on the file systems there are.
const ALIGN_BYTES: usize = 4096;

/// Sequential direct reads of a whole file by several threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(super) struct Setting {
    pub(super) block_bytes: usize,
    pub(super) threads: usize,
}

impl Setting {
    /// What is tried: like `fio --direct=1 --rw=read`, positioned reads by so many jobs.
    pub(super) const ALL: [Self; 6] = [
        Self { block_bytes: 1 << 20, threads: 1 },
        Self { block_bytes: 1 << 20, threads: 8 },
        Self { block_bytes: 1 << 20, threads: 16 },
        Self { block_bytes: 4 << 20, threads: 1 },
        Self { block_bytes: 4 << 20, threads: 4 },
        Self { block_bytes: 4 << 20, threads: 16 },
    ];

    pub(super) fn name(self, direct: bool) -> String {
        let Self { block_bytes, threads } = self;
        let kind = if direct { "direct reads" } else { "reads, no direct ones here," };
        format!("{kind} of {}, {threads} at once", format_bytes(block_bytes as u64))
    }

    /// Reads all of `path`, past the page cache; gives the seconds that took.
    pub(super) fn read(self, path: &Path, direct: bool) -> Result<f64, Failure> {
        if !direct {
            drop_cache(path)?;
        }
        let failed = |error: std::io::Error| {
            let error = FileError::new(path, format!("cannot be read: {error}"));
            Failure::from(riverbed::Error::from(error))
        };
        let file = open(path, direct).map_err(failed)?;
        let len_bytes = file.metadata().map_err(failed)?.len();
        let next = AtomicU64::new(0);
        let begun = Instant::now();
        let read = || {
            let mut buffer = vec![0; self.block_bytes + ALIGN_BYTES];
            let start = buffer.as_ptr().align_offset(ALIGN_BYTES);
            let block = &mut buffer[start..start + self.block_bytes];
            loop {
                let at = next.fetch_add(self.block_bytes as u64, Ordering::Relaxed);
                if at >= len_bytes {
                    return Ok(());
                }
                // The last read is short.
                file.read_at(block, at)?;
            }
        };
        let outcome = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(read)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
            })
        });
        outcome.map_err(failed)?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// Whether the file system of `path` has direct reads.
pub(super) fn reads_directly(path: &Path) -> bool {
    open(path, true).is_ok()
}

fn open(path: &Path, direct: bool) -> std::io::Result<File> {
    let direct = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | direct;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Has the system forget what it cached of a file.
pub(super) fn drop_cache(path: &Path) -> Result<(), Failure> {
    let dropped = File::open(path)
        .and_then(|file| rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(Into::into));
    dropped.map_err(|error| {
        let error = FileError::new(path, format!("cannot be dropped from the cache: {error}"));
        Failure::from(riverbed::Error::from(error))
    })
}

/// Has the system cache all of a file.
pub(super) fn fill_cache(path: &Path) -> Result<(), Failure> {
    let read = File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    read.map(drop).map_err(|error| {
        Failure::from(riverbed::Error::from(FileError::new(path, error.to_string())))
    })
}
