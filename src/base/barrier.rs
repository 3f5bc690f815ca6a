//! The two halves of an asymmetric barrier: one thread pays nothing, the other pays for both.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

/// True where [`heavy`] reaches into every running thread.
static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

/// Settles once whether there are such barriers.
pub(crate) fn prepare() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| ASYMMETRIC.store(register(), Ordering::SeqCst));
}

/// True where there are such barriers; false before [`prepare`], and for ever where the system
/// has none.
pub(crate) fn is_asymmetric() -> bool {
    ASYMMETRIC.load(Ordering::Relaxed)
}

/// The frequent side: orders what is before it with what is after it, against [`heavy`], where
/// barriers [are asymmetric](is_asymmetric).
#[inline(always)]
pub(crate) fn light() {
    compiler_fence(Ordering::SeqCst);
}

/// The rare side: costs microseconds.
pub(crate) fn heavy() {
    fence(Ordering::SeqCst);
    if is_asymmetric() {
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
