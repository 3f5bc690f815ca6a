//! Which thread this is, as a number that costs nothing to read.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static TOKEN: Cell<u64> = const { Cell::new(0) };
    static ALIVE: Arc<()> = Arc::new(());
}

/// A number, never 0, that no other thread of this process has or had.
#[inline]
pub(crate) fn thread_token() -> u64 {
    match TOKEN.get() {
        0 => new_token(),
        token => token,
    }
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
