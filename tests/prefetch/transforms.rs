//! Weights changed on their way into the ring.
#![expect(unsafe_code, reason = "transforms enqueue work by address")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use riverbed::Error;
use riverbed::conf::Conf;
use riverbed::device::{Device, FloatFormat, Kernel, Stream, cast};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::prefetch::{Cast, Change, Lease, PrefetchOptions, Prefetcher, TensorRef, Transform};
use riverbed::transfer::{Files, Loader, LoaderOptions};
use riverbed::weights::{Dtype, Grouping, Model, Tensor, UnitLayout};

use super::model_files::safetensors;
use super::streaming::{KIB, Random, assert_says, ends, host, stream};

/// Layers of two fp8 matrices and one tensor of bytes.
struct Layers {
    _directory: tempfile::TempDir,
    model: Arc<Model>,
    grouping: Grouping,
    bytes: Vec<Vec<u8>>,
}

impl Layers {
    fn new(count: usize) -> Self {
        let mut random = Random::new(5);
        let mut tensors = Vec::new();
        for layer in 0..count {
            for (name, dtype, len) in
                [("a", "F8_E4M3", 60_000 + layer), ("b", "F8_E5M2", 301), ("c", "U8", 777)]
            {
                let bytes: Vec<u8> = (0..len).map(|_| (random.next() >> 33) as u8).collect();
                tensors.push((format!("layers.{layer}.{name}"), dtype, [len as u64], bytes));
            }
        }
        let entries: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (&name[..], *dtype, &shape[..], &bytes[..]))
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, safetensors(&entries)).unwrap();
        let model = Arc::new(Model::open(&path).unwrap());
        let grouping = Grouping::by_preset(&model).unwrap();
        let bytes = tensors.into_iter().map(|(.., bytes)| bytes).collect();
        Self { _directory: directory, model, grouping, bytes }
    }

    fn prefetcher(
        &self,
        device: &Device,
        ring_bytes: u64,
        depth: usize,
        transform: Arc<dyn Transform>,
    ) -> riverbed::Result<Prefetcher> {
        let conf = Conf::default().with_pinned_limit_bytes(512 * KIB)?;
        let pinned = PinnedPool::new(device, &conf);
        let allocator = Allocator::builder(device).build()?;
        let ring = allocator.alloc::<u8>(ring_bytes as usize, &stream(device))?;
        let options =
            LoaderOptions { chunk_bytes: 64 * KIB, slots: 2, threads: 2, ..Default::default() };
        let loader = Loader::new(device, &pinned, Files::open(&self.model)?, options)?;
        let (model, units) = (Arc::clone(&self.model), &self.grouping.layers);
        let prefetch = PrefetchOptions { depth, ..PrefetchOptions::default() };
        Prefetcher::with_transform(model, units, ring, loader, prefetch, &transform)
    }

    /// The largest unit as it is read.
    fn raw_bytes(&self) -> u64 {
        let packed = |unit| UnitLayout::new(&self.model, unit).unwrap().len_bytes;
        self.grouping.layers.iter().map(packed).max().unwrap()
    }
}

