//! Several threads replay a trace at once, on one allocator and streams of their own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::engine::{Stop, Streams, Watch, once};
use super::target::{Handle, Setup, Target};
use super::trace::Trace;
use crate::base::{Result, lock};

/// Rounds that are measured, after one that is not.
const ROUNDS: usize = 5;
/// How long a round lasts at least, on an unshared core, in nanoseconds.
const ROUND_NS: f64 = 2e7;
/// The most replays a round has.
const REPLAYS_MAX: f64 = 1000.0;

/// Operations a second over `threads` threads, each on a core of its own as far as there are
/// enough: the median of five rounds. `None` if a replay failed.
///
/// `ns_per_op` is about what an operation takes, to choose how long a round is.
///
/// # Errors
/// The device or allocator cannot be made; `watch` ended it.
pub(super) fn ops_per_second(
    trace: &Trace,
    setup: &Setup,
    threads: usize,
    ns_per_op: f64,
    watch: &dyn Watch,
) -> Result<Option<f64>, Stop> {
    let ops = trace.ops().len() as f64;
    let replays = (ROUND_NS / (ops * ns_per_op.max(0.1)) + 1.0).min(REPLAYS_MAX) as u32;
    let first = setup.open(1)?;
    let mut targets: Vec<Target> = (1..threads).map(|_| first.beside(1)).collect::<Result<_>>()?;
    targets.push(first);
    let round = Round {
        trace,
        replays: AtomicU32::new(replays),
        watch,
        barrier: Barrier::new(threads),
        start: Mutex::new(None),
        rates: Mutex::new(Vec::new()),
        stopped: AtomicBool::new(false),
        stop: Mutex::new(None),
        ops: ops * threads as f64,
    };
    std::thread::scope(|scope| {
        for (number, target) in targets.iter().enumerate() {
            let round = &round;
            scope.spawn(move || {
                pin(number);
                round.run(target, number == 0);
            });
        }
    });
    match lock(&round.stop).take() {
        Some(Stop::Failed { .. }) => return Ok(None),
        Some(stop) => return Err(stop),
        None => {}
    }
    let mut rates = std::mem::take(&mut *lock(&round.rates));
    rates.sort_by(f64::total_cmp);
    Ok(rates.get(rates.len() / 2).copied())
}

/// What the threads share.
struct Round<'a> {
    trace: &'a Trace,
    /// In a round; fewer once a round took much longer than it should.
    replays: AtomicU32,
    watch: &'a dyn Watch,
    barrier: Barrier,
    /// When the first thread began.
    start: Mutex<Option<Instant>>,
    rates: Mutex<Vec<f64>>,
    stopped: AtomicBool,
    stop: Mutex<Option<Stop>>,
    /// Operations of all threads in one replay each.
    ops: f64,
}

impl Round<'_> {
    /// All rounds of one thread. Every thread meets every barrier, whatever goes wrong.
    fn run(&self, target: &Target, keeps_time: bool) {
        let mut live = vec![Handle::default(); self.trace.slots()];
        for number in 0..=ROUNDS {
            self.barrier.wait();
            lock(&self.start).get_or_insert_with(Instant::now);
            let replays = self.replays.load(Ordering::Relaxed);
            for _ in 0..replays {
                if self.stopped.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(stop) = once(target, self.trace, &mut live, Streams::First, self.watch) {
                    self.stopped.store(true, Ordering::Relaxed);
                    lock(&self.stop).get_or_insert(stop);
                }
            }
            self.barrier.wait();
            if keeps_time {
                let start = lock(&self.start).take();
                let seconds = start.map_or(0.0, |start| start.elapsed().as_secs_f64());
                if number > 0 && seconds > 0.0 {
                    lock(&self.rates).push(self.ops * f64::from(replays) / seconds);
                }
                let wanted = f64::from(replays) * ROUND_NS / (seconds * 1e9).max(ROUND_NS);
                self.replays.store((wanted as u32).max(1), Ordering::Relaxed);
            }
            self.barrier.wait();
        }
    }
}

/// Keeps this thread on one core, another for each number while there are enough. Where the
/// system refuses, the thread runs where it likes.
fn pin(number: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    if cores.is_empty() {
        return;
    }
    let mut own = CpuSet::new();
    own.set(cores[number % cores.len()]);
    let _ = sched_setaffinity(None, &own);
}
