//! Experts by observed routing: right bytes, a budget that holds, and what is counted.

use std::sync::Arc;

use riverbed::Error;
use riverbed::device::{Device, checksum};
use riverbed::offload::{ExpertCache, ExpertOptions};
use riverbed::pinned::PinnedPool;
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{Files, Loader, LoaderOptions, Transfer};
use riverbed::weights::{Grouping, Model};

use super::model_files::safetensors;
use super::streaming::{KIB, MIB, Random, assert_says, ends, host, stream};

const LAYERS: usize = 4;
const EXPERTS: usize = 8;
/// Two tensors that are packed to 256 KiB, of which eight fill a page of the host device.
const SIZES: [usize; 2] = [163_840, 98_304];
const EXPERT: u64 = 256 * KIB;
/// Tokens of the random routing.
const ROUNDS: u64 = 12;

struct Mixture {
    #[expect(dead_code, reason = "keeps the files")]
    directory: tempfile::TempDir,
    path: std::path::PathBuf,
    model: Arc<Model>,
    file: Vec<u8>,
}

/// With experts apart or stacked, beside tensors of other kinds.
fn mixture(stacked: bool) -> Mixture {
    let mut random = Random::new(41);
    let mut tensors: Vec<(String, Vec<u64>, Vec<u8>)> = Vec::new();
    for layer in 0..LAYERS {
        let mlp = format!("model.layers.{layer}.mlp");
        let experts = if stacked { EXPERTS } else { 1 };
        let numbers = if stacked { 1 } else { EXPERTS };
        for number in 0..numbers {
            for (name, size) in ["gate_up_proj", "down_proj"].iter().zip(SIZES) {
                let bytes: Vec<u8> = (0..experts * size).map(|_| random.next() as u8).collect();
                let (name, shape) = match stacked {
                    true => (format!("{mlp}.experts.{name}"), vec![EXPERTS, size / 64, 64]),
                    false => (format!("{mlp}.experts.{number}.{name}"), vec![size / 64, 64]),
                };
                tensors.push((name, shape.iter().map(|&dim| dim as u64).collect(), bytes));
            }
        }
        tensors.push((format!("{mlp}.gate.weight"), vec![100], vec![7; 100]));
    }
    let entries: Vec<_> = tensors
        .iter()
        .map(|(name, shape, bytes)| (&name[..], "U8", &shape[..], &bytes[..]))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mixture.safetensors");
    let file = safetensors(&entries);
    std::fs::write(&path, &file).unwrap();
    let model = Arc::new(Model::open(&path).unwrap().with_experts_apart());
    Mixture { directory, path, model, file }
}

/// A cache of so many slots, and what to check it with.
struct Rig {
    device: Device,
    allocator: Allocator,
    experts: ExpertCache,
    out: Buffer<u64>,
    pinned: PinnedPool,
    wanted: Vec<u64>,
}

impl Rig {
    fn new(mixture: &Mixture, slots: u64, keeps: bool) -> Self {
        let device = host(32).0;
        let allocator = Allocator::builder(&device).limit_bytes(16 * MIB).unwrap().build().unwrap();
        let pinned = PinnedPool::new(&device, &"pinned_limit_mb:16".parse().unwrap());
        let out = allocator.alloc(4096, &stream(&device)).unwrap();
        let files = Files::open(&mixture.model).unwrap();
        let options = LoaderOptions { chunk_bytes: 64 * KIB, slots: 4, ..LoaderOptions::default() };
        let loader = Loader::new(&device, &pinned, files, options).unwrap();
        let layers = mixture.model.expert_layers().unwrap();
        let model = Arc::clone(&mixture.model);
        let options = ExpertOptions::new(slots * EXPERT).keep_in_ram(keeps);
        let experts = ExpertCache::new(model, &layers, &allocator, loader, options).unwrap();
        Self { device, allocator, experts, out, pinned, wanted: Vec::new() }
    }

    /// Enqueues the sums of an expert.
    fn sum(&mut self, mixture: &Mixture, lease: &riverbed::offload::ExpertLease) {
        for tensor in lease.tensors() {
            lease.checksum(tensor.name, &self.out, self.wanted.len()).unwrap();
            let all = mixture.model.tensors();
            let of = all.iter().find(|of| of.name == tensor.name).unwrap();
            let start = of.offset_bytes as usize;
            self.wanted.push(checksum(&mixture.file[start..start + of.len_bytes as usize]));
        }
    }

    fn verify(&mut self) {
        let transfer = Transfer::new(&self.device).unwrap();
        let sums = transfer.read(&self.out, &self.pinned).unwrap();
        assert_eq!(sums[..self.wanted.len()], self.wanted);
        self.wanted.clear();
        self.experts.check().unwrap();
    }
}

#[test]
fn every_byte_is_right_under_random_routing_apart_and_stacked() {
    ends(|| {
        for (stacked, keeps) in [(false, true), (true, false)] {
            let mixture = mixture(stacked);
            let mut random = Random::from_env(9);
            let mut rig = Rig::new(&mixture, 8, keeps);
            let streams = [stream(&rig.device), stream(&rig.device)];
            for _ in 0..ROUNDS {
                for layer in 0..LAYERS {
                    let leases: Vec<_> = (0..3)
                        .map(|_| {
                            let stream = &streams[random.below(2)];
                            rig.experts.acquire(layer, random.below(EXPERTS), stream).unwrap()
                        })
                        .collect();
                    leases.iter().for_each(|lease| rig.sum(&mixture, lease));
                    rig.experts.load_ahead((layer + 1) % LAYERS).unwrap();
                }
                rig.verify();
            }
            let stats = rig.experts.stats();
            assert_eq!(stats.hits + stats.misses, ROUNDS * 4 * 3);
            assert_eq!(stats.bytes_moved, (stats.misses + stats.loads_ahead) * EXPERT);
            assert!(stats.hits > 0 && stats.loads_ahead > 0 && stats.slots == 8, "{stats:?}");
        }
    });
}

