//! Passes after the first take nothing from the driver and make nobody wait.

use riverbed::device::Call;

use super::streaming::{Content, KIB, Rig, Setup, ends, waits};

#[test]
fn a_steady_pass_takes_nothing_from_the_driver_and_waits_once_at_its_end() {
    ends(|| {
        let content =
            Content::layers(&[&[150_000], &[1], &[70_000, 9], &[0], &[130_000], &[150_000]]);
        let (largest, all) = (content.largest(), content.packed().iter().sum::<u64>());
        for ring in [2 * largest, 3 * largest, all, 2 * all] {
            for depth in [0, 1, 4, 8] {
                for (keep, pinned) in [(false, 128 * KIB), (true, 300 * KIB), (true, 8192 * KIB)] {
                    let setup = Setup::ring(ring).depth(depth).keep(keep).pinned(pinned);
                    let rig = Rig::new(&content, setup);
                    let mut sums = rig.sums();
                    rig.pass(&content, &mut sums);
                    rig.prefetcher.finish_pass(&rig.stream).unwrap();
                    sums.verify();
                    rig.prefetcher.wait_for_homes();
                    for pass in 1..12 {
                        let calls = rig.device.calls();
                        let (taken, waited) = (calls.sum(Call::ALLOCATING), waits(&rig.device));
                        rig.pass(&content, &mut sums);
                        assert_eq!(waits(&rig.device), waited, "{setup:?}");
                        rig.prefetcher.finish_pass(&rig.stream).unwrap();
                        assert_eq!(waits(&rig.device), waited + 1, "{setup:?}");
                        assert_eq!(calls.sum(Call::ALLOCATING), taken, "pass {pass}, {setup:?}");
                        sums.verify();
                    }
                }
            }
        }
    });
}

#[test]
fn the_ring_is_never_allocated_again() {
    ends(|| {
        let content = Content::layers(&[&[150_000], &[70_000], &[130_000], &[1]]);
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()));
        let before = rig.allocator.stats();
        let mut sums = rig.sums();
        for _ in 0..3 {
            rig.pass(&content, &mut sums);
            sums.verify();
        }
        let after = rig.allocator.stats();
        assert_eq!(after.num_device_alloc, before.num_device_alloc);
        assert_eq!(after.allocated_bytes.all.peak, before.allocated_bytes.all.peak);
    });
}
