//! Time as replays measure it: what this thread ran, and ticks around a single call.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds this thread has run: unlike the wall clock it leaves out other processes.
pub(super) fn thread_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// A number that rises evenly with time. Reads the processor's counter, after what stands before
/// it has finished.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "reads the processor's time stamp counter")]
#[inline]
pub(super) fn ticks() -> u64 {
    let mut core = 0;
    // SAFETY: every 64-bit x86 processor of the last fifteen years has the instruction, and all
    // it writes is `core`.
    unsafe { std::arch::x86_64::__rdtscp(&mut core) }
}

/// A number that rises evenly with time: nanoseconds.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn ticks() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How long a tick is, and how many a pair of readings takes by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) ns_per_tick: f64,
    pub(super) own_ticks: f64,
}

impl Scale {
    /// Measures both, in a twentieth of a second.
    pub(super) fn measure() -> Self {
        const WINDOW: std::time::Duration = std::time::Duration::from_millis(50);
        let (start, first) = (std::time::Instant::now(), ticks());
        while start.elapsed() < WINDOW {}
        let (ns, last) = (start.elapsed().as_nanos() as f64, ticks());
        let mut pairs: Vec<u64> = (0..10_001)
            .map(|_| {
                let before = ticks();
                ticks() - before
            })
            .collect();
        pairs.sort_unstable();
        Self {
            ns_per_tick: ns / last.saturating_sub(first).max(1) as f64,
            own_ticks: pairs[pairs.len() / 2] as f64,
        }
    }
}
