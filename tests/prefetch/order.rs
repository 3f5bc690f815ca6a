//! Orders that are announced, and those that are not kept.

use super::streaming::{Content, Rig, Setup, ends};

fn layers() -> Content {
    Content::layers(&[&[50_000], &[70_000], &[60_000], &[70_000], &[50_000], &[40_000]])
}

/// Runs one pass over these units and verifies it; gives loads on demand and those out of order.
fn pass(rig: &Rig, content: &Content, order: &[usize]) -> (u64, u64) {
    let before = rig.prefetcher.stats();
    let mut sums = rig.sums();
    for &unit in order {
        sums.enqueue(&rig.prefetcher.acquire(unit, &rig.stream).unwrap(), content);
        rig.prefetcher.check().unwrap();
    }
    let report = rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
    assert_eq!(sums.verify(), order.len());
    let after = report.stats;
    (after.demand_loads - before.demand_loads, after.out_of_order - before.out_of_order)
}

#[test]
fn units_out_of_order_are_loaded_on_the_spot_and_counted() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(3 * content.largest()).depth(usize::MAX));
        assert_eq!(pass(&rig, &content, &[0, 1, 2, 3, 4, 5]), (1, 0), "but for the first");
        assert_eq!(pass(&rig, &content, &[0, 1, 2, 3, 4, 5]), (0, 0));
        // Skipped, and gone back to: 4 comes early, 2 late.
        let (loads, jumps) = pass(&rig, &content, &[0, 1, 4, 2, 3, 5]);
        assert_eq!(jumps, 3, "to 4, back to 2, and on to 5");
        assert!(loads >= 1);
        assert_eq!(pass(&rig, &content, &[0, 0, 0, 1, 2, 3, 4, 5]).1, 0, "again is no surprise");
        // After a surprise everything is ahead again.
        assert_eq!(pass(&rig, &content, &[0, 1, 2, 3, 4, 5]), (0, 0));
    });
}

#[test]
fn a_pass_that_ends_early_is_followed_by_the_start_of_the_next() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(usize::MAX));
        pass(&rig, &content, &[0, 1, 2, 3, 4, 5]);
        assert_eq!(pass(&rig, &content, &[0, 1]).0, 0);
        assert_eq!(pass(&rig, &content, &[0, 1, 2]).0, 0, "the next one began ahead");
    });
}

#[test]
fn what_an_announced_pass_leaves_out_is_not_loaded() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(usize::MAX));
        pass(&rig, &content, &[0, 1, 2, 3, 4]);
        rig.prefetcher.expect_pass(&[0, 5, 1]).unwrap();
        let before = rig.prefetcher.stats().loads;
        assert_eq!(pass(&rig, &content, &[0, 5, 1]).1, 0, "it is the order now");
        assert!(rig.prefetcher.stats().loads - before <= 5, "three, and two ahead");
        assert_eq!(pass(&rig, &content, &[0, 1, 2, 3, 4, 5]).1, 0, "and the usual one again");
    });
}

#[test]
fn an_order_that_was_set_holds_for_every_pass_and_may_repeat_units() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(usize::MAX));
        let order = [3, 1, 3, 3, 0, 1];
        rig.prefetcher.set_order(&order).unwrap();
        assert_eq!(pass(&rig, &content, &order), (1, 0));
        for _ in 0..4 {
            assert_eq!(pass(&rig, &content, &order), (0, 0));
        }
        assert!(rig.prefetcher.set_order(&[6]).is_err());
        assert!(rig.prefetcher.set_order(&[]).is_err());
        assert_eq!(pass(&rig, &content, &order), (0, 0), "a refused order changes nothing");
    });
}

#[test]
fn far_ahead_units_make_room_for_near_ones_after_a_jump() {
    ends(|| {
        let sizes: Vec<Vec<usize>> = (0..24).map(|layer| vec![20_000 + layer]).collect();
        let sizes: Vec<&[usize]> = sizes.iter().map(|sizes| &sizes[..]).collect();
        let content = Content::layers(&sizes);
        let rig = Rig::new(&content, Setup::ring(6 * content.largest()).depth(usize::MAX));
        let jumped: Vec<usize> = (0..4).chain(14..24).collect();
        pass(&rig, &content, &jumped);
        let (loads, jumps) = pass(&rig, &content, &jumped);
        assert_eq!((loads, jumps), (1, 1), "only the unit jumped to comes as a surprise");
    });
}