/// Passes over all layers, each tensor shown to `check` with its number in the file.
fn passes(
    prefetcher: &Prefetcher,
    stream: &Stream,
    count: usize,
    mut check: impl FnMut(usize, &TensorRef<'_>, &[u8], &Lease),
) {
    let units = prefetcher.units().len();
    for _ in 0..count {
        for unit in 0..units {
            let lease = prefetcher.acquire(unit, stream).unwrap();
            let view = lease.wait_host().unwrap();
            for (at, tensor) in lease.tensors().enumerate() {
                check(3 * unit + at, &tensor, view.bytes(tensor.name).unwrap(), &lease);
            }
        }
        prefetcher.finish_pass(stream).unwrap().into_result().unwrap();
        prefetcher.check().unwrap();
    }
}

#[test]
fn fp8_files_are_leased_as_bf16_to_the_bit() {
    ends(|| {
        let layers = Layers::new(5);
        let (device, _) = host(64);
        let stream = stream(&device);
        let to_bf16: Arc<dyn Transform> =
            Arc::new(Cast { from: None, to: Dtype::BF16, saturate: false });
        let ring = 5 * layers.raw_bytes() + KIB;
        let prefetcher = layers.prefetcher(&device, ring, 2, to_bf16).unwrap();
        passes(&prefetcher, &stream, 3, |number, tensor, shown, _| {
            let file = &layers.bytes[number];
            let from = match number % 3 {
                0 => FloatFormat::F8E4M3,
                1 => FloatFormat::F8E5M2,
                _ => {
                    assert_eq!((tensor.dtype, shown), (Dtype::U8, &file[..]));
                    return;
                }
            };
            let mut wanted = vec![0; 2 * file.len()];
            cast(file, &mut wanted, from, FloatFormat::Bf16, false);
            assert_eq!((tensor.dtype, tensor.shape[0]), (Dtype::BF16, file.len() as u64));
            assert!(shown == wanted, "{}", tensor.name);
        });
        assert!(prefetcher.stats().loads > 5, "the ring holds fewer than all");
    });
}

/// Sets the last 16 bytes of tensors called `b`, as a patch in place would, and counts.
#[derive(Debug, Default)]
struct Patch {
    times: AtomicU64,
    value: u8,
}

impl Transform for Patch {
    fn plan(&self, tensor: &Tensor) -> riverbed::Result<Change> {
        Ok(if tensor.name.ends_with(".b") { Change::InPlace } else { Change::Keep })
    }

    unsafe fn enqueue(
        &self,
        stream: &Stream,
        source: &TensorRef<'_>,
        target: &TensorRef<'_>,
    ) -> riverbed::Result<()> {
        assert_eq!(source.ptr, target.ptr);
        self.times.fetch_add(1, Ordering::Relaxed);
        let dst = target.ptr.offset(target.len_bytes - 16);
        let kernel = Kernel::Fill { dst, bytes: 16, value: self.value };
        // SAFETY: the last bytes of the target, which the caller keeps for this alone.
        Ok(unsafe { stream.device().driver().launch(stream.id(), &kernel) }?)
    }
}

#[test]
fn a_patch_is_applied_once_a_load_and_needs_no_room_of_its_own() {
    ends(|| {
        let layers = Layers::new(5);
        let (device, _) = host(64);
        let stream = stream(&device);
        let patch = Arc::new(Patch { value: 0xa5, ..Patch::default() });
        let shared: Arc<dyn Transform> = patch.clone();
        let prefetcher = layers.prefetcher(&device, 2 * layers.raw_bytes(), 2, shared).unwrap();
        passes(&prefetcher, &stream, 4, |number, tensor, shown, _| {
            let mut wanted = layers.bytes[number].clone();
            if number % 3 == 1 {
                let end = wanted.len() - 16;
                wanted[end..].fill(0xa5);
            }
            assert!(shown == wanted, "{}", tensor.name);
        });
        assert_eq!(patch.times.load(Ordering::Relaxed), prefetcher.stats().loads);
    });
}

/// Fails every third time.
#[derive(Debug, Default)]
struct Failing(AtomicUsize);

impl Transform for Failing {
    fn plan(&self, tensor: &Tensor) -> riverbed::Result<Change> {
        let into = Change::Into { dtype: Dtype::U8, shape: vec![16] };
        Ok(if tensor.name.ends_with(".b") { into } else { Change::Keep })
    }

    unsafe fn enqueue(
        &self,
        _: &Stream,
        _: &TensorRef<'_>,
        _: &TensorRef<'_>,
    ) -> riverbed::Result<()> {
        match self.0.fetch_add(1, Ordering::Relaxed) % 3 {
            2 => Err(Error::invalid("patch", "missing", "put it there")),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_transform_that_fails_fails_its_lease_once_and_asking_again_loads_again() {
    ends(|| {
        for depth in [0, 2] {
            let layers = Layers::new(5);
            let (device, _) = host(64);
            let stream = stream(&device);
            let transform = Arc::new(Failing::default());
            let ring = 4 * layers.raw_bytes();
            let prefetcher = layers.prefetcher(&device, ring, depth, transform).unwrap();
            let mut failed = 0;
            for step in 0..30 {
                let lease = prefetcher.acquire(step % 5, &stream).or_else(|error| {
                    assert_says(&error.to_string(), &["patch", "put it there"]);
                    failed += 1;
                    prefetcher.acquire(step % 5, &stream)
                });
                let lease = lease.unwrap();
                let name = format!("layers.{}.a", step % 5);
                let view = lease.wait_host().unwrap();
                assert!(view.bytes(&name).unwrap() == layers.bytes[3 * (step % 5)]);
                prefetcher.check().unwrap();
            }
            assert!(failed > 3, "{failed}");
            prefetcher.finish_pass(&stream).unwrap().into_result().unwrap();
        }
    });
}

#[test]
fn impossible_transforms_are_refused_when_the_prefetcher_is_made() {
    let layers = Layers::new(2);
    let (device, _) = host(64);
    let with = |ring, transform| layers.prefetcher(&device, ring, 2, transform).unwrap_err();
    let cast = |from, to| Arc::new(Cast { from, to, saturate: false });
    let error = with(16 << 20, cast(None, Dtype::Q4_K)).to_string();
    assert_says(&error, &["cast to", "Q4_K", "BF16"]);
    let error = with(16 << 20, cast(Some(Dtype::I32), Dtype::F16)).to_string();
    assert_says(&error, &["cast from", "I32"]);
    let raw = layers.raw_bytes();
    let error = with(2 * raw, cast(None, Dtype::BF16));
    assert!(matches!(error, Error::TooLarge { requested_bytes, .. } if requested_bytes > 2 * raw));
}
