//! Everything can be dropped in any order, with work in flight: nothing hangs, and all device
//! memory goes back.

use std::any::Any;
use std::sync::Arc;

use riverbed::device::host::HostDriver;
use riverbed::device::{Driver, Gate};
use riverbed::offload::{StreamOptions, StreamedModel};

use super::streaming::{Content, MIB, Random, Rig, Setup, ends, eventually, host, stream};

fn layers() -> Content {
    Content::new(&[&[100_000], &[150_000], &[70_000, 3], &[150_000]], &[1000, 40_000])
}

fn all_is_back(driver: &Arc<HostDriver>) {
    eventually("all device memory is given back", || {
        let memory = driver.memory().unwrap();
        memory.free_bytes == memory.total_bytes
    });
}

/// A rig's parts, two leases and sums, with a pass in flight behind a closed gate.
fn parts(content: &Content, setup: Setup) -> (Gate, Arc<HostDriver>, Vec<Box<dyn Any + Send>>) {
    let rig = Rig::new(content, setup);
    let gate = Gate::new(&rig.device).unwrap();
    let mut sums = rig.sums();
    rig.stream.wait_gate(&gate, 1).unwrap();
    rig.pass(content, &mut sums);
    let [first, second] = [0, 1].map(|unit| rig.prefetcher.acquire(unit, &rig.stream).unwrap());
    sums.enqueue(&first, content);
    let Rig { driver, device, pinned, allocator, prefetcher, stream } = rig;
    let parts: Vec<Box<dyn Any + Send>> = vec![
        Box::new(device),
        Box::new(pinned),
        Box::new(allocator),
        Box::new(prefetcher),
        Box::new(stream),
        Box::new(first),
        Box::new(second),
        Box::new(sums),
    ];
    (gate, driver, parts)
}

#[test]
fn everything_may_go_in_any_order_while_the_device_stands_still() {
    ends(|| {
        let mut random = Random::from_env(11);
        let content = layers();
        for round in 0..60 {
            let setup = Setup::ring(2 * content.largest()).depth(round % 3).keep(round % 2 == 0);
            let (gate, driver, mut parts) = parts(&content, setup);
            while !parts.is_empty() {
                let part = parts.swap_remove(random.below(parts.len()));
                if random.below(2) == 0 {
                    drop(part);
                } else {
                    std::thread::spawn(move || drop(part)).join().unwrap();
                }
            }
            let memory = driver.memory().unwrap();
            assert!(memory.free_bytes < memory.total_bytes, "freed under pending work");
            gate.open(1).unwrap();
            all_is_back(&driver);
        }
    });
}

#[test]
fn everything_may_go_while_the_device_works() {
    ends(|| {
        let mut random = Random::from_env(12);
        let content = layers();
        for round in 0..40 {
            let setup = Setup::ring(2 * content.largest()).depth(round % 4);
            let rig = Rig::new(&content, setup);
            let driver = Arc::clone(&rig.driver);
            let mut sums = rig.sums();
            rig.pass(&content, &mut sums);
            let lease = rig.prefetcher.acquire(round % 4, &rig.stream).unwrap();
            sums.enqueue(&lease, &content);
            if random.below(2) == 0 {
                let thread = std::thread::spawn(move || drop(lease));
                drop(rig);
                drop(sums);
                thread.join().unwrap();
            } else {
                drop((rig, sums, lease));
            }
            all_is_back(&driver);
        }
    });
}

#[test]
fn everything_goes_back_when_a_panic_unwinds_through_it() {
    ends(|| {
        let content = Arc::new(layers());
        for round in 0..10 {
            let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(round % 3));
            let driver = Arc::clone(&rig.driver);
            let content = Arc::clone(&content);
            let panicked = std::thread::spawn(move || {
                let mut sums = rig.sums();
                rig.pass(&content, &mut sums);
                let _lease = rig.prefetcher.acquire(0, &rig.stream).unwrap();
                let _other = rig.prefetcher.acquire(1, &rig.stream).unwrap();
                std::panic::resume_unwind(Box::new("on purpose"));
            })
            .join();
            assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "on purpose");
            all_is_back(&driver);
        }
    });
}

#[test]
fn a_streamed_model_gives_everything_back_with_leases_outliving_it() {
    ends(|| {
        let content = layers();
        for leases_first in [true, false] {
            let (device, driver) = host(64);
            let options = StreamOptions::new(8 * MIB);
            let model = Arc::clone(&content.model);
            let streamed = StreamedModel::load(&device, model, &content.grouping, options).unwrap();
            let gate = Gate::new(&device).unwrap();
            let compute = stream(&device);
            compute.wait_gate(&gate, 1).unwrap();
            let leases: Vec<_> = (0..streamed.units().len())
                .filter_map(|unit| streamed.acquire(unit, &compute).ok())
                .collect();
            assert!(leases.len() >= 2);
            if leases_first {
                drop(leases);
                drop(streamed);
            } else {
                drop(streamed);
                drop(leases);
            }
            drop((compute, device));
            gate.open(1).unwrap();
            drop(gate);
            all_is_back(&driver);
        }
    });
}

#[test]
fn a_gate_that_goes_unopened_lets_everything_end() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()));
        let driver = Arc::clone(&rig.driver);
        let gate = Gate::new(&rig.device).unwrap();
        let mut sums = rig.sums();
        rig.stream.wait_gate(&gate, 1).unwrap();
        rig.pass(&content, &mut sums);
        drop(gate);
        assert_eq!(sums.verify(), 5);
        drop((rig, sums));
        all_is_back(&driver);
    });
}

#[test]
fn an_idle_prefetcher_goes_back_whole() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()));
        let driver = Arc::clone(&rig.driver);
        drop(rig);
        all_is_back(&driver);
    });
}
