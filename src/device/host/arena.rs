//! Device memory of the host device: address space reserved with nothing behind it, and pages
//! of one shared memory file mapped into it. One page may be mapped at several addresses, as
//! on a GPU; the capacity counts each page once. Nothing is committed before it is touched.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr::null_mut;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::spec::PAGE_BYTES;
use crate::base::DeviceError;

/// What went wrong: a status of the contract. Nothing was changed.
pub(super) type Status = u32;

/// Address space and physical pages of one device.
#[derive(Debug)]
pub(super) struct Arena {
    file: OwnedFd,
    /// End of the shared memory file. Offsets are never used twice: a hole costs nothing, and
    /// an address space of 2^63 does not run out.
    file_bytes: u64,
    capacity_bytes: u64,
    committed_bytes: u64,
    /// Reserved ranges by address.
    ranges: BTreeMap<u64, Range>,
    pages: slab::Slab<Page>,
    /// Whole allocations by address: the page behind each.
    allocations: BTreeMap<u64, usize>,
}

#[derive(Debug)]
struct Range {
    bytes: u64,
    /// Mapped pages by address.
    mapped: BTreeMap<u64, usize>,
}

#[derive(Debug)]
struct Page {
    file_offset: u64,
    bytes: u64,
    mappings: u32,
    /// Its handle was given up; it goes with its last mapping.
    destroyed: bool,
}

impl Arena {
    pub(super) fn new(capacity_bytes: u64) -> Result<Self, Errno> {
        Ok(Self {
            file: memfd_create("riverbed-vram", MemfdFlags::CLOEXEC)?,
            file_bytes: 0,
            capacity_bytes,
            committed_bytes: 0,
            ranges: BTreeMap::new(),
            pages: slab::Slab::new(),
            allocations: BTreeMap::new(),
        })
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes - self.committed_bytes
    }

    /// Takes address space and a page for it in one go.
    pub(super) fn alloc(&mut self, bytes: u64) -> Result<u64, Status> {
        let bytes = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(DeviceError::OUT_OF_MEMORY)?;
        let page = self.create_page(bytes)?;
        let at = self.reserve(bytes).inspect_err(|_| self.discard_page(page))?;
        if let Err(status) = self.map(at, page) {
            self.discard_page(page);
            // Nothing is mapped there, so this cannot fail in a way that matters more.
            let _ = self.release(at, bytes);
            return Err(status);
        }
        self.allocations.insert(at, page);
        Ok(at)
    }

    pub(super) fn free(&mut self, at: u64) -> Result<(), Status> {
        let page = *self.allocations.get(&at).ok_or(DeviceError::INVALID_VALUE)?;
        let bytes = self.pages[page].bytes;
        self.unmap(at, bytes)?;
        self.allocations.remove(&at);
        self.destroy_page(page)?;
        self.release(at, bytes)
    }

    pub(super) fn reserve(&mut self, bytes: u64) -> Result<u64, Status> {
        check_granularity(bytes)?;
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
        self.ranges.insert(at, Range { bytes, mapped: BTreeMap::new() });
        Ok(at)
    }

    pub(super) fn release(&mut self, at: u64, bytes: u64) -> Result<(), Status> {
        match self.ranges.get(&at) {
            Some(range) if range.bytes == bytes && range.mapped.is_empty() => {}
            _ => return Err(DeviceError::INVALID_VALUE),
        }
        // SAFETY: the range is ours, nothing is mapped in it, and the caller of
        // `Driver::release` gives it up.
        unsafe { munmap(at as *mut c_void, bytes as usize) }
            .map_err(|_| DeviceError::INVALID_VALUE)?;
        self.ranges.remove(&at);
        Ok(())
    }

    pub(super) fn create_page(&mut self, bytes: u64) -> Result<usize, Status> {
        check_granularity(bytes)?;
        if bytes > self.free_bytes() {
            return Err(DeviceError::OUT_OF_MEMORY);
        }
        let end = self.file_bytes.checked_add(bytes).ok_or(DeviceError::OUT_OF_MEMORY)?;
        ftruncate(&self.file, end).map_err(|_| DeviceError::OUT_OF_MEMORY)?;
        let page = Page { file_offset: self.file_bytes, bytes, mappings: 0, destroyed: false };
        self.file_bytes = end;
        self.committed_bytes += bytes;
        Ok(self.pages.insert(page))
    }

    pub(super) fn destroy_page(&mut self, page: usize) -> Result<(), Status> {
        let entry = self.pages.get_mut(page).filter(|entry| !entry.destroyed);
        let entry = entry.ok_or(DeviceError::INVALID_HANDLE)?;
        entry.destroyed = true;
        if entry.mappings == 0 {
            self.discard_page(page);
        }
        Ok(())
    }

