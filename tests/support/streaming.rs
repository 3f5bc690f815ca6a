//! Small models on disk and prefetchers over them, for tests of streaming. Included by path.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use riverbed::conf::Conf;
use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device, Kernel, Priority, Stream, checksum};
use riverbed::pinned::PinnedPool;
use riverbed::pool::{Allocator, Buffer};
use riverbed::prefetch::{Lease, PrefetchOptions, Prefetcher, TensorRef};
use riverbed::transfer::{Files, Loader, LoaderOptions, Transfer};
use riverbed::weights::{Grouping, Model, Unit, UnitLayout};

use super::model_files::safetensors;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// Runs `work` on a thread of its own and fails, in place of hanging, when it does not end.
pub fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = channel();
    let thread = std::thread::spawn(move || {
        let result = work();
        let _ = done.send(());
        result
    });
    if end.recv_timeout(Duration::from_secs(100)) == Err(RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Polls until `condition` holds; fails with `what` when it never does.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A stream of numbers that look random, from a seed (xorshift64*).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Seeded by `SEED`, else by `default`; the seed is printed, so that a failure shows it.
    pub fn from_env(default: u64) -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("SEED={seed}");
        Self::new(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

/// A model on disk of `U8` tensors with random bytes, and what is in it.
#[derive(Debug)]
pub struct Content {
    pub directory: tempfile::TempDir,
    pub path: PathBuf,
    pub model: Arc<Model>,
    pub grouping: Grouping,
    pub bytes: HashMap<String, Vec<u8>>,
    pub sums: HashMap<String, u64>,
}

impl Content {
    /// Layer `i` has a tensor of each size in `layers[i]`, called `layers.{i}.w{j}`.
    pub fn layers(layers: &[&[usize]]) -> Self {
        Self::new(layers, &[])
    }

    /// With tensors `rest{j}` behind the layers.
    pub fn new(layers: &[&[usize]], rest: &[usize]) -> Self {
        let mut random = Random::new(layers.len() as u64 + 77);
        let mut bytes_of = |len: usize| {
            let words = (0..len.div_ceil(8)).map(|_| random.next().to_le_bytes());
            let mut bytes = words.collect::<Vec<_>>().concat();
            bytes.truncate(len);
            bytes
        };
        let mut tensors: Vec<(String, Vec<u8>)> = Vec::new();
        for (layer, sizes) in layers.iter().enumerate() {
            for (number, &size) in sizes.iter().enumerate() {
                tensors.push((format!("layers.{layer}.w{number}"), bytes_of(size)));
            }
        }
        for (number, &size) in rest.iter().enumerate() {
            tensors.push((format!("rest{number}"), bytes_of(size)));
        }
        let shapes: Vec<[u64; 1]> = tensors.iter().map(|(_, bytes)| [bytes.len() as u64]).collect();
        let entries: Vec<_> = tensors
            .iter()
            .zip(&shapes)
            .map(|((name, bytes), shape)| (&name[..], "U8", &shape[..], &bytes[..]))
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, safetensors(&entries)).unwrap();
        let model = Arc::new(Model::open(&path).unwrap());
        let grouping = Grouping::by_preset(&model).unwrap();
        let sums = tensors.iter().map(|(name, bytes)| (name.clone(), checksum(bytes))).collect();
        let bytes = tensors.into_iter().collect();
        Self { directory, path, model, grouping, bytes, sums }
    }

    pub fn units(&self) -> &[Unit] {
        &self.grouping.layers
    }

    /// Packed sizes of the layers.
    pub fn packed(&self) -> Vec<u64> {
        let packed = |unit| UnitLayout::new(&self.model, unit).unwrap().len_bytes;
        self.units().iter().map(packed).collect()
    }

    pub fn largest(&self) -> u64 {
        self.packed().into_iter().max().unwrap()
    }

    /// The file's bytes, to be put back after it was cut.
    pub fn file(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// Cuts the file so that the first tensor of `layer` is the first that cannot be read whole.
    pub fn cut_before_end_of(&self, layer: usize) {
        let tensor = &self.model.tensors()[self.units()[layer].tensors[0]];
        let file = std::fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        file.set_len(tensor.offset_bytes + tensor.len_bytes - 1).unwrap();
    }
}

/// A host device of `vram_mib` whose driver can be told to fail.
pub fn host(vram_mib: u64) -> (Device, Arc<HostDriver>) {
    let spec = format!("host:vram={vram_mib}MiB");
    let driver = HostDriver::new("host", spec.parse().unwrap()).unwrap();
    (Device::from_driver(driver.clone()), driver)
}

pub fn stream(device: &Device) -> Stream {
    Stream::new(device, Priority::Normal).unwrap()
}

/// Calls that block the host.
pub fn waits(device: &Device) -> u64 {
    device.calls().sum(&[Call::SynchronizeStream, Call::SynchronizeEvent])
}

/// Settings of a [`Rig`].
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub ring_bytes: u64,
    pub depth: usize,
    pub keep_in_ram: bool,
    pub pinned_bytes: u64,
    pub slots: usize,
    pub stable: bool,
    pub timing: bool,
}

impl Setup {
    pub fn ring(ring_bytes: u64) -> Self {
        Self {
            ring_bytes,
            depth: 2,
            keep_in_ram: false,
            pinned_bytes: 16 * MIB,
            slots: 2,
            stable: false,
            timing: false,
        }
    }

    pub fn depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }

    pub fn keep(self, keep_in_ram: bool) -> Self {
        Self { keep_in_ram, ..self }
    }

    pub fn stable(self) -> Self {
        Self { stable: true, ..self }
    }

    pub fn timed(self) -> Self {
        Self { timing: true, ..self }
    }

    pub fn pinned(self, pinned_bytes: u64) -> Self {
        Self { pinned_bytes, ..self }
    }
}

