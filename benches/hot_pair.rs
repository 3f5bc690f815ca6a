//! What does an allocation cost that a stream has made before? Allocate and free in turn, the
//! driver never called: through a stream's handle, by bare address, as an owned buffer; beside
//! them the driver's own allocate and free, as the limit from above, and other crates that keep
//! the books of a range.

mod common;
#[path = "common/peers.rs"]
mod peers;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use riverbed::device::{Call, Priority, Stream};
use riverbed::pool::Allocator;

use peers::{OffsetAllocator, Slots, Tlsf};

/// What a peer's range holds.
const RANGE_BYTES: u64 = 1 << 30;

fn hot_pair(criterion: &mut Criterion) {
    let device = common::device("host");
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let on_stream = allocator.on(&stream).expect("a handle");
    let mut group = criterion.benchmark_group("allocator/hot_pair");
    for bytes in [512usize, 64 << 10, 4 << 20] {
        let id = |entry| BenchmarkId::new(common::id(&device, entry), bytes);
        drop(allocator.alloc::<u8>(bytes, &stream).expect("room"));
        let before = device.calls().get(Call::Alloc);
        group.bench_function(id("handle"), |bencher| {
            bencher.iter(|| drop(on_stream.block(bytes as u64).expect("room")));
        });
        group.bench_function(id("raw"), |bencher| {
            bencher.iter(|| {
                let ptr = allocator.alloc_raw(bytes as u64, &stream).expect("room");
                // SAFETY: the block was taken just now and nothing was enqueued on it.
                unsafe { allocator.free_raw(ptr) }.expect("a live block");
            });
        });
        group.bench_function(id("buffer"), |bencher| {
            bencher.iter(|| allocator.alloc::<u8>(bytes, &stream).expect("room"));
        });
        let peers: [(&str, Box<dyn Slots>); 2] = [
            ("offset-allocator", Box::new(OffsetAllocator::new(RANGE_BYTES, 1))),
            ("rlsf", Box::new(Tlsf::new(RANGE_BYTES, 1))),
        ];
        for (name, mut slots) in peers {
            let id = BenchmarkId::new(format!("peer/{name}"), bytes);
            group.bench_function(id, |bencher| bencher.iter(|| slots.replace(0, bytes as u64)));
        }
        assert_eq!(device.calls().get(Call::Alloc), before, "the hot path called the driver");
    }
    for bytes in [512u64, 4 << 20] {
        let id = BenchmarkId::new(common::id(&device, "driver"), bytes);
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                let ptr = device.driver().alloc(bytes).expect("room");
                // SAFETY: the memory was taken just now and nothing was enqueued on it.
                unsafe { device.driver().free(ptr) }.expect("freeing");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hot_pair);
criterion_main!(benches);
