//! Working memory that was promised: guards, and what they come to.

use std::sync::{Arc, Mutex};

use crate::base::lock;

/// Room for the caller to work in: while it lives, so many bytes can be allocated from the
/// allocator beside what was in use when it was asked for. What residents and ring gave up for
/// it comes back between passes once it is dropped; dropping it never waits.
#[derive(Debug)]
#[must_use = "the promise ends when this is dropped"]
pub struct WorkingMemory {
    promises: Arc<Promises>,
    id: u64,
    bytes: u64,
}

/// The promises that are alive.
#[derive(Debug, Default)]
pub(super) struct Promises(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    made: u64,
    alive: Vec<(u64, u64)>,
    /// What was in use when the first of them was made.
    base_bytes: u64,
}

impl Given {
    fn bytes(&self) -> u64 {
        self.alive.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Promises {
    /// What the caller may have in use at the most, with `bytes` more promised beside
    /// `live_bytes` in use.
    pub(super) fn with(&self, bytes: u64, live_bytes: u64) -> u64 {
        let given = lock(&self.0);
        let one = live_bytes.saturating_add(bytes);
        match given.alive.is_empty() {
            true => one,
            false => one.max(given.base_bytes.saturating_add(given.bytes()).saturating_add(bytes)),
        }
    }

    /// What the caller may have in use at the most.
    pub(super) fn working_bytes(&self) -> u64 {
        let given = lock(&self.0);
        if given.alive.is_empty() { 0 } else { given.base_bytes.saturating_add(given.bytes()) }
    }

    /// What is promised.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.0).bytes()
    }

    /// Makes a promise.
    pub(super) fn make(self: &Arc<Self>, bytes: u64, live_bytes: u64) -> WorkingMemory {
        let mut given = lock(&self.0);
        if given.alive.is_empty() {
            given.base_bytes = live_bytes;
        }
        given.made += 1;
        let id = given.made;
        given.alive.push((id, bytes));
        WorkingMemory { promises: Arc::clone(self), id, bytes }
    }
}

impl WorkingMemory {
    /// How much was promised.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for WorkingMemory {
    fn drop(&mut self) {
        lock(&self.promises.0).alive.retain(|(id, _)| *id != self.id);
    }
}
