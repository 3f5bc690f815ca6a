//! That a component is in use.

use std::sync::Arc;

use super::cache::Shared;

/// Says that a component is in use: until it is dropped, what every pass of it needs makes room for
/// nothing. Other memory of the cache is where its room comes from. Clones say it on their own.
#[derive(Debug)]
pub struct RamLease {
    shared: Arc<Shared>,
    component: usize,
}

impl RamLease {
    pub(super) fn new(shared: Arc<Shared>, component: usize) -> Self {
        Self { shared, component }
    }
}

impl Clone for RamLease {
    fn clone(&self) -> Self {
        self.shared.books().again(self.component);
        Self { shared: Arc::clone(&self.shared), component: self.component }
    }
}

impl Drop for RamLease {
    fn drop(&mut self) {
        self.shared.end(self.component);
    }
}
