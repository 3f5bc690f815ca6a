//! The same address in every pass.

use std::collections::HashMap;

use riverbed::Error;

use super::streaming::{Content, Random, Rig, Setup, assert_says, ends};

#[test]
fn each_unit_has_one_address_in_all_passes() {
    ends(|| {
        let mut random = Random::from_env(8);
        for round in 0..12 {
            let count = 2 + random.below(9);
            let sizes: Vec<[usize; 2]> =
                (0..count).map(|_| [random.below(60_000), random.below(9_000)]).collect();
            let sizes: Vec<&[usize]> = sizes.iter().map(|sizes| &sizes[..]).collect();
            let content = Content::layers(&sizes);
            let ring = 3 * content.largest() + 256 * random.below(300) as u64;
            let setup = Setup::ring(ring).depth([0, 2, usize::MAX][round % 3]);
            let rig = Rig::new(&content, setup.keep(round % 2 == 0).stable());
            let mut addresses = HashMap::new();
            let mut sums = rig.sums();
            for pass in 0..5 {
                for step in 0..count {
                    let unit = if pass == 3 { random.below(count) } else { step };
                    let lease = rig.prefetcher.acquire(unit, &rig.stream).unwrap();
                    let at: Vec<_> = lease.tensors().map(|tensor| tensor.ptr).collect();
                    assert_eq!(addresses.entry(unit).or_insert_with(|| at.clone()), &at);
                    sums.enqueue(&lease, &content);
                    rig.prefetcher.check().unwrap();
                }
                rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
                sums.verify();
            }
            if setup.depth > 0 {
                let before = rig.prefetcher.stats().demand_loads;
                for unit in 0..count {
                    sums.enqueue(&rig.prefetcher.acquire(unit, &rig.stream).unwrap(), &content);
                }
                assert_eq!(rig.prefetcher.stats().demand_loads, before, "all came ahead");
                sums.verify();
            }
        }
    });
}

#[test]
fn a_ring_that_cannot_is_refused_with_one_that_can() {
    let content = Content::layers(&[&[50_000], &[50_000], &[50_000]]);
    let two_slots = 2 * content.largest();
    let error = Rig::build(&content, Setup::ring(two_slots).stable()).unwrap_err();
    let text = error.to_string();
    let Error::TooLarge { requested_bytes, .. } = error else { panic!("{text}") };
    assert_eq!(requested_bytes, 3 * content.largest(), "an odd round of equal units");
    assert_says(&text, &["address", "stable_addresses", &requested_bytes.to_string()]);
    Rig::new(&content, Setup::ring(requested_bytes).stable());
    Rig::new(&content, Setup::ring(two_slots));
}
