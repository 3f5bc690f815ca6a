//! What does an allocation cost that a stream has made before? Allocate and free in turn, the
//! driver never called; beside it the driver's own allocate and free, as the limit from above.

mod common;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use riverbed::device::{Call, Priority, Stream};
use riverbed::pool::Allocator;

fn hot_pair(criterion: &mut Criterion) {
    let device = common::device();
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let mut group = criterion.benchmark_group("allocator/hot_pair");
    for bytes in [512usize, 64 << 10, 4 << 20] {
        let id = BenchmarkId::new(common::id(&device, "caching"), bytes);
        drop(allocator.alloc::<u8>(bytes, &stream).expect("room"));
        let before = device.calls().get(Call::Alloc);
        group.bench_function(id, |bencher| {
            bencher.iter(|| allocator.alloc::<u8>(bytes, &stream).expect("room"));
        });
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
