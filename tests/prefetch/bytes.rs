//! A lease shows the bytes of the file, whatever the shapes and settings.

use riverbed::Error;

use super::streaming::{Content, KIB, Random, Rig, Setup, assert_says, ends};

/// From one byte to several chunks, with empty tensors and an empty layer.
const UNEQUAL: &[&[usize]] =
    &[&[1], &[150_000], &[7, 0, 65_536], &[70_000, 1], &[0], &[255, 256, 257], &[131_072]];

#[test]
fn every_pass_shows_the_bytes_of_the_file_under_every_setting() {
    ends(|| {
        let content = Content::layers(UNEQUAL);
        let (largest, all) = (content.largest(), content.packed().iter().sum::<u64>());
        let tensors = content.bytes.len();
        for depth in [0, 1, 2, 8] {
            for ring_bytes in [largest, 2 * largest, 2 * largest + 300, 3 * largest, all] {
                for (keep, pinned) in
                    [(false, 128 * KIB), (true, 128 * KIB), (true, 512 * KIB), (true, 8192 * KIB)]
                {
                    let setup = Setup::ring(ring_bytes).depth(depth).keep(keep).pinned(pinned);
                    let rig = Rig::new(&content, setup);
                    let mut sums = rig.sums();
                    for pass in 0..3 {
                        rig.prefetcher.set_wraps(pass < 2);
                        rig.pass(&content, &mut sums);
                        let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
                        assert!(report.failures.is_empty(), "{setup:?}: {:?}", report.failures);
                        assert_eq!(sums.verify(), tensors, "{setup:?}");
                    }
                    assert!(rig.pinned.stats().reserved_peak_bytes <= pinned, "{setup:?}");
                    rig.pinned.check().unwrap();
                    rig.allocator.check().unwrap();
                }
            }
        }
    });
}

#[test]
fn a_ring_that_holds_all_is_loaded_once() {
    ends(|| {
        let content = Content::layers(UNEQUAL);
        let all = content.packed().iter().sum();
        for depth in [0, 2, 8] {
            let rig = Rig::new(&content, Setup::ring(all).depth(depth));
            let mut sums = rig.sums();
            for _ in 0..4 {
                rig.pass(&content, &mut sums);
                sums.verify();
            }
            let stats = rig.prefetcher.stats();
            assert_eq!((stats.loads, stats.leases), (6, 28), "the empty one is not, depth {depth}");
            assert_eq!(stats.bytes_moved, all, "depth {depth}");
        }
    });
}

#[test]
fn a_ring_below_the_largest_unit_is_refused_with_both_sizes() {
    let content = Content::layers(&[&[1000], &[200_000]]);
    let largest = content.largest();
    let error = Rig::build(&content, Setup::ring(largest - 1)).unwrap_err();
    let Error::TooLarge { requested_bytes, available_bytes, .. } = error else { panic!("{error}") };
    assert_eq!((requested_bytes, available_bytes), (largest, largest - 1));
    Rig::new(&content, Setup::ring(largest));
}

#[test]
fn the_cpu_sees_the_bytes_of_the_file_and_its_waits_are_counted() {
    ends(|| {
        let content = Content::layers(UNEQUAL);
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()));
        for (number, unit) in content.units().iter().enumerate() {
            let lease = rig.prefetcher.acquire(number, &rig.stream).unwrap();
            let view = lease.wait_host().unwrap();
            for &tensor in &unit.tensors {
                let name = &content.model.tensors()[tensor].name;
                assert_eq!(view.bytes(name).unwrap(), content.bytes[name], "{name}");
            }
            let error = view.bytes("layers.99.w0").unwrap_err().to_string();
            assert_says(&error, &["layers.99.w0", &format!("layers.{number}.w0")]);
            assert_eq!(rig.prefetcher.stats().host_waits, number as u64 + 1);
        }
    });
}

#[test]
fn addresses_of_a_lease_lie_in_the_ring_and_are_aligned() {
    ends(|| {
        let content = Content::layers(UNEQUAL);
        let ring_bytes = 2 * content.largest();
        let rig = Rig::new(&content, Setup::ring(ring_bytes));
        let mut low = u64::MAX;
        let mut high = 0;
        for _ in 0..3 {
            for (unit, tensors) in UNEQUAL.iter().enumerate() {
                let lease = rig.prefetcher.acquire(unit, &rig.stream).unwrap();
                assert_eq!(lease.tensors().len(), tensors.len());
                for tensor in lease.tensors() {
                    assert_eq!(tensor.ptr.0 % 256, 0, "{}", tensor.name);
                    low = low.min(tensor.ptr.0);
                    high = high.max(tensor.ptr.0 + tensor.len_bytes);
                }
            }
        }
        assert!(high - low <= ring_bytes, "{high} - {low} exceeds the ring");
    });
}

#[test]
fn units_may_be_skipped_repeated_and_taken_in_any_order() {
    ends(|| {
        let content = Content::layers(UNEQUAL);
        for depth in [0, 1, 8] {
            let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(depth));
            let mut sums = rig.sums();
            for unit in [6, 6, 0, 3, 3, 3, 5, 4, 1, 6, 1, 6, 2, 0, 0, 2, 1, 4, 4, 3] {
                let lease = rig.prefetcher.acquire(unit, &rig.stream).unwrap();
                sums.enqueue(&lease, &content);
            }
            rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
            assert!(sums.verify() > 20);
            let error = rig.prefetcher.acquire(7, &rig.stream).unwrap_err().to_string();
            assert_says(&error, &["unit", "'7'", "there are 7"]);
        }
    });
}

#[test]
fn random_programs_of_acquire_and_drop_show_the_bytes_of_the_file() {
    ends(|| {
        let mut random = Random::from_env(4);
        let content = Content::layers(UNEQUAL);
        let sizes = content.packed();
        for _ in 0..30 {
            let slots = 2 + random.below(4) as u64;
            let setup = Setup::ring(slots * content.largest() + 256 * random.below(9) as u64)
                .depth(random.below(5))
                .keep(random.below(2) == 0)
                .pinned((128 + 64 * random.below(12) as u64) * KIB);
            let rig = Rig::new(&content, setup);
            let mut sums = rig.sums();
            let other = super::streaming::stream(&rig.device);
            let mut held: Vec<(usize, riverbed::prefetch::Lease)> = Vec::new();
            for _ in 0..60 {
                if !held.is_empty() && random.below(2) == 0 {
                    let (_, lease) = held.swap_remove(random.below(held.len()));
                    sums.enqueue(&lease, &content);
                    continue;
                }
                let unit = random.below(sizes.len());
                let stream = if random.below(3) == 0 { &other } else { &rig.stream };
                match rig.prefetcher.acquire(unit, stream) {
                    Ok(lease) => held.push((unit, lease)),
                    Err(Error::RingHeld { held_bytes, live_leases, .. }) => {
                        let units = held.iter().map(|(unit, _)| *unit);
                        let mut units: Vec<usize> = units.filter(|&at| sizes[at] > 0).collect();
                        assert_eq!(live_leases, units.len());
                        units.sort_unstable();
                        units.dedup();
                        let bytes: u64 = units.iter().map(|&unit| sizes[unit]).sum();
                        assert_eq!(held_bytes, bytes);
                        assert!(!units.contains(&unit), "a leased unit needs no room");
                        held.clear();
                    }
                    Err(error) => panic!("{setup:?}: {error}"),
                }
            }
            drop(held);
            for stream in [&rig.stream, &other] {
                rig.prefetcher.finish_pass(stream).unwrap().into_result().unwrap();
            }
            sums.verify();
        }
    });
}
