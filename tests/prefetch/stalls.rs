//! What passes waited for: it adds up, and the cause that was made is the cause that is found.

use std::sync::Arc;

use riverbed::device::{Device, Gate, Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::prefetch::{PassStalls, PrefetchOptions, Prefetcher};
use riverbed::transfer::{Files, Loader, LoaderOptions};

use super::streaming::{Content, MIB, Rig, Setup, ends};

#[track_caller]
fn adds_up(stalls: &PassStalls, leases: usize) {
    assert_eq!(stalls.units.len(), leases);
    assert_eq!(stalls.compute_ns + stalls.causes.total_ns(), stalls.pass_ns);
    let of = |unit: &riverbed::prefetch::UnitStall| unit.compute_ns + unit.causes.total_ns();
    assert_eq!(stalls.units.iter().map(of).sum::<u64>(), stalls.pass_ns);
}

#[test]
fn every_pass_adds_up_whatever_the_order_and_the_streams() {
    ends(|| {
        let content = Content::layers(&[&[90_000], &[40_000], &[70_000], &[0], &[90_000]]);
        for depth in [0, 1, usize::MAX] {
            for keep in [false, true] {
                let setup = Setup::ring(2 * content.largest()).depth(depth).keep(keep).timed();
                let rig = Rig::new(&content, setup);
                let other = super::streaming::stream(&rig.device);
                for order in [&[0, 1, 2, 3, 4][..], &[4, 4, 1, 0], &[], &[2]] {
                    for &unit in order {
                        drop(rig.prefetcher.acquire(unit, &rig.stream).unwrap());
                    }
                    let mut shared = rig.prefetcher.acquire(3, &other).unwrap();
                    shared.also_on(&rig.stream).unwrap();
                    drop(shared);
                    let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
                    adds_up(&report.stalls.unwrap(), order.len());
                    let report = rig.prefetcher.finish_pass(&other).unwrap();
                    adds_up(&report.stalls.unwrap(), 1);
                }
            }
        }
    });
}

/// A prefetcher over equal layers on a simulated card, with everything in RAM, and its stream.
fn simulated(content: &Content, slots: u64, h2d: &str) -> (Device, Prefetcher, Stream) {
    let device = Device::open(&format!("sim:h2d={h2d}")).unwrap();
    let pinned = PinnedPool::new(&device, &"pinned_limit_mb:64".parse().unwrap());
    let stream = Stream::new(&device, Priority::Normal).unwrap();
    let bytes = (slots * content.largest()) as usize;
    let ring = Allocator::builder(&device).build().unwrap().alloc::<u8>(bytes, &stream).unwrap();
    let loader = Loader::new(
        &device,
        &pinned,
        Files::open(&content.model).unwrap(),
        LoaderOptions { chunk_bytes: MIB, slots: 2, threads: 1, ..Default::default() },
    );
    let options = PrefetchOptions { timing: true, ..PrefetchOptions::default() };
    let (model, units) = (Arc::clone(&content.model), content.units());
    let prefetcher = Prefetcher::new(model, units, ring, loader.unwrap(), options).unwrap();
    (device, prefetcher, stream)
}

/// Two passes of `compute_ns` a layer; gives where the second one's time went.
fn second_pass(prefetcher: &Prefetcher, stream: &Stream, compute_ns: u64) -> PassStalls {
    let mut stalls = None;
    for _ in 0..2 {
        let units = prefetcher.units().len();
        for unit in 0..units {
            let lease = prefetcher.acquire(unit, stream).unwrap();
            lease.stream().busy(compute_ns).unwrap();
        }
        stalls = prefetcher.finish_pass(stream).unwrap().into_result().unwrap().stalls;
        adds_up(stalls.as_ref().unwrap(), units);
    }
    stalls.unwrap()
}

#[test]
fn a_slow_link_is_found() {
    ends(|| {
        let content = Content::layers(&[&[MIB as usize][..]; 6]);
        // A layer crosses in 1 ms, and computes for half of that.
        let (_device, prefetcher, stream) = simulated(&content, 3, "1048576KB/s");
        let stalls = second_pass(&prefetcher, &stream, 500_000);
        assert_eq!(stalls.units[2].compute_ns / 10_000, 50);
        assert!(stalls.causes.link_ns * 10 > stalls.causes.total_ns() * 9, "{stalls:?}");
        assert!(stalls.causes.link_ns * 3 > stalls.pass_ns, "{stalls:?}");
    });
}

#[test]
fn a_ring_of_one_slot_is_found() {
    ends(|| {
        let content = Content::layers(&[&[MIB as usize][..]; 6]);
        let (_device, prefetcher, stream) = simulated(&content, 1, "1048576KB/s");
        // With one slot a copy begins when the layer before is done: every wait is a copy, and
        // that it could not begin before is compute.
        let stalls = second_pass(&prefetcher, &stream, 3_000_000);
        assert!(stalls.causes.link_ns * 10 > stalls.causes.total_ns() * 9, "{stalls:?}");
        // A slot that another stream is done with late.
        let gate = Gate::new(stream.device()).unwrap();
        let other = Stream::new(stream.device(), Priority::Normal).unwrap();
        let lease = prefetcher.acquire(0, &other).unwrap();
        other.wait_gate(&gate, 1).unwrap();
        other.busy(50_000_000).unwrap();
        drop(lease);
        gate.open(1).unwrap();
        drop(prefetcher.acquire(1, &stream).unwrap());
        let stalls = prefetcher.finish_pass(&stream).unwrap().stalls.unwrap();
        assert!(stalls.causes.room_ns > 45_000_000, "{stalls:?}");
    });
}

#[test]
fn a_host_that_is_late_is_found() {
    ends(|| {
        let content = Content::layers(&[&[4096][..]; 3]);
        let (_device, prefetcher, stream) = simulated(&content, 3, "10GB/s");
        second_pass(&prefetcher, &stream, 1_000);
        drop(prefetcher.acquire(0, &stream).unwrap());
        stream.synchronize().unwrap();
        // The host does something else for a while.
        let elsewhere = Stream::new(stream.device(), Priority::Normal).unwrap();
        elsewhere.busy(7_000_000).unwrap();
        elsewhere.synchronize().unwrap();
        drop(prefetcher.acquire(1, &stream).unwrap());
        let stalls = prefetcher.finish_pass(&stream).unwrap().stalls.unwrap();
        adds_up(&stalls, 2);
        assert!(stalls.units[0].causes.host_ns > 6_900_000, "{stalls:?}");
    });
}

#[test]
fn a_slow_disk_is_found() {
    ends(|| {
        // Nothing is kept and the link is as fast as memory, so what is left is the file.
        let content = Content::layers(&[&[400_000][..]; 8]);
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).timed());
        let _ = rig.prefetcher.acquire(0, &rig.stream).unwrap();
        let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
        let stalls = report.stalls.unwrap();
        adds_up(&stalls, 1);
        assert!(stalls.causes.disk_ns > 0, "{stalls:?}");
    });
}

#[test]
fn without_timing_nothing_is_told() {
    ends(|| {
        let content = Content::layers(&[&[1000], &[1000]]);
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()));
        drop(rig.prefetcher.acquire(0, &rig.stream).unwrap());
        assert_eq!(rig.prefetcher.finish_pass(&rig.stream).unwrap().stalls, None);
    });
}
