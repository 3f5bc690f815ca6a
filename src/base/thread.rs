//! Which thread this is, as a number that costs nothing to read.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What stands where a thread has no number yet; no thread has it.
const NO_TOKEN: u64 = u64::MAX;

thread_local! {
    static TOKEN: Cell<u64> = const { Cell::new(NO_TOKEN) };
    static ALIVE: Arc<()> = Arc::new(());
}

/// A number, never 0, that no other thread of this process has or had.
#[inline]
pub(crate) fn thread_token() -> u64 {
    match TOKEN.get() {
        NO_TOKEN => new_token(),
        token => token,
    }
}

/// As [`thread_token`], for comparing alone: a thread that has never asked for its number gets
/// one that is nobody's.
#[inline(always)]
pub(crate) fn thread_token_if_any() -> u64 {
    TOKEN.get()
}

#[cold]
fn new_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let token = NEXT.fetch_add(1, Ordering::Relaxed);
    TOKEN.set(token);
    token
}

/// Shared by this thread for as long as it runs: whoever holds the only other clone knows that
/// the thread has ended. A thread that is ending already gives one nobody shares.
pub(crate) fn thread_alive() -> Arc<()> {
    ALIVE.try_with(Arc::clone).unwrap_or_default()
}
