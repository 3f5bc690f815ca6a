//! Models of floats, and models streamed whole.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::weights::{Dtype, Grouping, Model};

use crate::model_files::safetensors;
use crate::streaming::{MIB, Random, host, stream};

/// A tensor as it is on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A tensor for a file: name, type, shape, bytes.
pub type Entry = (String, &'static str, Vec<u64>, Vec<u8>);

pub fn write(path: &Path, entries: &[Entry]) {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, dtype, shape, bytes)| (&name[..], *dtype, &shape[..], &bytes[..]))
        .collect();
    std::fs::write(path, safetensors(&entries)).unwrap();
}

/// Numbers between -1 and 1.
pub fn numbers(seed: u64, count: u64) -> Vec<f32> {
    let mut random = Random::new(seed + 1);
    (0..count).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

pub fn f32_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

pub fn bf16_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| half::bf16::from_f32(number).to_le_bytes()).collect()
}

pub fn bf16s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect()
}

pub fn f16_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| half::f16::from_f32(number).to_le_bytes()).collect()
}

/// A model under a limit on a host device of its own.
pub fn load(
    path: &Path,
    limit_bytes: u64,
    change: impl FnOnce(&mut StreamOptions),
) -> riverbed::Result<StreamedModel> {
    load_model(Model::open(path).unwrap(), limit_bytes, change)
}

/// As [`load`], of an opened model.
pub fn load_model(
    model: Model,
    limit_bytes: u64,
    change: impl FnOnce(&mut StreamOptions),
) -> riverbed::Result<StreamedModel> {
    let model = Arc::new(model);
    let grouping = Grouping::by_pattern(&model, "layers.{i}.").unwrap();
    let mut options = StreamOptions::new(limit_bytes);
    options.working_bytes = 0;
    options.conf = options.conf.with_pinned_limit_bytes(4 * MIB).unwrap();
    change(&mut options);
    StreamedModel::load(&host(64).0, model, &grouping, options)
}

/// Every tensor, streamed and resident, as two passes show it.
pub fn shown(streamed: &StreamedModel) -> HashMap<String, Shown> {
    let stream = stream(streamed.allocator().device());
    let mut all = HashMap::new();
    for pass in 0..2 {
        for unit in 0..streamed.units().len() {
            let lease = streamed.acquire(unit, &stream).unwrap();
            let view = lease.wait_host().unwrap();
            for tensor in lease.tensors() {
                let bytes = view.bytes(tensor.name).unwrap().to_vec();
                let shown = Shown { dtype: tensor.dtype, shape: tensor.shape.to_vec(), bytes };
                let before = all.insert(tensor.name.to_owned(), shown.clone());
                assert!(pass == 0 || before == Some(shown), "{} changed", tensor.name);
            }
        }
        streamed.finish_pass(&stream).unwrap().into_result().unwrap();
        streamed.prefetcher().check().unwrap();
    }
    for tensor in streamed.residents().iter().flat_map(|residents| residents.tensors()) {
        let bytes = streamed.residents().unwrap().bytes(tensor.name).unwrap().to_vec();
        let shown = Shown { dtype: tensor.dtype, shape: tensor.shape.to_vec(), bytes };
        assert_eq!(all.insert(tensor.name.to_owned(), shown), None, "{} twice", tensor.name);
    }
    let stats = streamed.allocator().stats();
    let limit = streamed.allocator().limit_bytes().unwrap();
    assert!(stats.reserved_bytes.all.peak <= limit, "over the limit");
    all
}
