//! What does a pass cost over its own work?
//!
//! `prefetch/pass`: a model of 16 equal layers through a ring of two, with prefetch and without;
//! beside it the same compute with nothing to copy, which is the limit. In real time.
//!
//! `prefetch/ratio`: the ring's schedule alone, on a virtual clock: passes from pinned memory over
//! a link of 2 GB/s, as parts of max(compute, copies). One second of the figures is a ratio of 1.

mod common;
#[path = "../tests/support/paced.rs"]
mod paced;

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paced::{Paced, Stack, flux};
use riverbed::device::{Device, Priority, Stream};
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::prefetch::PrefetchOptions;
use riverbed::weights::{Grouping, Model};
use safetensors::tensor::{Dtype, TensorView};

const LAYERS: usize = 16;
const LAYER_BYTES: usize = 4 << 20;
/// Compute of one layer: about what copying it takes on a slow link.
const COMPUTE_NS: u64 = 1_000_000;
/// Of the simulated link, in bytes a second.
const LINK: u64 = 2_000_000_000;

fn model(dir: &std::path::Path) -> Arc<Model> {
    let data = vec![7u8; LAYER_BYTES];
    let tensors = (0..LAYERS).map(|layer| {
        let view = TensorView::new(Dtype::U8, vec![LAYER_BYTES], &data).expect("a tensor");
        (format!("layers.{layer}.weight"), view)
    });
    let path = dir.join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).expect("a file");
    Arc::new(Model::open(path).expect("a model"))
}

fn streamed(device: &Device, model: &Arc<Model>, depth: usize) -> StreamedModel {
    let grouping = Grouping::by_preset(model).expect("layers");
    let mut options = StreamOptions::new(12 << 20);
    options.prefetch.depth = depth;
    StreamedModel::load(device, Arc::clone(model), &grouping, options).expect("loading")
}

fn pass(streamed: &StreamedModel, stream: &Stream) {
    for unit in 0..LAYERS {
        let lease = streamed.acquire(unit, stream).expect("a lease");
        lease.stream().busy(COMPUTE_NS).expect("compute");
    }
    streamed.finish_pass(stream).and_then(|report| report.into_result()).expect("a pass");
}

fn streamed_pass(criterion: &mut Criterion) {
    let device = common::device("host");
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let dir = tempfile::tempdir().expect("a directory");
    let model = model(dir.path());
    let mut group = criterion.benchmark_group("prefetch/pass");
    group.sample_size(20).throughput(Throughput::Bytes((LAYERS * LAYER_BYTES) as u64));
    for depth in [4, 0] {
        let streamed = streamed(&device, &model, depth);
        pass(&streamed, &stream);
        let id = BenchmarkId::new(common::id(&device, "streamed"), format!("{depth}_ahead"));
        group.bench_function(id, |bencher| bencher.iter(|| pass(&streamed, &stream)));
    }
    group.bench_function(BenchmarkId::new(common::id(&device, "compute"), "alone"), |bencher| {
        bencher.iter(|| {
            for _ in 0..LAYERS {
                stream.busy(COMPUTE_NS).expect("compute");
            }
            stream.synchronize().expect("the end");
        });
    });
    group.finish();
}

fn ratios(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefetch/ratio");
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    group.measurement_time(Duration::from_millis(1));
    let mut case = |name: &str, stacks: &[Stack], ring_bytes: u64, options: PrefetchOptions| {
        let mut paced = None;
        group.bench_function(name, |bencher| {
            let paced = paced.get_or_insert_with(|| {
                let paced = Paced::new(stacks, ring_bytes, LINK, options);
                paced.worst_ratio(1); // The first passes read the file and fill the ring.
                paced
            });
            bencher.iter_custom(|passes| {
                let ns: u64 = (0..passes).map(|_| paced.pass()).sum();
                Duration::from_secs_f64(ns as f64 / paced.bound_ns() as f64)
            });
        });
    };
    let options = PrefetchOptions::default();
    let flux = flux(2_000_000_000);
    case("flux/ring_0.40_GB", &flux, 400_000_000, options);
    case("flux/ring_0.40_GB_1_ahead", &flux, 400_000_000, PrefetchOptions { depth: 1, ..options });
    let stable = PrefetchOptions { stable_addresses: true, ..options };
    case("flux/ring_0.40_GB_stable_addresses", &flux, 400_000_000, stable);
    for copy_per_compute in [0.6, 1.0, 1.9] {
        let layer_bytes = 32 << 20;
        let stack = Stack { layers: 16, layer_bytes, copy_per_compute };
        let name = format!("equal/two_slots_{copy_per_compute}");
        case(&name, &[stack], 2 * layer_bytes, options);
    }
    group.finish();
}

criterion_group!(benches, streamed_pass, ratios);
criterion_main!(benches);
