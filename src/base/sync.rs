//! Locking that outlives a panic elsewhere.
//!
//! Every structure behind a lock here is changed in steps that each leave it whole, so a panic
//! between them loses nothing; refusing service from then on would turn one thread's panic into
//! everybody's.

use std::sync::PoisonError;
use std::sync::TryLockError;
// Files whose interleavings are modelled name these from here, so that the model can put its own
// in their place.
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread::yield_now;

pub(crate) use super::barrier;
pub(crate) use super::thread::is_over;

/// Locks `mutex` even if a thread panicked while it held it.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `condition` to be signalled, likewise.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Locks `mutex` if nobody holds it, likewise.
pub(crate) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
