//! Pinned host memory where no driver gives it: ordinary memory, and a list of what counts as
//! pinned, so that a copy from other memory is refused as it should be.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::arena::Status;
use crate::base::DeviceError;

/// The pinned ranges of one device.
#[derive(Debug)]
pub(super) struct PinnedRanges {
    ranges: BTreeMap<u64, Pinned>,
    /// How memory is mapped that is taken here.
    flags: MapFlags,
}

#[derive(Debug)]
struct Pinned {
    bytes: u64,
    /// Taken here rather than registered by the caller.
    owned: bool,
}

impl PinnedRanges {
    /// Memory is faulted in when it is taken, as pinning would.
    pub(super) fn touched() -> Self {
        Self { ranges: BTreeMap::new(), flags: MapFlags::PRIVATE | MapFlags::POPULATE }
    }

    /// Memory is committed when it is touched, so that taking it costs next to nothing.
    pub(super) fn lazy() -> Self {
        Self { ranges: BTreeMap::new(), flags: MapFlags::PRIVATE | MapFlags::NORESERVE }
    }

    pub(super) fn alloc(&mut self, bytes: u64) -> Result<NonNull<u8>, Status> {
        let len =
            usize::try_from(bytes).ok().filter(|&len| len > 0).ok_or(DeviceError::INVALID_VALUE)?;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing.
        let start = unsafe {
            mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, self.flags)
        }
        .map_err(|_| DeviceError::OUT_OF_MEMORY)?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(DeviceError::OUT_OF_MEMORY)?;
        self.ranges.insert(start.as_ptr() as u64, Pinned { bytes, owned: true });
        Ok(start)
    }

    /// Gives back how many bytes it was.
    pub(super) fn free(&mut self, start: NonNull<u8>) -> Result<u64, Status> {
        let at = start.as_ptr() as u64;
        let pinned = self.ranges.get(&at).filter(|pinned| pinned.owned);
        let bytes = pinned.ok_or(DeviceError::INVALID_VALUE)?.bytes;
        // SAFETY: the range was mapped by `alloc`; the caller of `Driver::free_pinned` promised
        // that nothing touches it any more.
        unsafe { munmap(at as *mut c_void, bytes as usize) }
            .map_err(|_| DeviceError::INVALID_VALUE)?;
        self.ranges.remove(&at);
        Ok(bytes)
    }

    pub(super) fn register(&mut self, start: NonNull<u8>, bytes: u64) -> Result<(), Status> {
        let at = start.as_ptr() as u64;
        let end = at.checked_add(bytes).filter(|_| bytes > 0).ok_or(DeviceError::INVALID_VALUE)?;
        let before = self.ranges.range(..end).next_back();
        if before.is_some_and(|(&other, pinned)| other + pinned.bytes > at) {
            return Err(DeviceError::ALREADY_REGISTERED);
        }
        self.ranges.insert(at, Pinned { bytes, owned: false });
        Ok(())
    }

    /// Gives back how many bytes it was.
    pub(super) fn unregister(&mut self, start: NonNull<u8>) -> Result<u64, Status> {
        let at = start.as_ptr() as u64;
        let pinned = self.ranges.get(&at).filter(|pinned| !pinned.owned);
        let bytes = pinned.ok_or(DeviceError::INVALID_VALUE)?.bytes;
        self.ranges.remove(&at);
        Ok(bytes)
    }

    /// True when the whole range lies in one pinned range.
    pub(super) fn holds(&self, at: u64, bytes: u64) -> bool {
        let range = self.ranges.range(..=at).next_back();
        range.is_some_and(|(&start, pinned)| {
            at.checked_add(bytes).is_some_and(|end| end <= start + pinned.bytes)
        })
    }
}

impl Drop for PinnedRanges {
    fn drop(&mut self) {
        for (&at, pinned) in self.ranges.iter().filter(|(_, pinned)| pinned.owned) {
            // SAFETY: mapped by `alloc`; the driver and its workers are gone. A failure leaves
            // memory behind, which the process end frees.
            let _ = unsafe { munmap(at as *mut c_void, pinned.bytes as usize) };
        }
    }
}
