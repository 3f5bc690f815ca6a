//! A mutex that a thread which holds it already is told of: memory that is asked for while the
//! lock is held may lead back here, by way of the allocator's callbacks.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::base::{lock, thread_token};

#[derive(Debug)]
pub(super) struct Latch<T> {
    inside: Mutex<T>,
    /// The thread that holds it; 0 is nobody.
    holder: AtomicU64,
}

/// What is behind the lock, while nobody else has it.
#[derive(Debug)]
pub(super) struct Latched<'a, T> {
    inside: MutexGuard<'a, T>,
    holder: &'a AtomicU64,
}

impl<T> Latch<T> {
    pub(super) fn new(inside: T) -> Self {
        Self { inside: Mutex::new(inside), holder: AtomicU64::new(0) }
    }

    /// Waits for the lock; `None` where this thread holds it already.
    pub(super) fn enter(&self) -> Option<Latched<'_, T>> {
        // Only this thread writes its own token, so that another value is never mistaken for it.
        if self.holder.load(Ordering::Relaxed) == thread_token() {
            return None;
        }
        let inside = lock(&self.inside);
        self.holder.store(thread_token(), Ordering::Relaxed);
        Some(Latched { inside, holder: &self.holder })
    }
}

impl<T> Drop for Latched<'_, T> {
    fn drop(&mut self) {
        // Before the mutex goes.
        self.holder.store(0, Ordering::Relaxed);
    }
}

impl<T> Deref for Latched<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inside
    }
}

impl<T> DerefMut for Latched<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inside
    }
}
