//! What the files and the system allow: asked once, when a loader is made.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::bounce::Bounce;
use super::file::OpenFile;
use super::options::{DirectReads, DiskBackend, DiskOptions, DiskReport};
use super::ring::Ring;
use crate::base::{Error, FileError, Result};
use crate::transfer::plan::ALIGN;

/// Readers that carry deep rings, or copy out of memory.
const RING_THREADS: usize = 16;

/// Finds out how `files` are to be read, and opens them for it. `threads` is how many readers
/// there are to be where each can do more than wait for one read.
///
/// # Errors
/// What is asked for and not there: a ring, or direct reads.
pub(in crate::transfer) fn probe(
    files: &mut [OpenFile],
    options: DiskOptions,
    threads: usize,
) -> Result<DiskReport> {
    options.check()?;
    let threads = threads.clamp(1, RING_THREADS);
    let (direct, direct_why) = probe_direct(files, options.direct)?;
    let (backend, backend_why) = match options.backend {
        DiskBackend::Threads => (DiskBackend::Threads, "threads were asked for".into()),
        asked => match (probe_ring(files.first()), asked) {
            (Ok(()), _) => (DiskBackend::IoUring, "io_uring works".into()),
            (Err(why), DiskBackend::IoUring) => {
                return Err(Error::Unsupported {
                    what: "reading by io_uring".into(),
                    by: format!("this system ({why})"),
                    way_out: "let disk option backend be auto or threads".into(),
                });
            }
            (Err(why), _) => (DiskBackend::Threads, format!("no io_uring ({why})")),
        },
    };
    // Where nothing waits for a disk, more threads than copy at once only take turns.
    let in_memory = files.iter().all(|file| is_in_memory(file.buffered()));
    let threads = match backend {
        DiskBackend::Threads if !in_memory => options.depth.max(threads),
        _ => threads,
    };
    let memory_why = if in_memory { "; the files are in memory" } else { "" };
    let why = format!("{backend_why}; {direct_why}{memory_why}");
    Ok(DiskReport { backend, direct, depth: options.depth.max(threads), threads, why })
}

/// Opens for direct reads what allows them; whether all do, and why not.
fn probe_direct(files: &mut [OpenFile], asked: DirectReads) -> Result<(bool, String)> {
    if asked == DirectReads::Off {
        return Ok((false, "direct reads are off".into()));
    }
    let mut refused = None;
    for file in files.iter_mut() {
        match open_direct(file.path(), file.len_bytes()) {
            Ok(direct) => file.allow_direct(direct),
            Err(why) if asked == DirectReads::On => {
                let way_out = "let disk option direct be auto or off";
                let reason = format!("direct reads are not possible: {why}; {way_out}");
                return Err(FileError::new(file.path(), reason).into());
            }
            Err(why) => refused = Some(format!("{}: {why}", file.path().display())),
        }
    }
    let why = refused.map_or("direct reads work".into(), |why| format!("no direct reads ({why})"));
    Ok((why == "direct reads work", why))
}

/// Opens `path` past the page cache and tries it, or says why not.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path, len_bytes: u64) -> Result<File, String> {
    use rustix::fs::{AtFlags, StatxFlags, statx};

    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| format!("opening: {error}"))?;
    if let Ok(found) = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::DIOALIGN)
    {
        let (memory, offset) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
        if memory == 0 || offset == 0 {
            return Err("the file system has none".into());
        }
        if !ALIGN.is_multiple_of(memory.into()) || !ALIGN.is_multiple_of(offset.into()) {
            return Err(format!("they must be aligned to {}", memory.max(offset)));
        }
    }
    if len_bytes > 0 {
        let mut into = Bounce::new();
        file.read_at(into.first_page(), 0).map_err(|error| format!("reading: {error}"))?;
    }
    Ok(file)
}

/// As above.
#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path, _len_bytes: u64) -> Result<File, String> {
    Err("this system has none".into())
}

/// Whether a ring can be had and reads, or why not.
fn probe_ring(file: Option<&OpenFile>) -> Result<(), String> {
    let mut ring = Ring::new(1).map_err(|error| format!("setting it up: {error}"))?;
    match file.filter(|file| file.len_bytes() > 0) {
        Some(file) => match ring.try_read(file.buffered()) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("reading: {error}")),
        },
        None => Ok(()),
    }
}

/// Whether a file lives in memory, as on tmpfs.
#[cfg(target_os = "linux")]
fn is_in_memory(file: &File) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    rustix::fs::fstatfs(file)
        .is_ok_and(|found| matches!(found.f_type as u64 & 0xffff_ffff, TMPFS | RAMFS))
}

/// As above.
#[cfg(not(target_os = "linux"))]
fn is_in_memory(_file: &File) -> bool {
    false
}
