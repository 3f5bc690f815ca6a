//! Live handles of one kind: what a driver's opaque numbers stand for.

use super::arena::Status;
use crate::base::DeviceError;

/// Live handles of one kind; a handle is an index above [`FIRST_HANDLE`].
#[derive(Debug)]
pub(super) struct Table<T>(slab::Slab<T>);

/// Smaller stream handles name default streams on CUDA and HIP; they are kept free here too.
const FIRST_HANDLE: usize = 16;

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(slab::Slab::new())
    }
}

impl<T> Table<T> {
    pub(super) fn insert(&mut self, entry: T) -> u64 {
        (self.0.insert(entry) + FIRST_HANDLE) as u64
    }

    pub(super) fn get(&self, handle: u64) -> Result<&T, Status> {
        self.0.get(index(handle)).ok_or(DeviceError::INVALID_HANDLE)
    }

    pub(super) fn get_mut(&mut self, handle: u64) -> Result<&mut T, Status> {
        self.0.get_mut(index(handle)).ok_or(DeviceError::INVALID_HANDLE)
    }

    pub(super) fn remove(&mut self, handle: u64) -> Result<T, Status> {
        self.0.try_remove(index(handle)).ok_or(DeviceError::INVALID_HANDLE)
    }

    /// Everything that was not given up.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, entry)| entry)
    }
}

fn index(handle: u64) -> usize {
    (handle as usize).wrapping_sub(FIRST_HANDLE)
}
