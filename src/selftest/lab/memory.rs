//! Device memory, and work on it.
#![allow(unsafe_code)]

use super::{Found, Lab};
use crate::base::lock;
use crate::device::{DevicePtr, Kernel, Stream};
use crate::selftest::finding::{Finding, ensure};

use super::pinned::HostPtr;

impl Lab {
    /// Takes device memory.
    pub(in crate::selftest) fn alloc(&self, bytes: u64) -> Found<DevicePtr> {
        let ptr = self.driver().alloc(bytes)?;
        let mut held = lock(&self.held);
        held.allocated.push(ptr);
        let overlap = held.usable.overlaps(ptr.0, bytes);
        held.usable.add(ptr.0, bytes);
        drop(held);
        ensure!(overlap.is_none(), "{bytes} bytes at {ptr:?} overlap {overlap:x?}, in use");
        Ok(ptr)
    }

    /// Gives device memory back that nothing in flight touches.
    pub(in crate::selftest) fn free(&self, ptr: DevicePtr) -> Found {
        // Off the books first: another thread may get the memory at once.
        let bytes = {
            let mut held = lock(&self.held);
            let place = held.allocated.iter().position(|&other| other == ptr);
            let place = place.ok_or_else(|| Finding::new(format!("{ptr:?} is not held")))?;
            held.allocated.swap_remove(place);
            held.usable.remove(ptr.0)
        };
        // SAFETY: from `alloc`, not freed yet, and the check synchronized what touches it.
        let freed = unsafe { self.driver().free(ptr) };
        if freed.is_err() {
            let mut held = lock(&self.held);
            held.allocated.push(ptr);
            held.usable.add(ptr.0, bytes);
        }
        Ok(freed?)
    }

    pub(in crate::selftest) fn h2d(
        &self,
        stream: &Stream,
        to: DevicePtr,
        from: HostPtr,
        bytes: u64,
    ) -> Found {
        self.holds(to, bytes)?;
        self.holds_host(from, bytes)?;
        // SAFETY: both ends are held, and the lab gives nothing back before streams have run.
        Ok(unsafe { self.driver().copy_h2d(stream.id(), to, from.as_ptr(), bytes) }?)
    }

    pub(in crate::selftest) fn d2h(
        &self,
        stream: &Stream,
        to: HostPtr,
        from: DevicePtr,
        bytes: u64,
    ) -> Found {
        self.holds(from, bytes)?;
        self.holds_host(to, bytes)?;
        // SAFETY: as above.
        Ok(unsafe { self.driver().copy_d2h(stream.id(), to.as_ptr(), from, bytes) }?)
    }

    pub(in crate::selftest) fn d2d(
        &self,
        stream: &Stream,
        to: DevicePtr,
        from: DevicePtr,
        bytes: u64,
    ) -> Found {
        self.holds(to, bytes)?;
        self.holds(from, bytes)?;
        // SAFETY: as above.
        Ok(unsafe { self.driver().copy_d2d(stream.id(), to, from, bytes) }?)
    }

    pub(in crate::selftest) fn launch(&self, stream: &Stream, kernel: &Kernel) -> Found {
        for (at, bytes) in kernel.touched() {
            self.holds(at, bytes)?;
        }
        // SAFETY: as above.
        Ok(unsafe { self.driver().launch(stream.id(), kernel) }?)
    }

    /// Sets `bytes` bytes at `dst` to `value`.
    pub(in crate::selftest) fn fill(
        &self,
        stream: &Stream,
        dst: DevicePtr,
        bytes: u64,
        value: u8,
    ) -> Found {
        self.launch(stream, &Kernel::Fill { dst, bytes, value })
    }

    pub(super) fn holds(&self, at: DevicePtr, bytes: u64) -> Found {
        if bytes == 0 || lock(&self.held).usable.covers(at.0, bytes) {
            return Ok(());
        }
        Err(Finding::new(format!("{bytes} bytes at {at:?} are not all held: nothing was enqueued")))
    }

    pub(super) fn holds_host(&self, at: HostPtr, bytes: u64) -> Found {
        if bytes == 0 || lock(&self.held).host.covers(at.address(), bytes) {
            return Ok(());
        }
        Err(Finding::new(format!(
            "{bytes} bytes at {at:?} are not all pinned: nothing was enqueued"
        )))
    }
}
