//! Several leases at once, and room that the caller's own leases hold.

use riverbed::Error;
use riverbed::device::Device;

use super::streaming::{Content, Rig, Setup, ends, stream};

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
fn a_stream_of_another_device_is_refused() {
    let content = equal_layers();
    let rig = Rig::new(&content, Setup::ring(2 * content.largest()));
    let other = Device::open("host:vram=2MiB").unwrap();
    let error = rig.prefetcher.acquire(0, &stream(&other)).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert_eq!(rig.prefetcher.stats().loads, 0, "nothing was loaded for it");
}
