//! Every byte lies where it belongs, however tensors lie in their file and however it is read.

use std::path::Path;

use proptest::prelude::*;
use riverbed::transfer::Urgency;

use super::streaming::{KIB, ends};
use super::weights::{LARGE, Rig, WAYS, Weights, in_memory};

/// Loads whole and in parts, through the window and from a home, and compares.
fn verify_every_way(place: &Path, sizes: &[usize], order: &[usize], chunk_bytes: u64) {
    let weights = Weights::at(place, sizes);
    for (number, disk) in WAYS.iter().enumerate() {
        let mut rig = Rig::build(&weights, disk.parse().unwrap(), chunk_bytes, &[]).unwrap();
        for layout in [weights.whole(), weights.layout(order)] {
            if number % 2 == 0 {
                weights.make_cold();
            }
            let plan = rig.loader.plan(&layout);
            let bytes = rig.load(&plan, None, Urgency::Ahead).unwrap();
            weights.verify(&layout, &bytes);
            let bytes = rig.load(&plan, None, Urgency::Demand).unwrap();
            weights.verify(&layout, &bytes);
            let home = rig.loader.home(&plan);
            // Perhaps while it is being pinned, then surely from it: read, and kept.
            for urgency in [Urgency::Ahead, Urgency::Demand, Urgency::Ahead] {
                let bytes = rig.load(&plan, Some(&home), urgency).unwrap();
                weights.verify(&layout, &bytes);
                rig.loader.wait_for_homes();
                assert_eq!(home.is_pinned(), plan.len_bytes() > 0);
            }
        }
    }
}

#[test]
fn one_large_tensor_behind_an_odd_one() {
    ends(|| {
        for odd in [1, 256, 511, 4097] {
            verify_every_way(&std::env::temp_dir(), &[odd, LARGE], &[1], 128 * KIB);
        }
    });
}

#[test]
fn many_small_tensors_and_large_ones_of_every_congruence() {
    ends(|| {
        let mut sizes: Vec<usize> = (0..120).map(|at| 4096 + at * 517).collect();
        sizes.extend([0, 300_001, 70_000, 4096, 200_003, 1, 0, 99_999]);
        let mut order: Vec<usize> = (0..sizes.len()).step_by(3).collect();
        order.reverse();
        verify_every_way(&std::env::temp_dir(), &sizes, &order, 256 * KIB);
    });
}

#[test]
fn the_last_bytes_of_a_file_that_ends_anywhere() {
    ends(|| {
        for tail in [1, 4096] {
            verify_every_way(&std::env::temp_dir(), &[200_000, 70_000 + tail], &[1], 64 * KIB);
        }
    });
}

#[test]
fn files_in_memory() {
    ends(|| {
        let Some(place) = in_memory() else { return };
        verify_every_way(place, &[1, LARGE, 300, 70_007], &[3, 1], 128 * KIB);
    });
}

#[test]
fn a_layer_of_many_small_tensors_is_few_copies() {
    ends(|| {
        let sizes: Vec<usize> = (0..300).map(|at| 4096 + (at * 7919) % 61_440).collect();
        let weights = Weights::new(&sizes);
        let chunk_bytes = 1 << 20;
        let rig = Rig::build(&weights, WAYS[0].parse().unwrap(), chunk_bytes, &[]).unwrap();
        let layout = weights.whole();
        let copies = rig.loader.plan(&layout).copies() as u64;
        assert!(copies <= layout.len_bytes / chunk_bytes + 2, "{copies} copies");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
    #[test]
    fn any_sizes_in_any_order(
        sizes in proptest::collection::vec(
            prop_oneof![0usize..5000, 4000usize..70_000, 60_000usize..300_000], 1..12),
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..8),
        chunk_kib in prop_oneof![Just(64u64), Just(100), Just(192)],
    ) {
        let mut order: Vec<usize> = Vec::new();
        for pick in picks {
            let at = pick.index(sizes.len());
            if !order.contains(&at) {
                order.push(at);
            }
        }
        ends(move || verify_every_way(&std::env::temp_dir(), &sizes, &order, chunk_kib * KIB));
    }
}