    pub(super) fn map(&mut self, at: u64, page: usize) -> Result<(), Status> {
        let entry = self.pages.get(page).filter(|entry| !entry.destroyed);
        let bytes = entry.ok_or(DeviceError::INVALID_HANDLE)?.bytes;
        let range = covering(&mut self.ranges, at, bytes).ok_or(DeviceError::INVALID_VALUE)?;
        // Mappings in one range do not overlap, so only the last before the end can collide.
        let before = range.mapped.range(..at + bytes).next_back();
        if before.is_some_and(|(&start, &other)| start + self.pages[other].bytes > at) {
            return Err(DeviceError::INVALID_VALUE);
        }
        let entry = &mut self.pages[page];
        // SAFETY: the target lies in a range this arena reserved and nothing is mapped there, so
        // replacing its inaccessible pages takes memory from nobody.
        unsafe {
            mmap(
                at as *mut c_void,
                entry.bytes as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
                &self.file,
                entry.file_offset,
            )
        }
        .map_err(|_| DeviceError::OUT_OF_MEMORY)?;
        entry.mappings += 1;
        range.mapped.insert(at, page);
        Ok(())
    }

    pub(super) fn unmap(&mut self, at: u64, bytes: u64) -> Result<(), Status> {
        check_granularity(bytes)?;
        let range = covering(&mut self.ranges, at, bytes).ok_or(DeviceError::INVALID_VALUE)?;
        let inside: Vec<(u64, usize)> =
            range.mapped.range(at..at + bytes).map(|(&start, &page)| (start, page)).collect();
        let (first, last) = match (inside.first(), inside.last()) {
            (Some(first), Some(last)) => (first.0, last.0 + self.pages[last.1].bytes),
            _ => return Err(DeviceError::INVALID_VALUE),
        };
        let cut = range.mapped.range(..at).next_back();
        let cuts_one = cut.is_some_and(|(&start, &page)| start + self.pages[page].bytes > at);
        if cuts_one || first < at || last > at + bytes {
            return Err(DeviceError::INVALID_VALUE);
        }
        // SAFETY: the range stays reserved by being mapped inaccessible again; the caller of
        // `Driver::unmap` promised that nothing touches it.
        unsafe {
            mmap_anonymous(
                at as *mut c_void,
                bytes as usize,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        }
        .map_err(|_| DeviceError::INVALID_VALUE)?;
        for (start, page) in inside {
            range.mapped.remove(&start);
            let entry = &mut self.pages[page];
            entry.mappings -= 1;
            if entry.mappings == 0 && entry.destroyed {
                discard(&self.file, &mut self.pages, &mut self.committed_bytes, page);
            }
        }
        Ok(())
    }

    /// True when every byte of the range is mapped.
    pub(super) fn is_mapped(&mut self, at: u64, bytes: u64) -> bool {
        let page_start = at - at % PAGE_BYTES;
        let Some(end) = at.checked_add(bytes) else { return false };
        let Some(range) = covering(&mut self.ranges, page_start, end - page_start) else {
            return false;
        };
        let mut reached = at;
        let first = range.mapped.range(..=at).next_back().map_or(at, |(&start, _)| start);
        for (&start, &page) in range.mapped.range(first..end) {
            if start > reached {
                return false;
            }
            reached = reached.max(start + self.pages[page].bytes);
        }
        reached >= end
    }

    fn discard_page(&mut self, page: usize) {
        discard(&self.file, &mut self.pages, &mut self.committed_bytes, page);
    }
}

fn discard(file: &OwnedFd, pages: &mut slab::Slab<Page>, committed_bytes: &mut u64, page: usize) {
    let page = pages.remove(page);
    *committed_bytes -= page.bytes;
    // A failure keeps RAM, not correctness: the offset is never used again.
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if let Err(error) = fallocate(file, punch, page.file_offset, page.bytes) {
        tracing::warn!(%error, "giving a page of host memory back failed");
    }
}

/// The reserved range that holds `bytes` from `at`, which must be page-aligned.
fn covering(ranges: &mut BTreeMap<u64, Range>, at: u64, bytes: u64) -> Option<&mut Range> {
    let end = at.checked_add(bytes)?;
    let (&start, range) = ranges.range_mut(..=at).next_back()?;
    (at.is_multiple_of(PAGE_BYTES) && end <= start + range.bytes).then_some(range)
}

fn check_granularity(bytes: u64) -> Result<(), Status> {
    if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES) {
        return Err(DeviceError::INVALID_VALUE);
    }
    Ok(())
}

impl Drop for Arena {
    fn drop(&mut self) {
        for (&at, range) in &self.ranges {
            // SAFETY: the driver is gone and with it every handle and every worker that could
            // touch the range. A failure leaves address space behind, which the process end frees.
            let _ = unsafe { munmap(at as *mut c_void, range.bytes as usize) };
        }
    }
}
