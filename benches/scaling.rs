//! Do two threads, each on a stream of its own, do twice the work of one? Each replays a trace on
//! its stream again and again, the same allocator under both, for seven rounds of a second or
//! more. What the machine gives two threads is measured in the same round by arithmetic that
//! shares nothing: a round in which that does not reach 1.9 times one thread's says nothing about
//! the allocator, and is left out. `RIVERBED_BENCH_TRACE`, `RIVERBED_BENCH_CONF` and
//! `RIVERBED_BENCH_DEVICE` as in `replay`.

mod common;
#[path = "common/inputs.rs"]
mod inputs;

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use riverbed::device::{Priority, Stream};
use riverbed::pool::{Block, StreamAllocator};
use riverbed::replay::{OpKind, Trace};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What arithmetic must reach for a round to count, in one thread's rate.
const ARITHMETIC_LEAST: f64 = 1.9;

/// How long and how often is measured.
struct Rounds {
    wanted: usize,
    /// So many are tried, as the machine may be busy.
    most: usize,
    each: Duration,
}

fn main() {
    // Run as a test, it shows only that it works.
    let is_test = std::env::args().any(|argument| argument == "--test")
        || !std::env::args().any(|argument| argument == "--bench");
    let rounds = if is_test {
        Rounds { wanted: 1, most: 1, each: Duration::from_millis(1) }
    } else {
        Rounds { wanted: 7, most: 21, each: Duration::from_secs(1) }
    };
    for trace in inputs::traces() {
        for conf in inputs::confs() {
            measure(&trace, &conf, &rounds);
        }
    }
}

fn measure(trace: &Trace, conf: &str, rounds: &Rounds) {
    let device = common::device(common::SIMULATED);
    if !common::has_room(&device, 2 * trace.peak_live_bytes(), trace.name()) {
        return;
    }
    let Some(allocator) = inputs::allocator(&device, conf) else { return };
    let handles: [StreamAllocator; 2] = std::array::from_fn(|_| {
        let stream = Stream::new(&device, Priority::Normal).expect("a stream");
        allocator.on(&stream).expect("a handle")
    });
    let arithmetic = |_: usize| {
        let mut value = 1u64;
        move || {
            for _ in 0..10_000 {
                value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        }
    };
    let replays = |number: usize| {
        let mut live: Vec<Option<Block<'_>>> = (0..trace.slots()).map(|_| None).collect();
        let on_stream = &handles[number];
        move || replay(trace, on_stream, &mut live)
    };
    rate(1, rounds.each, &replays);
    let mut kept = Vec::new();
    for round in 1..=rounds.most {
        let limit = rate(2, rounds.each / 4, &arithmetic) / rate(1, rounds.each / 4, &arithmetic);
        let one = rate(1, rounds.each, &replays) * trace.ops().len() as f64;
        let two = rate(2, rounds.each, &replays) * trace.ops().len() as f64;
        let counts = limit >= ARITHMETIC_LEAST;
        println!(
            "{} {conf} round {round}: {:.1} and {:.1} million operations a second, {:.2} x; \
             arithmetic {limit:.2} x{}",
            trace.name(),
            one / 1e6,
            two / 1e6,
            two / one,
            if counts { "" } else { ", left out" }
        );
        if counts {
            kept.push(two / one);
        }
        if kept.len() == rounds.wanted {
            break;
        }
    }
    kept.sort_by(f64::total_cmp);
    match kept.get(kept.len() / 2) {
        Some(median) => {
            println!("{} {conf}: {median:.2} x, median of {} rounds", trace.name(), kept.len());
        }
        None => println!("{} {conf}: no round of {} counts", trace.name(), rounds.most),
    }
}

/// Runs of what `work` makes for each of `threads` threads, a second, over `at_least` of time;
/// each thread on a core of its own.
fn rate<W: FnMut()>(
    threads: usize,
    at_least: Duration,
    work: &(impl Fn(usize) -> W + Sync),
) -> f64 {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let run = |number: usize| {
            let barrier = &barrier;
            move || {
                pin(number);
                let mut step = work(number);
                step();
                barrier.wait();
                let start = Instant::now();
                let mut count = 0u64;
                while start.elapsed() < at_least {
                    step();
                    count += 1;
                }
                count as f64 / start.elapsed().as_secs_f64()
            }
        };
        let running: Vec<_> = (0..threads).map(|number| scope.spawn(run(number))).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    })
}

/// Where the system allows it.
fn pin(number: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    if let Some(core) = cores.cycle().nth(number) {
        let mut one = CpuSet::new();
        one.set(core);
        // Unpinned is slower, not wrong.
        let _ = sched_setaffinity(None, &one);
    }
}

/// Every operation of the trace on one stream. Frees what it leaves live.
fn replay<'a>(trace: &Trace, on_stream: &'a StreamAllocator, live: &mut [Option<Block<'a>>]) {
    for op in trace.ops() {
        live[op.slot as usize] =
            (op.kind == OpKind::Alloc).then(|| on_stream.block(op.bytes).expect("room"));
    }
    live.fill_with(|| None);
}
