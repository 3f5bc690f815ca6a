//! The host never waits for the device, and the device waits for all it must.

use riverbed::device::{Event, Gate};

use super::streaming::{Content, KIB, Rig, Setup, ends, stream, waits};

fn layers() -> Content {
    Content::layers(&[&[200_000], &[50_000], &[200_000], &[1], &[120_000, 80_000], &[200_000]])
}

#[test]
fn passes_are_enqueued_whole_while_the_compute_stream_stands_still() {
    ends(|| {
        let content = layers();
        for (depth, keep) in [(0, false), (1, false), (2, true), (8, false), (8, true)] {
            let ring = 2 * content.largest();
            let rig = Rig::new(&content, Setup::ring(ring).depth(depth).keep(keep));
            let mut sums = rig.sums();
            let gate = Gate::new(&rig.device).unwrap();
            rig.stream.wait_gate(&gate, 1).unwrap();
            let before = waits(&rig.device);
            rig.pass(&content, &mut sums);
            rig.pass(&content, &mut sums);
            let end = Event::new(&rig.device).unwrap();
            end.record(&rig.stream).unwrap();
            assert_eq!(waits(&rig.device), before, "the host waited");
            assert!(!end.query().unwrap(), "the stream ran past a closed gate");
            gate.open(1).unwrap();
            rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
            assert_eq!(sums.verify(), 14);
            assert_eq!(rig.prefetcher.stats().host_waits, 0);
        }
    });
}

#[test]
fn leases_are_given_while_no_reader_can_read() {
    // One window of 128 KiB that nobody drains: the readers are stuck in the first unit.
    ends(|| {
        let content = layers();
        let setup = Setup::ring(2 * content.largest()).depth(0).pinned(128 * KIB);
        let rig = Rig::new(&content, setup);
        let mut sums = rig.sums();
        let gate = Gate::new(&rig.device).unwrap();
        rig.stream.wait_gate(&gate, 1).unwrap();
        let before = waits(&rig.device);
        for _ in 0..5 {
            rig.pass(&content, &mut sums);
        }
        assert_eq!(waits(&rig.device), before);
        assert_eq!(rig.prefetcher.stats().copy_busy_ns, 0, "off means that nothing is copied yet");
        gate.open(1).unwrap();
        assert_eq!(sums.verify(), 35);
    });
}

#[test]
fn room_is_not_overwritten_before_the_work_on_it_has_run() {
    ends(|| {
        let content = layers();
        for depth in [0, 1, 4] {
            let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(depth));
            let (mut slow_sums, mut fast_sums) = (rig.sums(), rig.sums());
            let fast = stream(&rig.device);
            let gate = Gate::new(&rig.device).unwrap();
            rig.stream.wait_gate(&gate, 1).unwrap();
            // The checksum reads the unit's room long after its lease is gone.
            let lease = rig.prefetcher.acquire(0, &rig.stream).unwrap();
            slow_sums.enqueue(&lease, &content);
            drop(lease);
            for unit in [2, 4, 5, 2, 4, 5] {
                let lease = rig.prefetcher.acquire(unit, &fast).unwrap();
                fast_sums.enqueue(&lease, &content);
            }
            let end = Event::new(&rig.device).unwrap();
            end.record(&fast).unwrap();
            // Plenty of turns for a copy that does not wait.
            for _ in 0..20_000 {
                assert!(!end.query().unwrap(), "room was used again under a pending checksum");
                std::thread::yield_now();
            }
            gate.open(1).unwrap();
            assert_eq!(slow_sums.verify(), 1);
            assert_eq!(fast_sums.verify(), 8);
        }
    });
}

#[test]
fn a_lease_dropped_behind_pending_work_frees_its_room_for_the_host_at_once() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(content.largest()).depth(0));
        let mut sums = rig.sums();
        let gate = Gate::new(&rig.device).unwrap();
        rig.stream.wait_gate(&gate, 1).unwrap();
        // One slot, used by every unit in turn, and the device has not begun.
        rig.pass(&content, &mut sums);
        assert_eq!(rig.prefetcher.stats().loads, 6);
        gate.open(1).unwrap();
        assert_eq!(sums.verify(), 7);
    });
}

#[test]
fn loading_ahead_stops_at_the_end_when_told_that_no_pass_follows() {
    ends(|| {
        let content = layers();
        let all = content.packed().iter().sum::<u64>();
        for (wraps, loads) in [(true, 6 + 2), (false, 6)] {
            // Room for the four units that are used or ahead, so that hits cannot hide loads.
            let rig = Rig::new(&content, Setup::ring(all - content.packed()[0]).depth(2));
            rig.prefetcher.set_wraps(wraps);
            let mut sums = rig.sums();
            rig.pass(&content, &mut sums);
            sums.verify();
            let loaded = rig.prefetcher.stats().loads;
            assert!(loaded <= loads, "{loaded} loads, wraps {wraps}");
            assert_eq!(loaded > 6, wraps, "{loaded} loads");
            assert_eq!(rig.prefetcher.stats().demand_loads, 1, "all but the first come ahead");
        }
    });
}

#[test]
fn depth_zero_loads_every_unit_on_demand() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(0));
        let mut sums = rig.sums();
        rig.pass(&content, &mut sums);
        rig.pass(&content, &mut sums);
        sums.verify();
        let stats = rig.prefetcher.stats();
        assert_eq!(stats.loads, stats.demand_loads);
        assert!(stats.loads > 6, "a ring of two slots cannot keep six units");
    });
}
