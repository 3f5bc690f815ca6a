//! Units that stay in pinned memory: right bytes before they are there and from there, and nobody
//! waits until they are.

use std::sync::Arc;
use std::time::Duration;

use riverbed::device::settle;

use super::held_pinning::Hold;
use super::streaming::{Content, MIB, Rig, Setup, Sums, ends, eventually, waits};

/// Most are more than is left of the slab that the window shares.
fn layers() -> Content {
    Content::layers(&[&[2_200_000], &[2_100_000, 9], &[0], &[2_150_000], &[2_200_000], &[4096]])
}

/// With a ring of two units, on a device that pins no homes when it is told so.
fn rig(content: &Content, pinned_bytes: u64) -> (Rig, Sums, Arc<Hold>) {
    let (device, hold) = Hold::device();
    let setup = Setup::ring(2 * content.largest()).keep(true).pinned(pinned_bytes);
    let rig = Rig::on(device, content, setup).unwrap();
    let sums = rig.sums();
    (rig, sums, hold)
}

/// A pass that waits for nothing but its end.
#[track_caller]
fn pass(rig: &Rig, content: &Content, sums: &mut Sums) {
    let waited = waits(&rig.device);
    rig.pass(content, sums);
    assert_eq!(waits(&rig.device), waited);
    rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
    sums.verify();
}

#[test]
fn passes_go_on_while_nothing_is_pinned_and_then_read_each_unit_once_more_at_most() {
    ends(|| {
        let content = layers();
        let (rig, mut sums, hold) = rig(&content, 16 * MIB);
        hold.set(true);
        for _ in 0..3 {
            pass(&rig, &content, &mut sums);
        }
        hold.set(false);
        rig.prefetcher.wait_for_homes();
        pass(&rig, &content, &mut sums);
        pass(&rig, &content, &mut sums);
        std::fs::File::create(&content.path).unwrap();
        for _ in 0..3 {
            pass(&rig, &content, &mut sums);
        }
        rig.pinned.check().unwrap();
    });
}

#[test]
fn units_the_budget_has_no_room_for_go_on_through_the_window() {
    ends(|| {
        let content = layers();
        let (rig, mut sums, _hold) = rig(&content, 5 * MIB);
        for _ in 0..4 {
            pass(&rig, &content, &mut sums);
            rig.prefetcher.wait_for_homes();
        }
        std::fs::File::create(&content.path).unwrap();
        let fails = |unit| match rig.prefetcher.acquire(unit, &rig.stream) {
            Ok(lease) => {
                rig.stream.synchronize().unwrap();
                lease.status().is_err()
            }
            Err(_) => true,
        };
        for unit in 0..content.units().len() {
            fails(unit); // What is in the ring is used up.
        }
        // There is room for one of the large ones.
        assert_eq!((0..content.units().len()).filter(|&unit| fails(unit)).count(), 3);
        rig.pinned.check().unwrap();
    });
}

#[test]
fn a_prefetcher_goes_while_its_homes_are_pinned() {
    ends(|| {
        let content = layers();
        for cancels in [false, true] {
            let (rig, mut sums, hold) = rig(&content, 16 * MIB);
            hold.set(true);
            pass(&rig, &content, &mut sums);
            hold.wait_for_one();
            if cancels {
                rig.prefetcher.cancel();
                rig.prefetcher.wait_for_homes();
            }
            let Rig { prefetcher, pinned, device, .. } = rig;
            drop((prefetcher, sums, device));
            hold.set(false);
            assert!(settle(Duration::from_secs(60)));
            eventually("all pinned memory goes back", || {
                let stats = pinned.stats();
                stats.active_bytes + stats.retired_bytes == 0
            });
            pinned.check().unwrap();
        }
    });
}