/// A prefetcher over a model, with chunks of 64 KiB, and all that is under it.
#[derive(Debug)]
pub struct Rig {
    pub driver: Arc<HostDriver>,
    pub device: Device,
    pub pinned: PinnedPool,
    pub allocator: Allocator,
    pub prefetcher: Prefetcher,
    pub stream: Stream,
}

impl Rig {
    pub fn new(content: &Content, setup: Setup) -> Self {
        Self::build(content, setup).unwrap()
    }

    pub fn build(content: &Content, setup: Setup) -> riverbed::Result<Self> {
        Self::on(host(64), content, setup)
    }

    pub fn on(
        (device, driver): (Device, Arc<HostDriver>),
        content: &Content,
        setup: Setup,
    ) -> riverbed::Result<Self> {
        let conf = Conf::default().with_pinned_limit_bytes(setup.pinned_bytes)?;
        let pinned = PinnedPool::new(&device, &conf);
        let allocator = Allocator::builder(&device).build()?;
        let home = stream(&device);
        let ring = allocator.alloc::<u8>(setup.ring_bytes as usize, &home)?;
        let options =
            LoaderOptions { chunk_bytes: 64 * KIB, slots: setup.slots, ..LoaderOptions::default() };
        let loader = Loader::new(&device, &pinned, Files::open(&content.model)?, options)?;
        let prefetch = PrefetchOptions {
            depth: setup.depth,
            keep_in_ram: setup.keep_in_ram,
            stable_addresses: setup.stable,
            timing: setup.timing,
        };
        let (model, units) = (Arc::clone(&content.model), content.units());
        let prefetcher = Prefetcher::new(model, units, ring, loader, prefetch)?;
        let stream = stream(&device);
        Ok(Self { driver, device, pinned, allocator, prefetcher, stream })
    }

    pub fn sums(&self) -> Sums {
        Sums::new(&self.device)
    }

