//! How long a small copy that is wanted now waits behind a stream of large ones, on the
//! simulator's clock; and that copies through slots stand back.

use std::sync::Arc;

use riverbed::conf::Conf;
use riverbed::device::sim::SimDriver;
use riverbed::device::{Device, Event, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::transfer::{Driven, Transfer, TransferOptions};

use crate::streaming::{MIB, Random, ends, stream};

/// A 51 KB probe again and again while `bulk` is on its way; the waits in nanoseconds, sorted.
fn probe_waits(
    bulk: u64,
    mut start: impl FnMut(&Transfer, &Rig) -> Vec<Box<dyn FnOnce()>>,
) -> Vec<u64> {
    let rig = Rig::new();
    let ends = start(&rig.transfer, &rig);
    let probe = rig.pinned.alloc(51_000).unwrap().freeze();
    let target = rig.allocator.alloc::<u8>(51_000, &rig.stream).unwrap();
    let mut random = Random::new(bulk);
    let mut waits = Vec::new();
    while rig.transfer.drive() {
        rig.driver.pass(random.below(60_000) as u64);
        if random.below(4) > 0 {
            continue;
        }
        let (asked, done) = (Event::with_timing(&rig.device), Event::with_timing(&rig.device));
        let (asked, done) = (asked.unwrap(), done.unwrap());
        let idle = Stream::new(&rig.device, Default::default()).unwrap();
        asked.record(&idle).unwrap();
        let pending = rig.transfer.upload_shared(&probe, &target, 0).unwrap();
        pending.order_before(&idle).unwrap();
        done.record(&idle).unwrap();
        pending.wait().unwrap();
        done.synchronize().unwrap();
        waits.push(done.elapsed_ns_since(&asked).unwrap());
    }
    ends.into_iter().for_each(|end| end());
    waits.sort_unstable();
    waits
}

struct Rig {
    device: Device,
    driver: std::sync::Arc<SimDriver>,
    pinned: PinnedPool,
    allocator: Allocator,
    stream: Stream,
    transfer: Transfer,
}

impl Rig {
    fn new() -> Self {
        let driver = SimDriver::new("sim:h100", "sim:h100".parse().unwrap()).unwrap();
        let device = Device::from_driver(driver.clone());
        let options = TransferOptions { driven: Driven::ByCaller, ..TransferOptions::default() };
        Self {
            pinned: PinnedPool::new(
                &device,
                &Conf::default().with_pinned_limit_bytes(11 << 30).unwrap(),
            ),
            allocator: Allocator::builder(&device).build().unwrap(),
            stream: stream(&device),
            transfer: Transfer::with_options(&device, &options).unwrap(),
            device,
            driver,
        }
    }

    /// Asks for `count` copies of `bytes` of `transfer`; gives what ends them.
    fn bulk(&self, transfer: &Transfer, count: usize, bytes: usize) -> Vec<Box<dyn FnOnce()>> {
        // No bytes move on the simulator, so that one source serves for all.
        let source = self.pinned.alloc(bytes).unwrap().freeze();
        let copy = |_| {
            let buffer = self.allocator.alloc::<u8>(bytes, &self.stream).unwrap();
            let pending = transfer.upload_shared(&source, &buffer, 0).unwrap();
            Box::new(move || drop(pending.wait().unwrap())) as Box<dyn FnOnce()>
        };
        (0..count).map(copy).collect()
    }
}

#[test]
fn a_small_copy_wanted_now_waits_at_most_400_us_behind_10_gib() {
    ends(|| {
        let waits = probe_waits(1, |transfer, rig| rig.bulk(&transfer.ahead(), 20, 512 << 20));
        assert!(waits.len() > 500, "{} probes", waits.len());
        let p99 = waits[waits.len() * 99 / 100];
        assert!(p99 <= 400_000, "p99 {p99} ns of {}", waits.len());
        assert!(waits[waits.len() - 1] <= 400_000, "and never more: {:?}", waits.last());
    });
}

#[test]
fn a_small_copy_wanted_now_passes_large_ones_that_are_wanted_now() {
    ends(|| {
        let waits = probe_waits(2, |transfer, rig| rig.bulk(transfer, 4, 512 << 20));
        assert!(waits[waits.len() - 1] <= 400_000, "{:?}", waits.last());
    });
}

#[test]
fn a_large_copy_of_demand_takes_little_longer_behind_speculation_than_alone() {
    ends(|| {
        let time = |behind: bool| {
            let rig = Rig::new();
            let ahead = if behind { rig.bulk(&rig.transfer.ahead(), 4, 512 << 20) } else { vec![] };
            let ends = rig.bulk(&rig.transfer, 1, 256 << 20);
            let before = rig.device.driver().virtual_ns().unwrap();
            ends.into_iter().for_each(|end| end());
            let taken = rig.device.driver().virtual_ns().unwrap() - before;
            ahead.into_iter().for_each(|end| end());
            taken
        };
        let (alone, behind) = (time(false), time(true));
        let margin = 2 * 16 * MIB * 1_000_000_000 / 55_000_000_000;
        assert!(behind <= alone + margin, "{behind} ns behind speculation, {alone} ns alone");
    });
}

#[test]
fn the_link_is_busy_all_the_time_and_its_rate_is_learned() {
    ends(|| {
        let rig = Rig::new();
        let bytes = 4u64 << 30;
        let ends = rig.bulk(&rig.transfer.ahead(), 8, 512 << 20);
        let before = rig.device.driver().virtual_ns().unwrap();
        ends.into_iter().for_each(|end| end());
        let taken = rig.device.driver().virtual_ns().unwrap() - before;
        let rate = bytes as f64 / taken as f64;
        assert!(rate > 0.98 * 55.0, "{rate} GB/s of 55");
        let learned = rig.transfer.progress().h2d.link_bytes_per_second as f64 / 1e9;
        assert!((learned / 55.0 - 1.0).abs() < 0.02, "{learned} GB/s");
    });
}

#[test]
fn slots_filled_ahead_of_need_stand_back_for_demand() {
    ends(|| {
        // 4 ms a chunk: far longer than anybody here takes for anything else.
        let device = Device::open("host:vram=256MiB,h2d=1GB/s").unwrap();
        let stream = stream(&device);
        let pinned = PinnedPool::new(&device, &"pinned_limit_mb:256".parse().unwrap());
        let allocator = Allocator::builder(&device).build().unwrap();
        let transfer = Transfer::new(&device).unwrap();
        let len = 64 << 20;
        let [demand, ahead] = [0, 1].map(|_| allocator.alloc::<u8>(len, &stream).unwrap());
        let wanted = transfer.upload(pinned.alloc(len).unwrap(), &demand, 0).unwrap();
        let source = Arc::new(vec![1u8; len]);
        let mut staged = transfer.ahead().upload_owned(source, &ahead, 0).unwrap();
        let progress = staged.progress().unwrap();
        drop(wanted.wait().unwrap());
        let done = progress.done_bytes();
        assert!(done <= 16 << 20, "{done} bytes went before demand");
        drop(staged.wait().unwrap());
    });
}
