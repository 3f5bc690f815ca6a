//! Live handles of one kind: what a driver's opaque numbers stand for.

use std::sync::{Arc, Mutex};

use super::arena::Status;
use crate::base::{DeviceError, lock};

/// Live handles of one kind; a handle is an index above [`FIRST_HANDLE`].
#[derive(Debug)]
pub(super) struct Table<T>(Mutex<slab::Slab<Arc<T>>>);

/// Smaller stream handles name default streams on CUDA and HIP; they are kept free here too.
const FIRST_HANDLE: usize = 16;

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(slab::Slab::new()))
    }

    pub(super) fn insert(&self, entry: Arc<T>) -> u64 {
        (lock(&self.0).insert(entry) + FIRST_HANDLE) as u64
    }

    pub(super) fn get(&self, handle: u64) -> Result<Arc<T>, Status> {
        let index = (handle as usize).wrapping_sub(FIRST_HANDLE);
        lock(&self.0).get(index).cloned().ok_or(DeviceError::INVALID_HANDLE)
    }

    pub(super) fn remove(&self, handle: u64) -> Result<Arc<T>, Status> {
        let index = (handle as usize).wrapping_sub(FIRST_HANDLE);
        lock(&self.0).try_remove(index).ok_or(DeviceError::INVALID_HANDLE)
    }

    /// Calls `visit` with everything that was not given up.
    pub(super) fn for_each(&self, visit: impl Fn(&T)) {
        lock(&self.0).iter().for_each(|(_, entry)| visit(entry));
    }
}
