//! Passes whose units are read from disk each time, by threads of their own: after the first ones
//! nothing from the heap on any thread, nothing from the driver, and no wait of the host but the
//! one at the end of a pass. The only test of its program, so that all it takes can be counted.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/around.rs"]
mod around;
#[path = "support/model_files.rs"]
mod model_files;
#[path = "support/streaming.rs"]
mod streaming;

use std::sync::Arc;

use allocations::{allocated_bytes_by_all, count_no_more, uncounted};
use around::{Around, With};
use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::prefetch::{
    Arrival, ArrivalOptions, Lora, PrefetchOptions, Prefetcher, Transform, UnitSizes,
};
use riverbed::transfer::{Files, Loader, LoaderOptions, Urgency};
use riverbed::weights::{Dtype, Grouping, Model};
use streaming::{Content, KIB, ends, stream, waits};

/// The device's own memory from the heap is not counted.
#[derive(Debug)]
struct Uncounted;

impl Around for Uncounted {
    fn around<T>(&self, _call: &'static str, work: impl FnOnce() -> T) -> T {
        uncounted(work)
    }
}

/// Runs passes over `content`, read as `disk` says with so many units ahead; gives what they
/// take once they are steady: bytes of heap, and calls that take and that wait.
fn taken_by_passes(
    content: &Content,
    disk: &str,
    depth: usize,
    passes: u64,
    arrival: impl FnOnce(&Allocator, &PinnedPool) -> Option<Arc<dyn Transform>>,
) -> [u64; 4] {
    let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
    let device = Device::from_driver(Arc::new(With(Uncounted, driver)));
    let pinned = PinnedPool::new(&device, &"pinned_limit_mb:16".parse().unwrap());
    let allocator = Allocator::builder(&device).build().unwrap();
    let compute = stream(&device);
    let transform = arrival(&allocator, &pinned);
    let size = |unit| UnitSizes::of(&content.model, unit, transform.as_ref()).unwrap();
    let sizes: Vec<UnitSizes> = content.units().iter().map(size).collect();
    let largest = |bytes: fn(&UnitSizes) -> u64| sizes.iter().map(bytes).max().unwrap();
    let ring_bytes = 2 * largest(|unit| unit.place_bytes) + largest(|unit| unit.staging_bytes);
    let ring = allocator.alloc::<u8>(ring_bytes as usize, &compute).unwrap();
    let options = LoaderOptions {
        chunk_bytes: 64 * KIB,
        disk: disk.parse().unwrap(),
        ..LoaderOptions::default()
    };
    let files = Files::open(&content.model).unwrap();
    let loader = Loader::new(&device, &pinned, files, options).unwrap();
    loader.wait_for_homes();
    // The threads of streams are the device's.
    for stream in [&compute, loader.stream(), loader.stream_for(Urgency::Demand)] {
        stream.launch_host(Box::new(count_no_more)).unwrap();
    }
    let options = PrefetchOptions { depth, keep_in_ram: false, ..PrefetchOptions::default() };
    let model = Arc::clone(&content.model);
    let units = content.units();
    let prefetcher = match &transform {
        None => Prefetcher::new(model, units, ring, loader, options),
        Some(to) => Prefetcher::with_transform(model, units, ring, loader, options, to),
    };
    let prefetcher = prefetcher.unwrap();
    let pass = || {
        for unit in 0..content.units().len() {
            prefetcher.acquire(unit, &compute).unwrap().stream().busy(20_000).unwrap();
        }
        prefetcher.finish_pass(&compute).unwrap().into_result().unwrap();
    };
    let taken = || {
        let sum = |calls: &[Call]| device.calls().sum(calls);
        let pinned = sum(&[Call::AllocPinned, Call::Register]);
        [allocated_bytes_by_all(), sum(Call::ALLOCATING), pinned, waits(&device)]
    };
    (0..10).for_each(|_| pass());
    let before = taken();
    (0..passes).for_each(|_| pass());
    let now = taken();
    std::array::from_fn(|at| now[at] - before[at])
}

#[test]
fn steady_passes_through_the_window_take_nothing_on_any_thread() {
    ends(|| {
        const PASSES: u64 = 30;
        let content = Content::layers(&[
            &[300_000],
            &[1, 5000, 700],
            &[170_001, 9],
            &[0],
            &[130_000, 131_000],
            &[300_000],
        ]);
        for disk in [
            "io_uring,direct=auto",
            "io_uring,direct=off",
            "threads,direct=auto",
            "threads,direct=off",
        ] {
            for depth in [0, 1, PrefetchOptions::AS_FAR_AS_ROOM] {
                let taken = taken_by_passes(&content, disk, depth, PASSES, |_, _| None);
                assert_eq!(taken, [0, 0, 0, PASSES], "{disk}, {depth} ahead");
            }
        }
        let floats = floats();
        let lora = lora(floats.directory.path());
        let arrival = |allocator: &Allocator, pinned: &PinnedPool| {
            let mut options = ArrivalOptions::default();
            options.compute = Some(Dtype::F16);
            options.loras.push((Arc::clone(&lora), 0.5));
            let arrival = Arrival::new(&floats.model, options).unwrap();
            arrival.settle(allocator, pinned).unwrap();
            Some(Arc::new(arrival) as Arc<dyn Transform>)
        };
        let taken = taken_by_passes(&floats, "threads,direct=off", 1, PASSES, arrival);
        assert_eq!(taken, [0, 0, 0, PASSES], "with casts and patches");
    });
}

/// Layers of two weights in bf16, one of which a LoRA is for, and one in f32.
fn floats() -> Content {
    let mut content = Content::layers(&[&[1]]);
    let entry = |layer: u64, name: &str, dtype, bytes: usize| {
        let name = format!("layers.{layer}.{name}.weight");
        (name, dtype, [50, 120], vec![layer as u8; 50 * 120 * bytes])
    };
    let layers = (0..5).flat_map(|layer| {
        [entry(layer, "a", "BF16", 2), entry(layer, "b", "BF16", 2), entry(layer, "c", "F32", 4)]
    });
    let entries: Vec<_> = layers.collect();
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, dtype, shape, bytes)| (&name[..], *dtype, &shape[..], &bytes[..]))
        .collect();
    std::fs::write(&content.path, model_files::safetensors(&entries)).unwrap();
    content.model = Arc::new(Model::open(&content.path).unwrap());
    content.grouping = Grouping::by_preset(&content.model).unwrap();
    content
}

fn lora(folder: &std::path::Path) -> Arc<Lora> {
    let path = folder.join("lora.safetensors");
    let names: Vec<[String; 2]> = (0..5)
        .map(|layer| ["A", "B"].map(|factor| format!("layers.{layer}.a.lora_{factor}.weight")))
        .collect();
    let (down, up) = (vec![1; 2 * 120 * 2], vec![1; 50 * 2 * 2]);
    let entries: Vec<_> = names
        .iter()
        .flat_map(|[a, b]| {
            [(&a[..], "F16", &[2, 120][..], &down[..]), (&b[..], "F16", &[50, 2][..], &up[..])]
        })
        .collect();
    std::fs::write(&path, model_files::safetensors(&entries)).unwrap();
    Arc::new(Lora::open(path).unwrap())
}