    /// Enqueues one pass of checksums.
    pub fn pass(&self, content: &Content, sums: &mut Sums) {
        for unit in 0..content.units().len() {
            let lease = self.prefetcher.acquire(unit, &self.stream).unwrap();
            sums.enqueue(&lease, content);
        }
    }
}

/// Checksums computed on the device, and what they must be. Has memory of its own.
#[derive(Debug)]
pub struct Sums {
    out: Buffer<u64>,
    pinned: PinnedPool,
    transfer: Transfer,
    wanted: Vec<(String, Option<u64>)>,
}

impl Sums {
    const SLOTS: usize = 4096;

    pub fn new(device: &Device) -> Self {
        let allocator = Allocator::builder(device).build().unwrap();
        let out = allocator.alloc(Self::SLOTS, &stream(device)).unwrap();
        let pinned = PinnedPool::new(device, &"pinned_limit_mb:4".parse().unwrap());
        let transfer = Transfer::new(device).unwrap();
        let mut sums = Self { out, pinned, transfer, wanted: Vec::new() };
        sums.verify(); // What it needs is made now, so that later calls can be counted.
        sums
    }

    /// Enqueues the checksum of every tensor of the lease.
    pub fn enqueue(&mut self, lease: &Lease, content: &Content) {
        self.try_enqueue(lease, content).unwrap();
    }

    pub fn try_enqueue(&mut self, lease: &Lease, content: &Content) -> riverbed::Result<()> {
        for tensor in lease.tensors() {
            lease.checksum(tensor.name, &self.out, self.wanted.len())?;
            self.wanted.push((tensor.name.to_owned(), Some(content.sums[tensor.name])));
        }
        Ok(())
    }

    /// Has a checksum enqueued that must come to `sum`.
    pub fn enqueue_by(&mut self, name: &str, sum: u64, enqueue: impl FnOnce(&Buffer<u64>, usize)) {
        enqueue(&self.out, self.wanted.len());
        self.wanted.push((name.to_owned(), Some(sum)));
    }

    /// Enqueues the checksum of a leased tensor on another stream than its lease's.
    #[expect(unsafe_code, reason = "the lease's own checksum runs on its own stream")]
    pub fn enqueue_on(&mut self, tensor: &TensorRef<'_>, stream: &Stream, content: &Content) {
        self.out.use_on(stream).unwrap();
        let out = self.out.ptr().offset(8 * self.wanted.len() as u64);
        let kernel = Kernel::Checksum { src: tensor.ptr, bytes: tensor.len_bytes, out };
        // SAFETY: the caller holds a lease that covers the stream; the sums were ordered for it.
        unsafe { stream.device().driver().launch(stream.id(), &kernel) }.unwrap();
        self.wanted.push((tensor.name.to_owned(), Some(content.sums[tensor.name])));
    }

    /// Waits for the sums, compares them, and starts anew; gives how many were compared.
    #[track_caller]
    pub fn verify(&mut self) -> usize {
        let mut sums = self.transfer.read(&self.out, &self.pinned);
        if sums.is_err() {
            sums = self.transfer.read(&self.out, &self.pinned); // A failure on request strikes once.
        }
        let sums = sums.unwrap();
        let wanted = std::mem::take(&mut self.wanted);
        let mut compared = 0;
        for (at, (name, sum)) in wanted.iter().enumerate() {
            if let Some(sum) = sum {
                assert_eq!(sums[at], *sum, "{name}, slot {at}");
                compared += 1;
            }
        }
        compared
    }

    /// Lets the sums of these tensors be anything.
    pub fn pardon(&mut self, failed: impl Fn(&str) -> bool) {
        self.wanted.iter_mut().filter(|(name, _)| failed(name)).for_each(|(_, sum)| *sum = None);
    }

    /// Forgets what was enqueued from number `from` on.
    pub fn forget(&mut self, from: usize) {
        self.wanted.truncate(from);
    }

    pub fn len(&self) -> usize {
        self.wanted.len()
    }
}

/// Asserts that a text has all of these words.
#[track_caller]
pub fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}
