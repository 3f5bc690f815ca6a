//! What do several streams cost? A block freed while another stream uses it (one event recorded,
//! one looked at), beside the same without the other stream; and one, two and four threads, each
//! on a stream of its own. On a simulated device, whose own work is in the first, or on
//! `RIVERBED_BENCH_DEVICE`.

mod common;

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use riverbed::device::{Device, Priority, Stream};
use riverbed::pool::Allocator;

const BYTES: u64 = 64 << 10;

fn stream(device: &Device) -> Stream {
    Stream::new(device, Priority::Normal).expect("a stream")
}

fn cross_stream(criterion: &mut Criterion) {
    let device = common::device(common::SIMULATED);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let on_stream = allocator.on(&home).expect("a handle");
    let mut group = criterion.benchmark_group(common::group("allocator/cross_stream", &device));
    for (name, user) in [("used at home", &home), ("used elsewhere", &other)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let block = on_stream.block(BYTES).expect("room");
                block.record_use(user).expect("a stream of the device");
            });
        });
    }
    group.finish();
}

/// Makes pairs until 0 are asked for.
fn work(allocator: &Allocator, stream: &Stream, rounds: &AtomicU64, barrier: &Barrier) {
    let on_stream = allocator.on(stream).expect("a handle");
    loop {
        barrier.wait();
        let rounds = rounds.load(Ordering::Acquire);
        if rounds == 0 {
            return;
        }
        for round in 0..rounds {
            drop(black_box(on_stream.block(BYTES + round % 4 * 512).expect("room")));
        }
        barrier.wait();
    }
}

/// The threads live as long as their streams, as in a program: a new one would have to win its
/// stream's memory over first.
fn threads(criterion: &mut Criterion) {
    let device = common::device(common::SIMULATED);
    let mut group = criterion.benchmark_group(common::group("allocator/threads", &device));
    for count in [1, 2, 4] {
        let allocator = Allocator::builder(&device).build().expect("an allocator");
        let streams: Vec<Stream> = (0..count).map(|_| stream(&device)).collect();
        let (rounds, barrier) = (AtomicU64::new(0), Barrier::new(streams.len() + 1));
        let ask = |count| {
            rounds.store(count, Ordering::Release);
            barrier.wait();
        };
        std::thread::scope(|scope| {
            for stream in &streams {
                scope.spawn(|| work(&allocator, stream, &rounds, &barrier));
            }
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter_custom(|count| {
                    ask(count);
                    let start = Instant::now();
                    barrier.wait();
                    start.elapsed()
                });
            });
            ask(0);
        });
    }
    group.finish();
}

criterion_group!(benches, cross_stream, threads);
criterion_main!(benches);
