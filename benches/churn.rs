//! What does an allocation cost among many others? Of so many live blocks a random one is freed
//! and another size allocated: sizes drawn log-uniformly from 512 bytes to 16 MiB (to 256 KiB
//! from 100,000 blocks on, so that they fit a simulated device), and RMM's own pattern of
//! random sizes. On a simulated device: nothing is stored, so only the bookkeeping costs.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use riverbed::device::{Device, Priority, Stream};
use riverbed::pool::{Allocator, Block};

/// Steps drawn before the clock runs, and gone through again and again.
const STEPS: usize = 1 << 16;

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
    let device = Device::open("sim:16TiB").expect("a simulated device");
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let mut group = criterion.benchmark_group("allocator/churn");
    for live in [100usize, 1000, 10_000, 100_000, 1_000_000] {
        let octaves = if live < 100_000 { 15.0 } else { 9.0 };
        let steps = steps(live, |random| (512.0 * (random.unit() * octaves).exp2()) as u64);
        bench(&mut group, BenchmarkId::new("log-uniform", live), &device, &stream, live, &steps);
    }
    for (max, live) in [(1u64 << 20, 5000usize), (64 << 20, 500), (1 << 30, 30)] {
        let steps = steps(live, |random| 1 + random.next() % max);
        let id = BenchmarkId::new("rmm random", format!("{live} of at most {max}"));
        bench(&mut group, id, &device, &stream, live, &steps);
    }
    group.finish();
}

fn bench(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    id: BenchmarkId,
    device: &Device,
    stream: &Stream,
    live: usize,
    steps: &[(usize, u64)],
) {
    let allocator = Allocator::builder(device).build().expect("an allocator");
    let on_stream = allocator.on(stream).expect("a handle");
    let mut blocks: Vec<Option<Block<'_>>> = (0..live).map(|_| None).collect();
    let mut at = 0;
    let mut step = || {
        let (slot, bytes) = steps[at % STEPS];
        at += 1;
        blocks[slot] = None;
        blocks[slot] = Some(on_stream.block(bytes).expect("room"));
    };
    (0..2 * live.max(1000)).for_each(|_| step());
    group.bench_function(id, |bencher| bencher.iter(&mut step));
}

/// Larson's pattern: one thread allocates, another one frees.
fn remote_frees(criterion: &mut Criterion) {
    let device = Device::open("sim:16TiB").expect("a simulated device");
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let on_stream = allocator.on(&stream).expect("a handle");
    let mut group = criterion.benchmark_group("allocator/remote_free");
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
