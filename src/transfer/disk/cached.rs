//! Whether the page cache has a range of a file.
#![allow(unsafe_code)]

use std::fs::File;

/// What the kernel tells of a range (`struct cachestat`), in pages.
#[cfg(target_os = "linux")]
#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Number of the system call, the same on every architecture since Linux 6.5.
#[cfg(target_os = "linux")]
const CACHESTAT: libc::c_long = 451;

/// Whether all of `len` bytes at `offset` are cached, so that reading them asks no disk. Never
/// blocks. False where the system does not tell without reading.
#[cfg(target_os = "linux")]
pub(super) fn is_cached(file: &File, offset: u64, len: u64) -> bool {
    use std::os::fd::AsRawFd;

    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }

    let range = Range { offset, len };
    let mut found = CacheStat::default();
    // SAFETY: both structs are as the kernel has them, and live through the call.
    let refused = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut found, 0u32)
    };
    if refused != 0 {
        return sample(file, offset, len);
    }
    found.cached >= len.div_ceil(page_bytes())
}

#[cfg(target_os = "linux")]
fn page_bytes() -> u64 {
    // SAFETY: it reads a number of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096).max(1)
}

/// Asks for a byte at each end and in the middle, without waiting for a disk.
#[cfg(target_os = "linux")]
fn sample(file: &File, offset: u64, len: u64) -> bool {
    use std::io::IoSliceMut;

    [offset, offset + len / 2, (offset + len).saturating_sub(1)].into_iter().all(|at| {
        let mut byte = [0];
        let into = &mut [IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(file, into, at, rustix::io::ReadWriteFlags::NOWAIT) == Ok(1)
    })
}

/// As above.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_cached(_file: &File, _offset: u64, _len: u64) -> bool {
    false
}
