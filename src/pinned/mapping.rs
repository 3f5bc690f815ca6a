//! Host memory of our own, made ready to be pinned: on huge pages where the system gives them,
//! near the device, and touched by several threads, which is most of what pinning costs.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_os = "linux")]
use rustix::mm::{Advice, madvise};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::base::MIB;

/// A huge page of x86-64, and of ARM with pages of 4 KiB.
const HUGE_BYTES: usize = 2 * MIB as usize;
/// A page is touched once in so many bytes, whatever its size.
const PAGE_BYTES: usize = 4096;
/// What a thread touches at once; below two of these one thread does it all.
const TOUCH_BYTES: usize = 16 * MIB as usize;

/// Zeroed memory of one's own, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory as a `Vec<u8>` does.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` only `touch` writes, which changes no byte and is called by its maker.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes (above 0) aligned to 4096, and to a huge page where one fits; nothing is
    /// behind them before they are touched. Then they come from the NUMA `node`, if it has any.
    pub(super) fn new(len: usize, node: Option<u32>) -> io::Result<Self> {
        let mapping = if len < HUGE_BYTES { Self::map(len)? } else { Self::aligned(len)? };
        // Both are wishes: without them the memory is slower to pin or to copy, not wrong.
        #[cfg(target_os = "linux")]
        {
            // SAFETY: advice about memory that nobody else knows of.
            let _ = unsafe { madvise(mapping.start.as_ptr().cast(), len, Advice::LinuxHugepage) };
            if let Some(node) = node {
                mapping.prefer(node);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = node;
        Ok(mapping)
    }

    fn map(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing.
        let start = unsafe {
            mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Maps a huge page more, and unmaps what lies before and behind the aligned part.
    fn aligned(len: usize) -> io::Result<Self> {
        let more = len.checked_add(HUGE_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        let whole = Self::map(more)?;
        let before = whole.start.align_offset(HUGE_BYTES);
        let pages = len.next_multiple_of(PAGE_BYTES);
        if before.checked_add(pages).is_none_or(|end| end > more) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let at = whole.start.as_ptr();
        std::mem::forget(whole);
        let unmap = |offset: usize, len: usize| {
            if len > 0 {
                // SAFETY: a part of the mapping just made, which is in no slice yet. A failure
                // leaves address space behind, and no memory.
                let _ = unsafe { munmap(at.wrapping_add(offset).cast(), len) };
            }
        };
        unmap(0, before);
        unmap(before + pages, more - before - pages);
        let start = NonNull::new(at.wrapping_add(before)).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Asks for memory of a NUMA node, and for any other where that has none.
    #[cfg(target_os = "linux")]
    fn prefer(&self, node: u32) {
        const BITS: usize = u64::BITS as usize;
        let mut nodes = [0u64; 16];
        let (word, bit) = (node as usize / BITS, node as usize % BITS);
        let Some(word) = nodes.get_mut(word) else { return };
        *word |= 1 << bit;
        // The kernel reads one bit less than it is told.
        let bits = nodes.len() * BITS + 1;
        // SAFETY: the call reads the bits and sets the policy of memory that is ours alone.
        unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.len,
                libc::MPOL_PREFERRED,
                nodes.as_ptr(),
                bits,
                0,
            )
        };
    }

    /// Puts memory behind all of it, by up to `threads` threads.
    pub(super) fn touch(&self, threads: u32) {
        let pieces = self.len.div_ceil(TOUCH_BYTES);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    return;
                }
                let from = piece * TOUCH_BYTES;
                self.touch_range(from, TOUCH_BYTES.min(self.len - from));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..pieces.min(threads as usize) {
                let helper = std::thread::Builder::new().name("riverbed-touch".into());
                // Without it the others do its share.
                let _ = helper.spawn_scoped(scope, work);
            }
            work();
        });
    }

    fn touch_range(&self, offset: usize, len: usize) {
        let at = self.start.as_ptr().wrapping_add(offset);
        #[cfg(target_os = "linux")]
        {
            // SAFETY: a range of this mapping; populating changes no byte of it.
            if unsafe { madvise(at.cast(), len, Advice::LinuxPopulateWrite) }.is_ok() {
                return;
            }
        }
        for page in (0..len).step_by(PAGE_BYTES) {
            // SAFETY: within the mapping, which is still all zeros and in nobody else's hands.
            unsafe { at.wrapping_add(page).write_volatile(0) };
        }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes(&self) -> u64 {
        self.len as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and its owner, a slab, is dropped when nothing uses it any
        // more. A failure leaves memory behind, which the end of the process frees.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_mappings_begin_at_a_huge_page_and_are_all_there() {
        for len in [1, 4096, HUGE_BYTES, HUGE_BYTES + 1, 3 * TOUCH_BYTES + 4096] {
            let mapping = Mapping::new(len, Some(0)).unwrap();
            mapping.touch(4);
            let align = if len < HUGE_BYTES { PAGE_BYTES } else { HUGE_BYTES };
            assert_eq!(mapping.start.align_offset(align), 0, "{len}");
            for at in (0..len).step_by(PAGE_BYTES).chain([len - 1]) {
                // SAFETY: within the mapping, which nobody else has.
                assert_eq!(unsafe { mapping.start.add(at).read() }, 0);
            }
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error_and_an_unknown_node_none() {
        assert!(Mapping::new(usize::MAX, None).is_err());
        assert!(Mapping::new(1 << 60, None).is_err());
        Mapping::new(8192, Some(u32::MAX)).unwrap().touch(1);
        Mapping::new(8192, Some(900)).unwrap().touch(1);
    }
}
