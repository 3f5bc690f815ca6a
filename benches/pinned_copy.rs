//! How fast does pinned memory reach the device? Copies of several sizes, waited for one by
//! one; beside them a plain copy in host memory, which on the host device is the limit.

mod common;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use riverbed::device::{Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::transfer::Transfer;

fn pinned_copy(criterion: &mut Criterion) {
    let device = common::device("host");
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let pinned = PinnedPool::new(&device, &riverbed::conf::Conf::default());
    let transfer = Transfer::new(&device).expect("copy streams");
    let mut group = criterion.benchmark_group("transfer/h2d");
    for bytes in [64usize << 10, 1 << 20, 16 << 20] {
        group.throughput(Throughput::Bytes(bytes as u64));
        let buffer = allocator.alloc::<u8>(bytes, &stream).expect("room");
        let source = pinned.alloc(bytes).expect("pinned memory").freeze();
        group.bench_function(BenchmarkId::new(common::id(&device, "pinned"), bytes), |bencher| {
            bencher.iter(|| {
                let copy = transfer.upload_shared(&source, &buffer, 0).expect("a copy");
                copy.wait().expect("the copy's end")
            });
        });
        let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
        group.bench_function(BenchmarkId::new("memory/copy_from_slice", bytes), |bencher| {
            bencher.iter(|| to.copy_from_slice(std::hint::black_box(&from)));
        });
    }
    group.finish();
}

criterion_group!(benches, pinned_copy);
criterion_main!(benches);
