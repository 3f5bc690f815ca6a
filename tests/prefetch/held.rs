//! Several leases at once, and room that the caller's own leases hold.

use riverbed::Error;
use riverbed::device::{Device, Event, Gate};
use riverbed::offload::Placement;

use super::streaming::{Content, Random, Rig, Setup, ends, stream};

fn equal_layers() -> Content {
    Content::layers(&[&[100_000], &[100_000], &[100_000], &[100_000]])
}

#[test]
fn own_leases_that_fill_the_ring_are_an_error_and_not_a_deadlock() {
    ends(|| {
        let content = equal_layers();
        for depth in [0, 1, 3] {
            let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(depth));
            let mut sums = rig.sums();
            let first = rig.prefetcher.acquire(0, &rig.stream).unwrap();
            let second = rig.prefetcher.acquire(1, &rig.stream).unwrap();
            let error = rig.prefetcher.acquire(2, &rig.stream).unwrap_err();
            assert!(error.is_retryable());
            let Error::RingHeld { unit, unit_bytes, held_bytes, ring_bytes, live_leases } = error
            else {
                panic!("{error}")
            };
            assert_eq!((&unit[..], unit_bytes), ("layers.2", content.largest()));
            assert_eq!((held_bytes, ring_bytes, live_leases), (ring_bytes, ring_bytes, 2));
            sums.enqueue(&first, &content);
            sums.enqueue(&second, &content);
            drop(first);
            let third = rig.prefetcher.acquire(2, &rig.stream).unwrap();
            sums.enqueue(&third, &content);
            sums.enqueue(&second, &content);
            assert_eq!(sums.verify(), 4);
        }
    });
}

#[test]
fn a_unit_leased_twice_is_loaded_once_and_kept_until_the_last_lease_goes() {
    ends(|| {
        let content = equal_layers();
        let rig = Rig::new(&content, Setup::ring(content.largest()).depth(0));
        let mut sums = rig.sums();
        let other = stream(&rig.device);
        let first = rig.prefetcher.acquire(1, &rig.stream).unwrap();
        let second = rig.prefetcher.acquire(1, &other).unwrap();
        let place = |lease: &riverbed::prefetch::Lease| lease.tensors().next().unwrap().ptr;
        assert_eq!(place(&first), place(&second));
        assert_eq!(rig.prefetcher.stats().loads, 1);
        sums.enqueue(&first, &content);
        sums.enqueue(&second, &content);
        drop(first);
        let error = rig.prefetcher.acquire(0, &rig.stream).unwrap_err();
        assert!(matches!(error, Error::RingHeld { live_leases: 1, .. }), "{error}");
        sums.enqueue(&second, &content);
        drop(second);
        sums.enqueue(&rig.prefetcher.acquire(0, &rig.stream).unwrap(), &content);
        assert_eq!(sums.verify(), 4);
    });
}

#[test]
fn beside_any_lease_any_other_unit_finds_room_in_the_ring_of_a_placement() {
    ends(|| {
        let mut random = Random::from_env(31);
        for round in 0..25 {
            let count = 2 + random.below(7);
            let sizes: Vec<[usize; 1]> = (0..count).map(|_| [1 + random.below(40_000)]).collect();
            let sizes: Vec<&[usize]> = sizes.iter().map(|sizes| &sizes[..]).collect();
            let content = Content::layers(&sizes);
            let least = Placement::new(&content.model, &content.grouping, 0, 0, 4096, 0);
            let Err(Error::TooLarge { requested_bytes: limit, .. }) = least else { panic!() };
            let limit = limit + 4096 * random.below(8) as u64;
            let placement =
                Placement::new(&content.model, &content.grouping, limit, 0, 4096, round).unwrap();
            let rig = Rig::new(&content, Setup::ring(placement.ring_bytes).depth(round % 4));
            let mut sums = rig.sums();
            let mut held = rig.prefetcher.acquire(0, &rig.stream).unwrap();
            for _ in 0..60 {
                let unit = random.below(count);
                let next = rig.prefetcher.acquire(unit, &rig.stream);
                let next = next.unwrap_or_else(|error| panic!("{:?}: {error}", content.packed()));
                sums.enqueue(&held, &content);
                held = next;
                rig.prefetcher.check().unwrap();
            }
            assert_eq!(sums.verify(), 60);
        }
    });
}

#[test]
fn a_lease_on_two_streams_keeps_its_room_until_both_are_done() {
    ends(|| {
        let content = equal_layers();
        let rig = Rig::new(&content, Setup::ring(content.largest()).depth(0));
        let (mut sums, mut other_sums) = (rig.sums(), rig.sums());
        let other = stream(&rig.device);
        let gate = Gate::new(&rig.device).unwrap();
        let mut lease = rig.prefetcher.acquire(0, &rig.stream).unwrap();
        sums.enqueue(&lease, &content);
        lease.also_on(&other).unwrap();
        lease.also_on(&other).unwrap();
        other.wait_gate(&gate, 1).unwrap();
        // What the other stream reads of the place, it reads late.
        let tensor = lease.tensors().next().unwrap();
        other_sums.enqueue_on(&tensor, &other, &content);
        drop(lease);
        let end = Event::new(&rig.device).unwrap();
        sums.enqueue(&rig.prefetcher.acquire(1, &rig.stream).unwrap(), &content);
        end.record(&rig.stream).unwrap();
        for _ in 0..5_000 {
            assert!(!end.query().unwrap(), "the place was written under a pending use");
            std::thread::yield_now();
        }
        gate.open(1).unwrap();
        assert_eq!((sums.verify(), other_sums.verify()), (2, 1));
        let foreign = Device::open("host:vram=2MiB").unwrap();
        let mut lease = rig.prefetcher.acquire(1, &rig.stream).unwrap();
        assert!(lease.also_on(&stream(&foreign)).is_err());
    });
}

#[test]
fn a_stream_of_another_device_is_refused() {
    let content = equal_layers();
    let rig = Rig::new(&content, Setup::ring(2 * content.largest()));
    let other = Device::open("host:vram=2MiB").unwrap();
    let error = rig.prefetcher.acquire(0, &stream(&other)).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert_eq!(rig.prefetcher.stats().loads, 0, "nothing was loaded for it");
}
