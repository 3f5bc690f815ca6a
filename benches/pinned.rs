//! What does pinned memory cost? Three questions, each in seven interleaved rounds with medians
//! and ranges: a warm pair of `alloc` and drop, beside mapping, touching and unmapping as much; the
//! same pairs by 1, 2, 4 and 8 threads together; and pinning 1 GiB from each source of slabs.
//! `RIVERBED_BENCH_DEVICE` names the device, `RIVERBED_BENCH_PIN_MIB` what is pinned.

mod common;

use std::hint::black_box;
use std::ptr::null_mut;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use riverbed::device::Device;
use riverbed::pinned::PinnedPool;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::time::{ClockId, clock_gettime};

const SIZES: [usize; 5] = [64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20];
const THREADS: [usize; 4] = [1, 2, 4, 8];

fn main() {
    // Run as a test, it shows only that it works.
    let is_test = std::env::args().any(|argument| argument == "--test")
        || !std::env::args().any(|argument| argument == "--bench");
    let device = common::device("host");
    let rounds = if is_test { 1 } else { 7 };
    let sizes = if is_test { &SIZES[..2] } else { &SIZES[..] };
    for &bytes in sizes {
        warm_pair(&device, bytes, rounds, is_test);
    }
    threads(&device, rounds, if is_test { 1 } else { 200 });
    let default_mib = if is_test { 4 } else { 1024 };
    let mib = std::env::var("RIVERBED_BENCH_PIN_MIB").ok();
    let mib = mib.map_or(default_mib, |mib| mib.parse().expect("RIVERBED_BENCH_PIN_MIB in MiB"));
    pinning(&device, rounds, mib);
}

/// The median of `rounds` and their range, as text, and the median.
fn median(mut rounds: Vec<f64>) -> (f64, String) {
    rounds.sort_by(f64::total_cmp);
    let median = rounds[rounds.len() / 2];
    (median, format!("{median:.1} ({:.1} to {:.1})", rounds[0], rounds[rounds.len() - 1]))
}

/// Nanoseconds of processor time a call of `work` takes, of `count` calls: what else runs on the
/// machine does not count.
fn each_ns(count: u32, mut work: impl FnMut()) -> f64 {
    let now_ns = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
    };
    let begun = now_ns();
    for _ in 0..count {
        work();
    }
    (now_ns() - begun) / f64::from(count)
}

fn warm_pair(device: &Device, bytes: usize, rounds: usize, is_test: bool) {
    let pool = PinnedPool::new(device, &"pinned_limit_mb:1024".parse().expect("a conf"));
    let (mut ours, mut systems) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let pairs = if is_test { 10 } else { 2_000_000 };
        ours.push(each_ns(pairs, || drop(black_box(pool.alloc(black_box(bytes)).expect("room")))));
        let maps = if is_test { 1 } else { (256 << 20) / bytes as u32 };
        systems.push(each_ns(maps.clamp(1, 200), || map_and_touch(bytes)));
    }
    let (ours, systems) = (median(ours), median(systems));
    println!(
        "{}/{} KiB: alloc and drop {} ns, mmap with first touch and munmap {} ns, ratio {:.6}",
        common::id(device, "pinned/warm"),
        bytes >> 10,
        ours.1,
        systems.1,
        ours.0 / systems.0
    );
}

fn map_and_touch(bytes: usize) {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping, which is touched within its length and unmapped once.
    unsafe {
        let start = mmap_anonymous(null_mut(), bytes, access, MapFlags::PRIVATE).expect("memory");
        for at in (0..bytes).step_by(4096) {
            start.cast::<u8>().add(at).write_volatile(1);
        }
        munmap(start, bytes).expect("mapped just now");
    }
}

/// Pairs a second of so many threads together, in millions.
fn throughput(pool: &PinnedPool, threads: usize, time: Duration) -> f64 {
    let (ready, stop) = (Barrier::new(threads + 1), AtomicBool::new(false));
    let (ready, stop) = (&ready, &stop);
    std::thread::scope(|scope| {
        let work = |number: usize| {
            move || {
                let bytes = SIZES[number % 2];
                drop(pool.alloc(bytes).expect("room"));
                ready.wait();
                let mut pairs = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..1000 {
                        drop(black_box(pool.alloc(black_box(bytes)).expect("room")));
                    }
                    pairs += 1000;
                }
                pairs
            }
        };
        let workers: Vec<_> = (0..threads).map(|number| scope.spawn(work(number))).collect();
        ready.wait();
        let begun = Instant::now();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let pairs: u64 = workers.into_iter().map(|worker| worker.join().expect("pairs")).sum();
        pairs as f64 / begun.elapsed().as_secs_f64() / 1e6
    })
}

fn threads(device: &Device, rounds: usize, ms: u64) {
    let pool = PinnedPool::new(device, &"pinned_limit_mb:64".parse().expect("a conf"));
    let mut rates = THREADS.map(|_| Vec::new());
    for _ in 0..rounds {
        for (threads, rates) in THREADS.into_iter().zip(&mut rates) {
            rates.push(throughput(&pool, threads, Duration::from_millis(ms)));
        }
    }
    let one = median(rates[0].clone()).0;
    for (threads, rates) in THREADS.into_iter().zip(rates) {
        let (rate, text) = median(rates);
        println!(
            "{}/{threads}: {text} million pairs a second, {:.2} of one thread's",
            common::id(device, "pinned/threads"),
            rate / one
        );
    }
}

fn pinning(device: &Device, rounds: usize, mib: u64) {
    let sources = [
        ("registered", "pinned_use_cuda_host_register:True"),
        (
            "registered, 1 thread",
            "pinned_use_cuda_host_register:True,pinned_num_register_threads:1",
        ),
        ("the driver's", "pinned_use_cuda_host_register:False"),
    ];
    let mut times = sources.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((_, conf), times) in sources.into_iter().zip(&mut times) {
            let conf = format!("{conf},pinned_limit_mb:{mib}").parse().expect("a conf");
            let pool = PinnedPool::new(device, &conf);
            let begun = Instant::now();
            let block = pool.alloc((mib << 20) as usize).expect("memory");
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            times.push(ms * 1024.0 / mib as f64);
            drop(block);
            pool.trim();
        }
    }
    let last = median(times[2].clone()).0;
    for ((source, _), times) in sources.into_iter().zip(times) {
        let (ms, text) = median(times);
        println!(
            "{}/{source}: {text} ms a GiB, {:.2} of the driver's own",
            common::id(device, "pinned/pinning"),
            ms / last
        );
    }
}
