//! What stands behind simulated memory: nothing. Addresses are handed out upwards and never
//! twice, so that a stale one is always told from a live one.

use crate::base::DeviceError;
use crate::device::arena::{Backing, Status};

/// Where addresses begin: far above 0 and above every host size that could be taken for one.
const FIRST_ADDRESS: u64 = 1 << 44;

/// Address space without memory. 2^64 bytes hold 190 million reservations of 90 GiB.
#[derive(Debug)]
pub(super) struct NoBytes {
    next: u64,
}

impl NoBytes {
    pub(super) fn new() -> Self {
        Self { next: FIRST_ADDRESS }
    }
}

impl Backing for NoBytes {
    fn reserve(&mut self, bytes: u64) -> Result<u64, Status> {
        let end = self.next.checked_add(bytes).ok_or(DeviceError::OUT_OF_MEMORY)?;
        Ok(std::mem::replace(&mut self.next, end))
    }

    unsafe fn release(&mut self, _at: u64, _bytes: u64) -> Result<(), Status> {
        Ok(())
    }

    fn create(&mut self, _bytes: u64) -> Result<u64, Status> {
        Ok(0)
    }

    fn discard(&mut self, _token: u64, _bytes: u64) {}

    unsafe fn map(&mut self, _at: u64, _token: u64, _bytes: u64) -> Result<(), Status> {
        Ok(())
    }

    unsafe fn unmap(&mut self, _at: u64, _bytes: u64) -> Result<(), Status> {
        Ok(())
    }
}
