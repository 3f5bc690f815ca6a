//! Passes on a simulated card whose link and layers have set speeds: time is virtual, so that
//! what is measured is the ring's schedule alone. Included by path.
#![allow(dead_code, unreachable_pub)] // Each test and bench uses its own part.

use std::fmt::Write as _;
use std::sync::Arc;

use riverbed::device::{Device, Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::prefetch::{PrefetchOptions, Prefetcher, RingMemory};
use riverbed::transfer::{Files, Loader, LoaderOptions};
use riverbed::weights::{Grouping, Model};

/// Layers of one size, used one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Stack {
    pub layers: u64,
    pub layer_bytes: u64,
    /// How much longer a layer takes to copy than to compute.
    pub copy_per_compute: f64,
}

/// FLUX.1-dev's 19 double and 38 single blocks, of `bytes` in all: at 1024x1024 their copies take
/// 1.88 and 0.78 times their compute on an RTX 4090 over PCIe 4.
pub fn flux(bytes: u64) -> Vec<Stack> {
    let (double, single) = (679_662_592_u64, 283_183_616_u64);
    let whole = (19 * double + 38 * single) as f64;
    let scaled = |block: u64| (block as f64 * (bytes as f64 / whole)) as u64;
    vec![
        Stack { layers: 19, layer_bytes: scaled(double), copy_per_compute: 1.88 },
        Stack { layers: 38, layer_bytes: scaled(single), copy_per_compute: 0.78 },
    ]
}

/// A model of stacks, streamed from pinned memory over a link of a set rate.
pub struct Paced {
    _directory: tempfile::TempDir,
    pub device: Device,
    pub prefetcher: Prefetcher,
    stream: Stream,
    compute_ns: Vec<u64>,
    copies_ns: u64,
}

impl Paced {
    /// With a ring of `ring_bytes`, over `link` bytes a second.
    pub fn new(stacks: &[Stack], ring_bytes: u64, link: u64, options: PrefetchOptions) -> Self {
        let device = Device::open(&format!("sim:h2d={link}B/s")).unwrap();
        Self::on(device, stacks, ring_bytes, link, options)
    }

    /// On a simulated device with such a link.
    pub fn on(
        device: Device,
        stacks: &[Stack],
        ring_bytes: u64,
        link: u64,
        options: PrefetchOptions,
    ) -> Self {
        let ring = |allocator: &Allocator, stream: &Stream| {
            allocator.alloc::<u8>(ring_bytes as usize, stream).unwrap().into()
        };
        Self::with_ring(device, stacks, ring, link, options, |_| false)
    }

    /// With a ring that goes round, of whole pages; layers that `stays` names are not streamed.
    pub fn going_round(
        stacks: &[Stack],
        ring_bytes: u64,
        link: u64,
        options: PrefetchOptions,
        stays: impl Fn(usize) -> bool,
    ) -> Self {
        let device = Device::open(&format!("sim:h2d={link}B/s")).unwrap();
        assert!(ring_bytes.is_multiple_of(device.info().granularity_bytes));
        let ring =
            |allocator: &Allocator, stream: &Stream| RingMemory::of(allocator, ring_bytes, stream);
        Self::with_ring(device, stacks, ring, link, options, stays)
    }

    fn with_ring(
        device: Device,
        stacks: &[Stack],
        ring: impl FnOnce(&Allocator, &Stream) -> RingMemory,
        link: u64,
        options: PrefetchOptions,
        stays: impl Fn(usize) -> bool,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let model = Arc::new(model_of(directory.path(), stacks));
        let mut units = Grouping::by_pattern(&model, "layers.{i}.").unwrap().layers;
        for (_, unit) in units.iter_mut().enumerate().filter(|(at, _)| stays(*at)) {
            unit.tensors.clear();
        }
        let conf = format!("pinned_limit_mb:{}", (model.total_bytes() >> 20) * 9 / 8 + 64);
        let pinned = PinnedPool::new(&device, &conf.parse().unwrap());
        let stream = Stream::new(&device, Priority::Normal).unwrap();
        let allocator = Allocator::builder(&device).build().unwrap();
        let ring = ring(&allocator, &stream);
        let files = Files::open(&model).unwrap();
        let loader = Loader::new(&device, &pinned, files, LoaderOptions::default()).unwrap();
        let prefetcher =
            Prefetcher::new(Arc::clone(&model), &units, ring, loader, options).unwrap();
        let copy_ns = |bytes: u64| bytes as f64 / link as f64 * 1e9;
        let compute_ns = stacks.iter().flat_map(|stack| {
            let ns = copy_ns(stack.layer_bytes) / stack.copy_per_compute;
            (0..stack.layers).map(move |_| ns as u64)
        });
        let (compute_ns, copies_ns) = (compute_ns.collect(), copy_ns(model.total_bytes()) as u64);
        Self { _directory: directory, device, prefetcher, stream, compute_ns, copies_ns }
    }

    /// What no pass can take less than: all compute, and all copies.
    pub fn bound_ns(&self) -> u64 {
        self.compute_ns.iter().sum::<u64>().max(self.copies_ns)
    }

    /// Nanoseconds of each layer's compute.
    pub fn compute_ns(&self) -> &[u64] {
        &self.compute_ns
    }

    /// Runs a pass; gives how long it took on the virtual clock.
    pub fn pass(&self) -> u64 {
        let now = || self.device.virtual_ns().unwrap();
        let started = now();
        for (unit, &ns) in self.compute_ns.iter().enumerate() {
            let lease = self.prefetcher.acquire(unit, &self.stream).unwrap();
            lease.stream().busy(ns).unwrap();
        }
        self.prefetcher.finish_pass(&self.stream).unwrap().into_result().unwrap();
        now() - started
    }

    /// The longest of `passes` passes after the first three, by [the bound](Self::bound_ns).
    pub fn worst_ratio(&self, passes: usize) -> f64 {
        for _ in 0..3 {
            self.pass();
        }
        let worst = (0..passes).map(|_| self.pass()).max().unwrap();
        worst as f64 / self.bound_ns() as f64
    }
}

/// A model file that takes no room on disk.
fn model_of(directory: &std::path::Path, stacks: &[Stack]) -> Model {
    let (mut header, mut end, mut layer) = (String::from("{"), 0, 0);
    for stack in stacks {
        for _ in 0..stack.layers {
            let (begin, bytes) = (end, stack.layer_bytes);
            end += bytes;
            let comma = if layer == 0 { "" } else { "," };
            write!(
                header,
                "{comma}\"layers.{layer}.w\":{{\"dtype\":\"U8\",\"shape\":[{bytes}],\
                 \"data_offsets\":[{begin},{end}]}}"
            )
            .unwrap();
            layer += 1;
        }
    }
    header.push('}');
    let path = directory.join("model.safetensors");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    std::fs::write(&path, &file).unwrap();
    let file_bytes = file.len() as u64 + end;
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(file_bytes).unwrap();
    Model::open(&path).unwrap()
}
