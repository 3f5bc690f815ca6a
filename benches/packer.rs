//! How long does packing take? MiniMalloc's challenging instances within their capacity, and
//! 60,000 synthetic buffers as low as can be.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use riverbed::pack::{Buffer, Options, Packing, pack};

fn instance(name: &str) -> Vec<Buffer> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/packing");
    let text = std::fs::read_to_string(format!("{dir}/{name}.1048576.csv")).expect("a test file");
    let row = |line: &str| {
        let number = |field: &str| field.parse().expect("a number");
        let fields: Vec<u64> = line.split(',').map(number).collect();
        Buffer { lower: fields[1], upper: fields[2], bytes: fields[3] }
    };
    text.lines().skip(1).map(row).collect()
}

/// Weights that live nearly always, activations of one layer or a few, and small change.
fn synthetic(count: u64) -> Vec<Buffer> {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let end = 2 * count;
    let mut buffers = Vec::new();
    for number in 0..count {
        let (lower, life, kib) = match number {
            0..300 => (number, end - 600 + number, 1024 << random(5)),
            _ if random(10) == 0 => (random(end), 1 + random(2000), 1 + random(4000)),
            _ => (random(end), 1 + random(30), 1 + random(1000)),
        };
        buffers.push(Buffer { lower, upper: lower + life, bytes: kib << 10 });
    }
    buffers
}

fn packed(buffers: &[Buffer], capacity_bytes: Option<u64>) -> Packing {
    let mut options = Options::default();
    options.capacity_bytes = capacity_bytes;
    pack(black_box(buffers), &options).expect("valid buffers")
}

fn packer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packer");
    group.sample_size(10);
    for name in ["A", "C", "D", "E", "G", "I", "J", "K"] {
        let buffers = instance(name);
        assert!(packed(&buffers, Some(1 << 20)).height_bytes <= 1 << 20, "{name} does not fit");
        group.bench_function(BenchmarkId::new("minimalloc", name), |bencher| {
            bencher.iter(|| packed(&buffers, Some(1 << 20)));
        });
    }
    let buffers = synthetic(60_000);
    group.bench_function(BenchmarkId::new("synthetic", buffers.len()), |bencher| {
        bencher.iter(|| packed(&buffers, None));
    });
    group.finish();
}

criterion_group!(benches, packer);
criterion_main!(benches);