#[test]
fn a_tight_cache_turns_over_and_never_takes_more_than_its_bytes() {
    ends(|| {
        let mixture = mixture(false);
        let mut rig = Rig::new(&mixture, 15, true);
        let before = rig.allocator.stats().reserved_bytes.all.peak;
        let stats = rig.experts.stats();
        // Of a budget of fifteen experts eight: it is taken in whole pages.
        assert_eq!((stats.capacity_bytes, stats.slots), (8 * EXPERT, 8));
        let mut random = Random::new(3);
        let stream = stream(&rig.device);
        for _ in 0..20 {
            for layer in 0..LAYERS {
                let lease = rig.experts.acquire(layer, random.below(EXPERTS), &stream).unwrap();
                rig.sum(&mixture, &lease);
            }
        }
        rig.verify();
        assert_eq!(rig.allocator.stats().reserved_bytes.all.peak, before, "all of it at once");
    });
}

#[test]
fn what_is_routed_to_most_stays() {
    ends(|| {
        let mixture = mixture(false);
        let rig = Rig::new(&mixture, 32, false);
        let slots = rig.experts.stats().slots as usize;
        assert_eq!(slots, LAYERS * EXPERTS, "all fit");
        let stream = stream(&rig.device);
        for expert in 0..EXPERTS {
            for layer in 0..LAYERS {
                drop(rig.experts.acquire(layer, expert, &stream).unwrap());
            }
        }
        let first = rig.experts.stats();
        assert_eq!((first.hits, first.misses), (0, 32));
        for layer in 0..LAYERS {
            drop(rig.experts.acquire(layer, 5, &stream).unwrap());
        }
        assert_eq!((rig.experts.stats().hits, rig.experts.stats().misses), (4, 32));
    });
}

#[test]
fn what_does_not_exist_or_fit_is_refused_with_a_way_out() {
    ends(|| {
        let mixture = mixture(false);
        let rig = Rig::new(&mixture, 32, false);
        let stream = stream(&rig.device);
        let says = |result: riverbed::Result<riverbed::offload::ExpertLease>, words: &[&str]| {
            assert_says(&result.unwrap_err().to_string(), words);
        };
        says(rig.experts.acquire(4, 0, &stream), &["layer", "there are 4"]);
        says(rig.experts.acquire(0, 8, &stream), &["expert", "there are 8"]);
        let foreign = super::streaming::stream(&host(8).0);
        says(rig.experts.acquire(0, 0, &foreign), &["stream"]);
        let files = || Files::open(&mixture.model).unwrap();
        let loader =
            || Loader::new(&rig.device, &rig.pinned, files(), LoaderOptions::default()).unwrap();
        let layers = mixture.model.expert_layers().unwrap();
        let new = |layers: &[_], bytes| {
            let (model, options) = (Arc::clone(&mixture.model), ExpertOptions::new(bytes));
            ExpertCache::new(model, layers, &rig.allocator, loader(), options)
        };
        let error = new(&layers, 1000).unwrap_err();
        assert!(matches!(error, Error::TooLarge { available_bytes: 1000, .. }), "{error}");
        assert_says(&new(&[], MIB).unwrap_err().to_string(), &["layers with experts"]);
    });
}

#[test]
fn a_failed_read_is_told_and_tried_again() {
    ends(|| {
        let mixture = mixture(false);
        let mut rig = Rig::new(&mixture, 32, false);
        let stream = stream(&rig.device);
        std::fs::File::create(&mixture.path).unwrap();
        let lease = rig.experts.acquire(1, 2, &stream).unwrap();
        stream.synchronize().unwrap();
        assert_says(&lease.status().unwrap_err().to_string(), &["mixture.safetensors"]);
        drop(lease);
        std::fs::write(&mixture.path, &mixture.file).unwrap();
        let told = rig.experts.acquire(1, 2, &stream).unwrap_err();
        assert_says(&told.to_string(), &["mixture.safetensors"]);
        let lease = rig.experts.acquire(1, 2, &stream).unwrap();
        rig.sum(&mixture, &lease);
        rig.verify();
    });
}

#[test]
fn dense_parts_are_grouped_without_experts() {
    let mixture = mixture(true);
    let layers = mixture.model.expert_layers().unwrap();
    assert_eq!((layers.len(), layers[3].experts.len()), (LAYERS, EXPERTS));
    assert_eq!(layers[3].experts[7].name, "model.layers.3.mlp.experts.7");
    let grouping = Grouping::by_preset(&mixture.model).unwrap();
    let dense = grouping.without_experts(&mixture.model);
    assert_eq!(dense.layer_bytes(), LAYERS as u64 * 100);
    assert_eq!(dense.layers.len(), LAYERS);
    let experts: u64 = layers.iter().flat_map(|layer| &layer.experts).map(|unit| unit.bytes).sum();
    assert_eq!(experts + 400, mixture.model.total_bytes());
}
