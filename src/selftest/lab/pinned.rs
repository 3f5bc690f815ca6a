//! Host memory that copies go to and from.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use rustix::mm::{Advice, madvise};

use super::{Found, Lab};
use crate::base::lock;
use crate::selftest::finding::{Finding, ensure};

/// Pages of the host.
const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

/// An address in host memory the lab holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::selftest) struct HostPtr(NonNull<u8>);

// SAFETY: a number; every access goes through the lab, which checks the range.
unsafe impl Send for HostPtr {}
// SAFETY: as above.
unsafe impl Sync for HostPtr {}

impl HostPtr {
    /// The address `bytes` further on.
    pub(in crate::selftest) fn offset(self, bytes: usize) -> Self {
        Self(NonNull::new(self.as_ptr().wrapping_add(bytes)).unwrap_or(self.0))
    }

    pub(in crate::selftest) fn address(self) -> u64 {
        self.as_ptr() as u64
    }

    pub(super) fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr()
    }

    pub(super) fn start(self) -> NonNull<u8> {
        self.0
    }
}

impl fmt::Debug for HostPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Lab {
    /// Takes pinned memory from the driver.
    pub(in crate::selftest) fn pinned(&self, len: usize) -> Found<HostPtr> {
        let start = HostPtr(self.driver().alloc_pinned(len as u64)?);
        let mut held = lock(&self.held);
        held.pinned.push(start);
        held.host.add(start.address(), len as u64);
        Ok(start)
    }

    /// Pinned memory with these bytes in it.
    pub(in crate::selftest) fn pinned_with(&self, bytes: &[u8]) -> Found<HostPtr> {
        let start = self.pinned(bytes.len().max(1))?;
        self.write(start, bytes)?;
        Ok(start)
    }

    /// Gives pinned memory back that nothing in flight touches.
    pub(in crate::selftest) fn free_pinned(&self, start: HostPtr) -> Found {
        // Off the books first: another thread may get the memory at once.
        let bytes = {
            let mut held = lock(&self.held);
            let place = held.pinned.iter().position(|&other| other == start);
            let place = place.ok_or_else(|| Finding::new(format!("{start:?} is not held")))?;
            held.pinned.swap_remove(place);
            held.host.remove(start.address())
        };
        // SAFETY: from `pinned`, not freed yet, and the check synchronized what touches it.
        let freed = unsafe { self.driver().free_pinned(start.0) };
        if freed.is_err() {
            let mut held = lock(&self.held);
            held.pinned.push(start);
            held.host.add(start.address(), bytes);
        }
        Ok(freed?)
    }

    /// Whole pages of ordinary memory, zeroed and touched. They belong to the lab until it ends.
    pub(in crate::selftest) fn own(&self, len: usize) -> Found<HostPtr> {
        self.own_of(len, PAGE)
    }

    /// As [`own`](Self::own), in huge pages where the system has any to give.
    pub(in crate::selftest) fn own_huge(&self, len: usize) -> Found<HostPtr> {
        self.own_of(len, HUGE_PAGE)
    }

    fn own_of(&self, len: usize, page: usize) -> Found<HostPtr> {
        let mut own: Vec<u8> = Vec::new();
        let room = len.next_multiple_of(page).saturating_add(page);
        own.try_reserve_exact(room)
            .map_err(|_| Finding::new(format!("the system has no {room} bytes of memory")))?;
        let start = own.as_mut_ptr().wrapping_add(own.as_ptr().align_offset(page));
        let start = NonNull::new(start).ok_or_else(|| Finding::new("memory at no address"))?;
        if page == HUGE_PAGE {
            let len = len / page * page;
            // SAFETY: whole pages inside the reserved room; the advice changes no content.
            let advised = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
            if let Err(error) = advised {
                tracing::debug!(%error, "no huge pages");
            }
        }
        // Writes all of it: this is the touch.
        own.resize(room, 0);
        lock(&self.held).own.push(own);
        Ok(HostPtr(start))
    }

    /// Pins `len` bytes of [`own`](Self::own) memory.
    pub(in crate::selftest) fn register(&self, start: HostPtr, len: usize) -> Found {
        let is_inside = |own: &Vec<u8>| {
            let begin = own.as_ptr() as u64;
            start.address() >= begin && start.address() + len as u64 <= begin + own.len() as u64
        };
        let inside = lock(&self.held).own.iter().any(is_inside);
        ensure!(inside, "{len} bytes at {start:?} are not the lab's own");
        // SAFETY: the memory is the lab's own, which keeps it until the pinning has ended.
        unsafe { self.driver().register(start.0, len as u64) }?;
        let mut held = lock(&self.held);
        held.registered.push(start);
        held.host.add(start.address(), len as u64);
        Ok(())
    }

    /// Memory of the lab's own, pinned.
    pub(in crate::selftest) fn registered(&self, len: usize) -> Found<HostPtr> {
        let start = self.own(len)?;
        self.register(start, len)?;
        Ok(start)
    }

    /// Ends the pinning of [`registered`](Self::registered) memory.
    pub(in crate::selftest) fn unregister(&self, start: HostPtr) -> Found {
        let held = lock(&self.held).registered.contains(&start);
        ensure!(held, "{start:?} is not registered");
        // SAFETY: registered and not ended yet; the check synchronized what touches it.
        unsafe { self.driver().unregister(start.0) }?;
        let mut held = lock(&self.held);
        held.registered.retain(|&other| other != start);
        held.host.remove(start.address());
        Ok(())
    }

    /// Writes to pinned memory that nothing in flight touches, or only behind a closed gate.
    pub(in crate::selftest) fn write(&self, at: HostPtr, bytes: &[u8]) -> Found {
        let held = lock(&self.held);
        ensure!(held.host.covers(at.address(), bytes.len() as u64), "{at:?} is not all pinned");
        // SAFETY: the range is held, and the lock keeps it so.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Reads pinned memory that nothing in flight writes.
    pub(in crate::selftest) fn read(&self, at: HostPtr, len: usize) -> Found<Vec<u8>> {
        let held = lock(&self.held);
        ensure!(held.host.covers(at.address(), len as u64), "{at:?} is not all pinned");
        let mut bytes = vec![0; len];
        // SAFETY: the range is held, and the lock keeps it so.
        unsafe { std::ptr::copy_nonoverlapping(at.as_ptr(), bytes.as_mut_ptr(), len) };
        Ok(bytes)
    }

    /// Gives a function that reads the byte at `at`, for the host functions of streams.
    pub(in crate::selftest) fn peek(&self, at: HostPtr) -> Found<impl Fn() -> u8 + Send + use<>> {
        let pinned = lock(&self.held).host.covers(at.address(), 1);
        ensure!(pinned, "{at:?} is not pinned");
        // SAFETY: streams run dry before the lab gives pinned memory back, and the function is
        // called by one.
        Ok(move || unsafe { at.as_ptr().read_volatile() })
    }
}
