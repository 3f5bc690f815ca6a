//! The least a program does to stream a model: 16 layers, 32 MiB together, through 12 MiB of
//! device memory.
//!
//! ```text
//! cargo run --example streamed_layers
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use riverbed::base::{MIB, format_bytes};
use riverbed::device::{Device, Priority, Stream, checksum};
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::transfer::Transfer;
use riverbed::weights::{Grouping, Model};
use safetensors::{Dtype, tensor::TensorView};

const LAYERS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    // A model of 16 layers, each of 2 MiB that no other layer has.
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let data: Vec<Vec<u8>> = (0..LAYERS).map(|layer| vec![layer as u8; 2 << 20]).collect();
    let mut tensors = BTreeMap::new();
    for (layer, data) in data.iter().enumerate() {
        let view = TensorView::new(Dtype::F32, vec![512, 1024], data)?;
        tensors.insert(format!("model.layers.{layer}.weight"), view);
    }
    safetensors::serialize_to_file(tensors, None, &path)?;

    let device = Device::open("host")?;
    let model = Arc::new(Model::open(&path)?);
    let layers = Grouping::by_preset(&model)?;
    let streamed = StreamedModel::load(&device, model, &layers, StreamOptions::new(12 * MIB))?;
    let stream = Stream::new(&device, Priority::Normal)?;
    // Working memory comes from the same limit.
    let sums = streamed.allocator().alloc::<u64>(LAYERS, &stream)?;

    for pass in 1..=2 {
        for unit in 0..streamed.units().len() {
            let lease = streamed.acquire(unit, &stream)?;
            // A checksum stands for the layer's kernels. Nothing here waits for the device.
            for tensor in lease.tensors() {
                lease.checksum(tensor.name, &sums, unit)?;
            }
        }
        let report = streamed.finish_pass(&stream)?.into_result()?;
        println!("after pass {pass}: {:?}", report.stats);
    }

    let on_host = streamed.pinned().alloc(8 * LAYERS)?;
    let on_host = Transfer::new(&device)?.download(&sums, 0, on_host)?.wait()?;
    let expected: Vec<u8> = data.iter().flat_map(|data| checksum(data).to_le_bytes()).collect();
    assert_eq!(on_host[..], expected[..], "the layers came through the ring as they are");
    let peak = streamed.allocator().stats().reserved_bytes.all.peak;
    println!("{} of layers, peak {} reserved", format_bytes(32 * MIB), format_bytes(peak));
    Ok(())
}
