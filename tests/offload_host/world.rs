//! Models that are run one after the other or beside each other, with one cache of host memory.
#![allow(unreachable_pub)] // As in the support files.

use std::sync::Arc;
use std::time::Duration;

use riverbed::conf::Conf;
use riverbed::device::{Device, Stream, settle};
use riverbed::offload::{RamCache, RamOptions, RamStats};
use riverbed::pool::Allocator;
use riverbed::prefetch::{PrefetchOptions, Prefetcher};
use riverbed::transfer::{Files, Loader, LoaderOptions};

use super::streaming::{Content, KIB, MIB, Sums, host, stream};

/// Bytes that a home takes beside its unit.
pub const SLACK: u64 = 8 * KIB;

/// A model of equal layers of so many bytes each.
pub fn model(layers: usize, layer_bytes: usize) -> Content {
    let sizes: Vec<[usize; 1]> = (0..layers).map(|_| [layer_bytes]).collect();
    Content::layers(&sizes.iter().map(|size| &size[..]).collect::<Vec<_>>())
}

/// What the homes of a model take.
pub fn homes_bytes(content: &Content) -> u64 {
    content.packed().iter().map(|bytes| bytes + SLACK).sum()
}

/// A cache, and the device its models run on.
pub struct World {
    pub device: Device,
    pub cache: RamCache,
}

impl World {
    pub fn new(budget_bytes: u64) -> Self {
        Self::with(RamOptions::new(budget_bytes))
    }

    pub fn with(options: RamOptions) -> Self {
        Self { device: host(64).0, cache: RamCache::with_options(options) }
    }

    /// The same cache on another device.
    pub fn beside(&self) -> Self {
        Self { device: host(64).0, cache: self.cache.clone() }
    }

    /// The same cache and device.
    pub fn beside_same(&self) -> Self {
        Self { device: self.device.clone(), cache: self.cache.clone() }
    }

    /// A model by a name, over a ring of two units.
    pub fn open<'a>(&self, name: &str, content: &'a Content) -> Running<'a> {
        let conf = Conf::default().with_pinned_limit_bytes(64 * MIB).unwrap();
        let pinned = self.cache.pinned(&self.device, &conf);
        let allocator = Allocator::builder(&self.device).build().unwrap();
        let ring_bytes = 2 * content.largest() as usize;
        let ring = allocator.alloc::<u8>(ring_bytes, &stream(&self.device)).unwrap();
        let options = LoaderOptions { chunk_bytes: 64 * KIB, slots: 2, ..LoaderOptions::default() };
        let files = Files::open(&content.model).unwrap();
        let ram = (&self.cache, name);
        let loader = Loader::with_ram(&self.device, &pinned, files, options, ram).unwrap();
        let prefetch = PrefetchOptions { depth: 1, ..PrefetchOptions::default() };
        let model = Arc::clone(&content.model);
        let prefetcher = Prefetcher::new(model, content.units(), ring, loader, prefetch).unwrap();
        let (stream, sums) = (stream(&self.device), Sums::new(&self.device));
        Running { content, prefetcher, stream, sums, allocator }
    }

    /// Runs a model for a few passes, in use meanwhile, and closes it; gives the bytes read from
    /// disk.
    pub fn run(&self, name: &str, content: &Content, passes: usize) -> u64 {
        let _in_use = self.cache.begin(name);
        let mut running = self.open(name, content);
        running.passes(passes);
        let disk_bytes = running.disk_bytes();
        drop(running);
        // Its readers end behind it, and with them the last of what it used.
        assert!(settle(Duration::from_secs(60)));
        disk_bytes
    }

    pub fn stats(&self) -> RamStats {
        let stats = self.cache.stats();
        assert!(stats.peak_bytes <= stats.budget_bytes, "{stats:?}");
        stats
    }
}

/// A model that runs.
pub struct Running<'a> {
    pub content: &'a Content,
    pub prefetcher: Prefetcher,
    pub stream: Stream,
    sums: Sums,
    #[expect(dead_code, reason = "the ring is of it")]
    allocator: Allocator,
}

impl Running<'_> {
    /// A pass in which every byte on the device is compared; then all homes are pinned.
    pub fn pass(&mut self) {
        for unit in 0..self.content.units().len() {
            let lease = self.prefetcher.acquire(unit, &self.stream).unwrap();
            self.sums.enqueue(&lease, self.content);
        }
        self.prefetcher.finish_pass(&self.stream).unwrap().into_result().unwrap();
        assert!(self.sums.verify() >= self.content.units().len());
        self.prefetcher.wait_for_homes();
    }

    /// Passes after which nothing is loaded ahead.
    pub fn passes(&mut self, passes: usize) {
        for pass in 1..=passes {
            self.prefetcher.set_wraps(pass < passes);
            self.pass();
        }
    }

    pub fn disk_bytes(&self) -> u64 {
        self.prefetcher.stats().disk_bytes
    }
}
