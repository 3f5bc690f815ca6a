//! What stands behind the host device's memory: one shared memory file, mapped page by page into
//! reserved address space; and memory of its own for what is mapped once, which the system may give
//! in huge pages: touching it takes an eighth of the time. Nothing is committed before it is touched.

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr::null_mut;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::spec::PAGE_BYTES;
use crate::base::DeviceError;
use crate::device::arena::{Backing, Status};

/// The token of every page that is mapped once: no offset of the file reaches it.
const SINGLE: u64 = u64::MAX;

/// Maps memory of its own at `at`.
///
/// # Safety
/// As for [`Backing::map`].
unsafe fn map_single(at: u64, bytes: u64) -> Result<(), Status> {
    let (start, len) = (at as *mut c_void, bytes as usize);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the target is reserved and shows nothing in use.
    unsafe { mmap_anonymous(start, len, ProtFlags::READ | ProtFlags::WRITE, flags) }
        .map_err(|_| DeviceError::OUT_OF_MEMORY)?;
    // SAFETY: the range was mapped just now. Without huge pages it is as good, only slower.
    let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
    Ok(())
}

/// A shared memory file.
#[derive(Debug)]
pub(super) struct SharedFile {
    file: OwnedFd,
    /// Its end. Offsets are never used twice: a hole costs nothing, and an address space of
    /// 2^63 does not run out.
    bytes: u64,
}

impl SharedFile {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self { file: memfd_create("riverbed-vram", MemfdFlags::CLOEXEC)?, bytes: 0 })
    }
}

impl Backing for SharedFile {
    fn reserve(&mut self, bytes: u64) -> Result<u64, Status> {
        // A page more than asked, to align the start to a page.
        let span = bytes.checked_add(PAGE_BYTES).ok_or(DeviceError::OUT_OF_MEMORY)?;
        let span = usize::try_from(span).map_err(|_| DeviceError::OUT_OF_MEMORY)?;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing.
        let start = unsafe {
            mmap_anonymous(
                null_mut(),
                span,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|_| DeviceError::OUT_OF_MEMORY)? as u64;
        let at = start.next_multiple_of(PAGE_BYTES);
        for (edge, len) in [(start, at - start), (at + bytes, start + span as u64 - at - bytes)] {
            if len > 0 {
                // SAFETY: the edges belong to the mapping just made and nobody knows them yet.
                // A failure leaves an inaccessible sliver of address space, which harms nobody.
                let _ = unsafe { munmap(edge as *mut c_void, len as usize) };
            }
        }
        Ok(at)
    }

    unsafe fn release(&mut self, at: u64, bytes: u64) -> Result<(), Status> {
        // SAFETY: the caller gives the whole reservation up.
        unsafe { munmap(at as *mut c_void, bytes as usize) }.map_err(|_| DeviceError::INVALID_VALUE)
    }

    fn create(&mut self, bytes: u64) -> Result<u64, Status> {
        let end = self.bytes.checked_add(bytes).ok_or(DeviceError::OUT_OF_MEMORY)?;
        ftruncate(&self.file, end).map_err(|_| DeviceError::OUT_OF_MEMORY)?;
        Ok(std::mem::replace(&mut self.bytes, end))
    }

    fn create_single(&mut self, _bytes: u64) -> Result<u64, Status> {
        Ok(SINGLE)
    }

    fn discard(&mut self, token: u64, bytes: u64) {
        if token == SINGLE {
            // It went when it was unmapped.
            return;
        }
        // A failure keeps RAM, not correctness: the offset is never used again.
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(&self.file, punch, token, bytes) {
            tracing::warn!(%error, "giving a page of host memory back failed");
        }
    }

    unsafe fn map(&mut self, at: u64, token: u64, bytes: u64) -> Result<(), Status> {
        if token == SINGLE {
            // SAFETY: the caller's promise, as below.
            return unsafe { map_single(at, bytes) };
        }
        // SAFETY: the target is reserved and shows nothing in use, so replacing what is there
        // takes memory from nobody.
        unsafe {
            mmap(
                at as *mut c_void,
                bytes as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
                &self.file,
                token,
            )
        }
        .map(drop)
        .map_err(|_| DeviceError::OUT_OF_MEMORY)
    }

    unsafe fn unmap(&mut self, at: u64, bytes: u64) -> Result<(), Status> {
        // SAFETY: the range stays reserved by being mapped inaccessible again; the caller
        // promised that nothing touches it.
        unsafe {
            mmap_anonymous(
                at as *mut c_void,
                bytes as usize,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        }
        .map(drop)
        .map_err(|_| DeviceError::INVALID_VALUE)
    }
}
