//! What does an allocation cost among many others? Of so many live blocks a random one is freed
//! and another size allocated: sizes drawn log-uniformly from 512 bytes to 16 MiB (to 256 KiB
//! from 100,000 blocks on, so that they fit a simulated device), and RMM's own pattern of
//! random sizes. On a simulated device, or on `RIVERBED_BENCH_DEVICE` as far as its memory
//! goes: nothing is stored, so only the bookkeeping costs. Beside ours, other crates that keep the
//! books of a range.

mod common;
#[path = "common/peers.rs"]
mod peers;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use riverbed::device::{Priority, Stream};
use riverbed::pool::{Allocator, Block, StreamAllocator};

use peers::{OffsetAllocator, Slots, Tlsf};

/// What a peer's range holds: with room to spare, as it gets no more where it fragments.
const RANGE_BYTES: u64 = 64 << 30;

/// The peers stand beside ours up to so many live blocks: TLSF writes into every block it makes.
const PEERS_LIVE: usize = 100_000;

/// Steps drawn before the clock runs, and gone through again and again.
const STEPS: usize = 1 << 16;

/// Ours, through a stream's handle.
struct Riverbed<'a> {
    on_stream: &'a StreamAllocator,
    blocks: Vec<Option<Block<'a>>>,
}

impl<'a> Riverbed<'a> {
    fn new(on_stream: &'a StreamAllocator, slots: usize) -> Self {
        Self { on_stream, blocks: (0..slots).map(|_| None).collect() }
    }
}

impl Slots for Riverbed<'_> {
    fn replace(&mut self, slot: usize, bytes: u64) {
        self.blocks[slot] = None;
        self.blocks[slot] = Some(self.on_stream.block(bytes).expect("room"));
    }
}

/// A small generator of its own: the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn steps(live: usize, mut size: impl FnMut(&mut Random) -> u64) -> Vec<(usize, u64)> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    (0..STEPS).map(|_| ((random.next() % live as u64) as usize, size(&mut random))).collect()
}

fn churn(criterion: &mut Criterion) {
    let device = common::device(common::SIMULATED);
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let mut group = criterion.benchmark_group(common::group("allocator/churn", &device));
    for live in [100usize, 1000, 10_000, 100_000, 1_000_000] {
        let octaves = if live < 100_000 { 15.0 } else { 9.0 };
        let steps = steps(live, |random| (512.0 * (random.unit() * octaves).exp2()) as u64);
        bench(&mut group, "log-uniform", &live.to_string(), &stream, live, &steps);
    }
    for (max, live) in [(1u64 << 20, 5000usize), (64 << 20, 500), (1 << 30, 30)] {
        let steps = steps(live, |random| 1 + random.next() % max);
        let parameter = format!("{live} of at most {max}");
        bench(&mut group, "rmm random", &parameter, &stream, live, &steps);
    }
    group.finish();
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn bench(
    group: &mut Group<'_>,
    pattern: &str,
    parameter: &str,
    stream: &Stream,
    live: usize,
    steps: &[(usize, u64)],
) {
    let mean_bytes = steps.iter().map(|(_, bytes)| bytes).sum::<u64>() / steps.len() as u64;
    if !common::has_room(stream.device(), mean_bytes * live as u64, pattern) {
        return;
    }
    let allocator = Allocator::builder(stream.device()).build().expect("an allocator");
    let on_stream = allocator.on(stream).expect("a handle");
    let mut run = |name: &str, slots: &mut dyn Slots| {
        let id = BenchmarkId::new(format!("{pattern}/{name}"), parameter);
        let mut turns = steps.iter().cycle();
        let mut step =
            || turns.next().into_iter().for_each(|&(slot, bytes)| slots.replace(slot, bytes));
        (0..2 * live.max(1000)).for_each(|_| step());
        group.bench_function(id, |bencher| bencher.iter(&mut step));
    };
    run("riverbed", &mut Riverbed::new(&on_stream, live));
    if live <= PEERS_LIVE {
        run("offset-allocator", &mut OffsetAllocator::new(RANGE_BYTES, live));
        run("rlsf", &mut Tlsf::new(RANGE_BYTES, live));
    }
}

/// Larson's pattern: one thread allocates, another one frees.
fn remote_frees(criterion: &mut Criterion) {
    let device = common::device(common::SIMULATED);
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let on_stream = allocator.on(&stream).expect("a handle");
    let mut group = criterion.benchmark_group(common::group("allocator/remote_free", &device));
    group.bench_function("64 KiB", |bencher| {
        bencher.iter_custom(|rounds| {
            let (sender, receiver) = crossbeam_channel::bounded::<Block<'_>>(64);
            std::thread::scope(|scope| {
                scope.spawn(move || receiver.into_iter().for_each(drop));
                let start = std::time::Instant::now();
                for _ in 0..rounds {
                    let block = on_stream.block(64 << 10).expect("room");
                    sender.send(block).expect("the other thread waits");
                }
                drop(sender);
                start.elapsed()
            })
        });
    });
    group.finish();
}

criterion_group!(benches, churn, remote_frees);
criterion_main!(benches);
