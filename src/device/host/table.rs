//! A table of handles that every thread may ask, each entry shared with work in flight.

use std::sync::{Arc, Mutex};

use crate::base::lock;
use crate::device::arena::Status;
use crate::device::table::Table;

/// Live handles of one kind.
#[derive(Debug)]
pub(super) struct SharedTable<T>(Mutex<Table<Arc<T>>>);

impl<T> SharedTable<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Table::default()))
    }

    pub(super) fn insert(&self, entry: Arc<T>) -> u64 {
        lock(&self.0).insert(entry)
    }

    pub(super) fn get(&self, handle: u64) -> Result<Arc<T>, Status> {
        lock(&self.0).get(handle).cloned()
    }

    pub(super) fn remove(&self, handle: u64) -> Result<Arc<T>, Status> {
        lock(&self.0).remove(handle)
    }

    /// Calls `visit` with everything that was not given up.
    pub(super) fn for_each(&self, visit: impl Fn(&T)) {
        lock(&self.0).iter().for_each(|entry| visit(entry));
    }
}
