//! What does a request cost that nothing cached can serve? By the rung that serves it: a new
//! segment; a segment after everything cached was given back, because the limit is reached; and
//! none, because the limit is full of live blocks. On a simulated device, whose own work is in it, or on
//! `RIVERBED_BENCH_DEVICE`.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use riverbed::device::{Device, Priority, Stream};
use riverbed::pool::{Allocator, StreamAllocator};

const MIB: u64 = 1 << 20;
const LIMIT_BYTES: u64 = 64 * MIB;

fn limited(device: &Device) -> (Allocator, StreamAllocator) {
    let builder = Allocator::builder(device).limit_bytes(LIMIT_BYTES).expect("a limit");
    let allocator = builder.build().expect("an allocator");
    let stream = Stream::new(device, Priority::Normal).expect("a stream");
    let on_stream = allocator.on(&stream).expect("a handle");
    (allocator, on_stream)
}

fn ladder(criterion: &mut Criterion) {
    let device = common::device(common::SIMULATED);
    let mut group = criterion.benchmark_group(common::group("allocator/ladder", &device));

    let (allocator, on_stream) = limited(&device);
    group.bench_function("new segment, given back", |bencher| {
        bencher.iter(|| {
            drop(on_stream.block(32 * MIB).expect("room"));
            allocator.trim()
        });
    });

    let (allocator, on_stream) = limited(&device);
    // Of two classes: neither is served from what the other left cached.
    group.bench_function("last rung, twice", |bencher| {
        bencher
            .iter(|| [LIMIT_BYTES, 1024].map(|bytes| drop(on_stream.block(bytes).expect("room"))));
    });
    assert!(allocator.stats().num_alloc_retries > 0, "the last rung was not reached");

    let (_, on_stream) = limited(&device);
    let _live = on_stream.block(LIMIT_BYTES).expect("room");
    group.bench_function("out of memory", |bencher| {
        bencher.iter(|| on_stream.block(4 * MIB).expect_err("no room"));
    });
    group.finish();
}

criterion_group!(benches, ladder);
criterion_main!(benches);
