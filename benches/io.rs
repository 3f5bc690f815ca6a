//! How fast does a model on disk reach the device? Riverbed by each of its ways; beside it what
//! else there is: a mapping and a copy, reads and a copy, the `safetensors` crate, candle. All to
//! memory that was touched before; cold runs drop the file from the page cache first.
//!
//! `RIVERBED_IO_BYTES` sets the model's size (128 MiB), `RIVERBED_IO_DIR` where it lies (the
//! system's temporary directory). With `RIVERBED_IO_ROUNDS=7` all ways run in turns, so often,
//! and medians are printed, in place of criterion's figures.

mod common;

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use riverbed::conf::Conf;
use riverbed::device::{Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{Files, Loader, LoaderOptions, Urgency};
use riverbed::weights::{Model, Unit, UnitLayout};

/// Bytes of a tensor: a matrix of a transformer block.
const TENSOR_BYTES: usize = 18 << 20;

fn main() {
    let model = Generated::new();
    let mut ways = ways(&model);
    match std::env::var("RIVERBED_IO_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()) {
        Some(rounds) => in_turns(&model, &mut ways, rounds),
        None => by_criterion(&model, &mut ways),
    }
}

/// A way to load, by name.
struct Way {
    name: String,
    load: Box<dyn FnMut()>,
}

/// A file mapped for reading.
struct Mapping(*mut u8, usize);

impl Mapping {
    fn new(file: &File) -> Self {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let len = file.metadata().expect("a length").len() as usize;
        let (hint, flags) = (std::ptr::null_mut(), MapFlags::PRIVATE);
        // SAFETY: a new mapping of a file nobody writes to while it lives.
        let at = unsafe { mmap(hint, len, ProtFlags::READ, flags, file, 0) };
        Self(at.expect("a mapping").cast(), len)
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has so many bytes, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.0, self.1) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` and is used by nobody else.
        unsafe { rustix::mm::munmap(self.0.cast(), self.1) }.expect("the mapping");
    }
}

/// A model made for the run.
struct Generated {
    _directory: tempfile::TempDir,
    path: PathBuf,
    bytes: u64,
}

impl Generated {
    fn new() -> Self {
        let size = std::env::var("RIVERBED_IO_BYTES").ok();
        let bytes = size
            .map_or(128 << 20, |size| riverbed::base::parse_bytes(&size).expect("a size") as usize);
        let place = std::env::var_os("RIVERBED_IO_DIR").map(PathBuf::from);
        let directory = tempfile::tempdir_in(place.unwrap_or_else(std::env::temp_dir));
        let directory = directory.expect("a directory");
        let path = directory.path().join("model.safetensors");
        let count = (bytes / TENSOR_BYTES).max(1);
        let entry = |at: usize| {
            let (begin, end) = (at * TENSOR_BYTES, (at + 1) * TENSOR_BYTES);
            format!(
                "\"t{at:04}\":{{\"dtype\":\"U8\",\"shape\":[{TENSOR_BYTES}],\"data_offsets\":[{begin},{end}]}}"
            )
        };
        let header = format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
        let mut file = File::create(&path).expect("a file");
        file.write_all(&(header.len() as u64).to_le_bytes()).expect("room");
        file.write_all(header.as_bytes()).expect("room");
        let mut state = 1u64;
        let mut tensor = vec![0u8; TENSOR_BYTES];
        for _ in 0..count {
            for word in tensor.chunks_exact_mut(8) {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                word.copy_from_slice(&state.to_le_bytes());
            }
            file.write_all(&tensor).expect("room");
        }
        file.sync_all().expect("a disk");
        Self { _directory: directory, path, bytes: (count * TENSOR_BYTES) as u64 }
    }

    fn make_cold(&self) {
        let file = File::open(&self.path).expect("the file");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    }

    fn make_warm(&self) {
        std::io::copy(&mut File::open(&self.path).expect("the file"), &mut std::io::sink())
            .expect("reads");
    }
}

fn ways(model: &Generated) -> Vec<Way> {
    let device = common::device("host");
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    // One target for all of them; padding between tensors makes it a little longer.
    let len = model.bytes as usize + (1 << 20);
    let target = Rc::new(allocator.alloc::<u8>(len, &stream).expect("room"));
    let mut ways: Vec<Way> =
        ["auto", "io_uring,direct=on", "threads,direct=on", "threads,direct=off"]
            .iter()
            .map(|disk| riverbed_way(model, disk, &target))
            .collect();
    let target = Rc::new(RefCell::new(vec![1u8; model.bytes as usize]));
    let mut other = |name: &str, load: fn(&Path, &mut [u8])| {
        let (path, target) = (model.path.clone(), Rc::clone(&target));
        let load = Box::new(move || load(&path, &mut target.borrow_mut()));
        ways.push(Way { name: name.into(), load });
    };
    other("mmap and copy", |path, target| {
        let file = File::open(path).expect("the file");
        let map = Mapping::new(&file);
        let skipped = map.len() - target.len();
        target.copy_from_slice(&map[skipped..]);
    });
    other("read and copy", |path, target| {
        let mut file = File::open(path).expect("the file");
        let mut part = vec![0; 4 << 20];
        let skipped = file.metadata().expect("a length").len() as usize - target.len();
        file.read_exact(&mut part[..skipped]).expect("a header");
        for target in target.chunks_mut(part.len()) {
            let part = &mut part[..target.len()];
            file.read_exact(part).expect("reads");
            target.copy_from_slice(part);
        }
    });
    other("safetensors and copy", |path, target| {
        let file = File::open(path).expect("the file");
        let map = Mapping::new(&file);
        let tensors = safetensors::SafeTensors::deserialize(&map).expect("a model");
        let mut rest = target;
        for (_, tensor) in tensors.iter() {
            let (place, behind) = rest.split_at_mut(tensor.data().len());
            place.copy_from_slice(tensor.data());
            rest = behind;
        }
    });
    other("candle", |path, _| {
        let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu);
        std::hint::black_box(tensors.expect("a model"));
    });
    ways
}

/// Loads all tensors as one unit.
fn riverbed_way(generated: &Generated, disk: &str, target: &Rc<Buffer<u8>>) -> Way {
    let device = target.stream().device().clone();
    let pinned = PinnedPool::new(&device, &Conf::default());
    let model = Model::open(&generated.path).expect("a model");
    let tensors = (0..model.tensors().len()).collect();
    let unit = Unit { name: "all".into(), tensors, bytes: generated.bytes };
    let layout = UnitLayout::new(&model, &unit).expect("a layout");
    let options =
        LoaderOptions { disk: disk.parse().expect("options"), ..LoaderOptions::default() };
    let files = Files::open(&model).expect("files");
    let mut loader = Loader::new(&device, &pinned, files, options).expect("a loader");
    let name = format!("riverbed {disk} ({}, {})", loader.disk().backend, loader.disk().threads);
    let target = Rc::clone(target);
    let load = Box::new(move || {
        let plan = loader.plan(&layout);
        let status = loader.load_buffer(&target, &plan, None, Urgency::Ahead).expect("a load");
        loader.stream().synchronize().expect("the load's end");
        status.check().expect("reads");
    });
    Way { name, load }
}

fn by_criterion(model: &Generated, ways: &mut [Way]) {
    let mut criterion = Criterion::default().configure_from_args();
    for cold in [true, false] {
        let mut group = criterion.benchmark_group(if cold { "io/cold" } else { "io/warm" });
        group.throughput(Throughput::Bytes(model.bytes)).sample_size(10);
        for way in &mut *ways {
            let name = way.name.clone();
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| once(model, way, cold)).sum());
            });
        }
        group.finish();
    }
    criterion.final_summary();
}

fn once(model: &Generated, way: &mut Way, cold: bool) -> Duration {
    if cold {
        model.make_cold()
    } else {
        model.make_warm()
    }
    let begun = Instant::now();
    (way.load)();
    begun.elapsed()
}

/// Runs all ways in turns and prints medians and spreads in GB/s.
fn in_turns(model: &Generated, ways: &mut [Way], rounds: usize) {
    for cold in [true, false] {
        for way in &mut *ways {
            once(model, way, false); // What is touched once is touched here.
        }
        let mut rates = vec![Vec::new(); ways.len()];
        for _ in 0..rounds.max(1) {
            for (way, rates) in ways.iter_mut().zip(&mut rates) {
                let seconds = once(model, way, cold).as_secs_f64();
                rates.push(model.bytes as f64 / seconds / 1e9);
            }
        }
        for (way, rates) in ways.iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            let (least, most) = (rates[0], rates[rates.len() - 1]);
            let median = rates[rates.len() / 2];
            let cold = if cold { "cold" } else { "warm" };
            println!("{cold} {:44} {median:6.2} GB/s ({least:.2} to {most:.2})", way.name);
        }
    }
}
