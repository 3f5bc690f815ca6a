//! What does a pass cost over its own work? A model of 16 equal layers through a ring of two,
//! with prefetch and without; beside it the same compute with nothing to copy, which is the
//! limit.

mod common;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use riverbed::device::{Device, Priority, Stream};
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::weights::{Grouping, Model};
use safetensors::tensor::{Dtype, TensorView};

const LAYERS: usize = 16;
const LAYER_BYTES: usize = 4 << 20;
/// Compute of one layer: about what copying it takes on a slow link.
const COMPUTE_NS: u64 = 1_000_000;

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

criterion_group!(benches, streamed_pass);
criterion_main!(benches);
