//! What do several streams cost? A block freed while another stream uses it (one event recorded,
//! one looked at), beside the same without the other stream; and one, two and four threads, each
//! on a stream of its own. On a simulated device, whose own work is in the first.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use riverbed::device::{Device, Priority, Stream};
use riverbed::pool::Allocator;

const BYTES: u64 = 64 << 10;

fn device() -> Device {
    Device::open("sim:1TiB").expect("a simulated device")
}

fn stream(device: &Device) -> Stream {
    Stream::new(device, Priority::Normal).expect("a stream")
}

fn cross_stream(criterion: &mut Criterion) {
    let device = device();
    let (home, other) = (stream(&device), stream(&device));
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let on_stream = allocator.on(&home).expect("a handle");
    let mut group = criterion.benchmark_group("allocator/cross_stream");
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

/// The time of `rounds` pairs on each of `count` threads at once.
fn run(allocator: &Allocator, streams: &[Stream], rounds: u64) -> Duration {
    let barrier = Barrier::new(streams.len() + 1);
    std::thread::scope(|scope| {
        for stream in streams {
            scope.spawn(|| {
                let on_stream = allocator.on(stream).expect("a handle");
                barrier.wait();
                for round in 0..rounds {
                    drop(black_box(on_stream.block(BYTES + round % 4 * 512).expect("room")));
                }
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed()
    })
}

fn threads(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("allocator/threads");
    for count in [1, 2, 4] {
        let allocator = Allocator::builder(&device).build().expect("an allocator");
        let streams: Vec<Stream> = (0..count).map(|_| stream(&device)).collect();
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_custom(|rounds| run(&allocator, &streams, rounds));
        });
    }
    group.finish();
}

criterion_group!(benches, cross_stream, threads);
criterion_main!(benches);
