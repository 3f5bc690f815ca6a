//! The two halves of an asymmetric barrier: one thread pays nothing, the other pays for both.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

/// True where [`heavy`] reaches into every running thread, so that [`light`] need not.
static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

/// Settles once how barriers are made. Whoever uses the other two has called this before.
pub(crate) fn prepare() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| ASYMMETRIC.store(register(), Ordering::SeqCst));
}

/// The frequent side: orders what is before it with what is after it, against [`heavy`].
#[inline]
pub(crate) fn light() {
    if ASYMMETRIC.load(Ordering::Relaxed) {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// The rare side: costs microseconds.
pub(crate) fn heavy() {
    fence(Ordering::SeqCst);
    if ASYMMETRIC.load(Ordering::Relaxed) {
        reach_all_threads();
    }
}

#[cfg(target_os = "linux")]
fn register() -> bool {
    use rustix::thread::{MembarrierCommand, membarrier};
    membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
}

#[cfg(target_os = "linux")]
fn reach_all_threads() {
    use rustix::thread::{MembarrierCommand, membarrier};
    // Registered, and tried once: the only failures there are cannot come later.
    let reached = membarrier(MembarrierCommand::PrivateExpedited);
    debug_assert!(reached.is_ok());
}

#[cfg(not(target_os = "linux"))]
fn register() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn reach_all_threads() {}
