//! How fast does a model on disk reach the device? Riverbed by each of its ways; beside it the
//! disk itself (`fio`, if it is installed) and what else there is: a mapping and a copy, reads and
//! a copy, the `safetensors` crate, candle's mapped loading. All but candle, which makes tensors,
//! load to one buffer that was touched before; cold runs drop the file from the page cache first.
//!
//! `RIVERBED_IO_BYTES` sets the size of the model, which has FLUX.1's shape (128 MiB),
//! `RIVERBED_IO_DIR` where it lies (the system's temporary directory). With `RIVERBED_IO_ROUNDS=7`
//! all ways run in turns, so often, and medians are printed, in place of criterion's figures.
//! Three times the model's size is wanted of RAM: the target, candle's tensors, the page cache.

mod common;
#[allow(dead_code)]
#[path = "../src/bin/riverbed/bench/flux.rs"]
mod flux;

use std::any::Any;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use riverbed::conf::Conf;
use riverbed::device::{Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{Files, Loader, LoaderOptions, Urgency};
use riverbed::weights::{Model, Unit, UnitLayout};

use crate::flux::{Generated, Shape};

/// What writing a model may fail with.
type Failure = riverbed::Error;

/// What `fio` is run with, beside huge pages: the largest rate of all is the disk's.
const FIO: [&[&str]; 5] = [
    &["--ioengine=psync", "--bs=4M"],
    &["--ioengine=io_uring", "--bs=1M", "--iodepth=16"],
    &["--ioengine=io_uring", "--bs=4M", "--iodepth=8"],
    &[
        "--ioengine=io_uring",
        "--bs=1M",
        "--iodepth=8",
        "--numjobs=2",
        "--offset_increment=50%",
        "--size=50%",
    ],
    &["--ioengine=libaio", "--bs=1M", "--iodepth=32"],
];

fn main() {
    let model = OnDisk::new();
    let mut ways = ways(&model);
    match std::env::var("RIVERBED_IO_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()) {
        Some(rounds) => in_turns(&model, &mut ways, rounds),
        None => by_criterion(&model, &mut ways),
    }
}

/// A way to load, by name.
struct Way {
    name: String,
    /// What it gives is dropped when the clock has stopped.
    load: Box<dyn FnMut() -> Box<dyn Any>>,
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
struct OnDisk {
    file: Generated,
    bytes: u64,
}

impl OnDisk {
    fn new() -> Self {
        let size = std::env::var("RIVERBED_IO_BYTES").ok();
        let bytes =
            size.map_or(128 << 20, |size| riverbed::base::parse_bytes(&size).expect("a size"));
        let directory = std::env::var_os("RIVERBED_IO_DIR").map(PathBuf::from);
        let directory = directory.unwrap_or_else(std::env::temp_dir);
        let file = Generated::write(&directory, Shape::Flux, bytes).expect("room for a model");
        let bytes = Model::open(file.path()).expect("a model").total_bytes();
        Self { file, bytes }
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn make_cold(&self) {
        let file = File::open(self.path()).expect("the file");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    }

    fn make_warm(&self) {
        std::io::copy(&mut File::open(self.path()).expect("the file"), &mut std::io::sink())
            .expect("reads");
    }

    /// The disk's rate in bytes a second by `fio`, which drops the cache itself; `None` where it
    /// is not installed or does not run like that. Its memory is in huge pages as our window's is:
    /// with small ones a disk may give half as much.
    fn fio(&self, setting: &[&str]) -> Option<f64> {
        let out = Command::new("fio")
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
            .args(["--thread", "--iomem=malloc", "--iomem_align=2M"])
            .args(["--name=read", "--rw=read", "--direct=1", "--readonly", "--group_reporting"])
            .args(["--output-format=json"])
            .arg(format!("--filename={}", self.path().display()))
            .args(setting)
            .output()
            .ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        let report: serde_json::Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
        report["jobs"][0]["read"]["bw_bytes"].as_f64().filter(|&rate| rate > 0.0)
    }
}

fn ways(model: &OnDisk) -> Vec<Way> {
    let device = common::device("host");
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    // One target for all of them; padding between tensors makes it a little longer.
    let len = model.bytes as usize + (1 << 20);
    let target = Rc::new(allocator.alloc::<u8>(len, &stream).expect("room"));
    let disks = ["auto", "io_uring,direct=on", "threads,direct=on", "threads,direct=off"];
    let ways = disks.iter().map(|disk| riverbed_way(model, disk, &target));
    let mut ways: Vec<Way> = ways.collect();
    if device.info().host_accessible {
        ways.extend(other_ways(model, &target));
    }
    ways
}

/// What loads to memory the processor writes.
fn other_ways(model: &OnDisk, target: &Rc<Buffer<u8>>) -> Vec<Way> {
    let bytes = model.bytes as usize;
    let other = |name: &str, load: fn(&Path, &mut [u8])| {
        let (path, target) = (model.path().to_owned(), Rc::clone(target));
        let load = Box::new(move || -> Box<dyn Any> {
            target.stream().synchronize().expect("the loads before");
            // SAFETY: the buffer has more bytes than the model, the device's memory is this
            // process's, and nothing is under way on it.
            let target =
                unsafe { std::slice::from_raw_parts_mut(target.ptr().0 as *mut u8, bytes) };
            load(&path, target);
            Box::new(())
        });
        Way { name: name.into(), load }
    };
    let candle = model.path().to_owned();
    let candle = move || -> Box<dyn Any> {
        // SAFETY: nobody writes to the file.
        let file = unsafe { candle_core::safetensors::MmapedSafetensors::new(&candle) };
        let file = file.expect("a model");
        let names = file.tensors().into_iter().map(|(name, _)| name);
        let load = |name: String| file.load(&name, &candle_core::Device::Cpu).expect("a tensor");
        Box::new(names.map(load).collect::<Vec<_>>())
    };
    vec![
        other("mmap and copy", |path, target| {
            let file = File::open(path).expect("the file");
            let map = Mapping::new(&file);
            let skipped = map.len() - target.len();
            target.copy_from_slice(&map[skipped..]);
        }),
        other("read and copy", |path, target| {
            let mut file = File::open(path).expect("the file");
            let mut part = vec![0; 4 << 20];
            let mut left = file.metadata().expect("a length").len() as usize - target.len();
            while left > 0 {
                let header = left.min(part.len());
                file.read_exact(&mut part[..header]).expect("a header");
                left -= header;
            }
            for target in target.chunks_mut(part.len()) {
                let part = &mut part[..target.len()];
                file.read_exact(part).expect("reads");
                target.copy_from_slice(part);
            }
        }),
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
        }),
        Way { name: "candle, mapped".into(), load: Box::new(candle) },
    ]
}

/// Loads all tensors as one unit.
fn riverbed_way(generated: &OnDisk, disk: &str, target: &Rc<Buffer<u8>>) -> Way {
    let device = target.stream().device().clone();
    let pinned = PinnedPool::new(&device, &Conf::default());
    let model = Model::open(generated.path()).expect("a model");
    let tensors = (0..model.tensors().len()).collect();
    let unit = Unit { name: "all".into(), tensors, bytes: generated.bytes };
    let layout = UnitLayout::new(&model, &unit).expect("a layout");
    let options =
        LoaderOptions { disk: disk.parse().expect("options"), ..LoaderOptions::default() };
    let files = Files::open(&model).expect("files");
    let mut loader = Loader::new(&device, &pinned, files, options).expect("a loader");
    let name = format!("riverbed {disk} ({}, {})", loader.disk().backend, loader.disk().threads);
    let target = Rc::clone(target);
    let load = Box::new(move || -> Box<dyn Any> {
        let plan = loader.plan(&layout);
        let status = loader.load_buffer(&target, &plan, None, Urgency::Ahead).expect("a load");
        loader.stream().synchronize().expect("the load's end");
        status.check().expect("reads");
        Box::new(())
    });
    Way { name, load }
}

fn by_criterion(model: &OnDisk, ways: &mut [Way]) {
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

fn once(model: &OnDisk, way: &mut Way, cold: bool) -> Duration {
    if cold {
        model.make_cold()
    } else {
        model.make_warm()
    }
    let begun = Instant::now();
    let loaded = (way.load)();
    let elapsed = begun.elapsed();
    drop(loaded);
    elapsed
}

/// Runs all ways in turns and prints medians and spreads in GB/s, and each median over that of
/// `fio`, or of the quickest other way.
fn in_turns(model: &OnDisk, ways: &mut [Way], rounds: usize) {
    let settings = FIO.iter().filter_map(|&setting| Some((model.fio(setting)?, setting)));
    let disk = settings.max_by(|a, b| a.0.total_cmp(&b.0));
    for cold in [true, false] {
        let disk = disk.filter(|_| cold).map(|(_, setting)| setting);
        for way in &mut *ways {
            once(model, way, false); // What is touched once is touched here.
        }
        let mut rates = vec![Vec::new(); ways.len()];
        let mut of_disk = Vec::new();
        for _ in 0..rounds.max(1) {
            of_disk.extend(disk.and_then(|setting| model.fio(setting)).map(|rate| rate / 1e9));
            for (way, rates) in ways.iter_mut().zip(&mut rates) {
                let seconds = once(model, way, cold).as_secs_f64();
                rates.push(model.bytes as f64 / seconds / 1e9);
            }
        }
        let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
        let fio = disk.map(|setting| format!("fio {}", setting.join(" ")));
        rows.extend(fio.iter().map(|name| (name.as_str(), of_disk.clone())));
        rows.extend(ways.iter().zip(rates).map(|(way, rates)| (way.name.as_str(), rates)));
        print_table(if cold { "cold" } else { "warm" }, rows);
    }
}

/// Medians with least and most, and their ratio to the best of those that are not ours.
fn print_table(state: &str, mut rows: Vec<(&str, Vec<f64>)>) {
    rows.iter_mut().for_each(|(_, rates)| rates.sort_by(f64::total_cmp));
    let median = |rates: &[f64]| rates.get(rates.len() / 2).copied().unwrap_or(0.0);
    let others = rows.iter().filter(|(name, _)| !name.starts_with("riverbed"));
    let best = others.map(|(_, rates)| median(rates)).fold(0.0, f64::max);
    for (name, rates) in &rows {
        let (Some(least), Some(most)) = (rates.first(), rates.last()) else { continue };
        let (rate, ratio) = (median(rates), median(rates) / best);
        println!("{state} {name:58} {rate:6.2} GB/s ({least:.2} to {most:.2})  x{ratio:.3}");
    }
}
