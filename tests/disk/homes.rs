//! Homes are pinned behind: nobody waits for one, and whatever became of it, the bytes are right.

use std::sync::Arc;
use std::time::Duration;

use riverbed::Error;
use riverbed::device::settle;
use riverbed::transfer::{Home, LoadPlan, Urgency};

use super::held::Hold;
use super::streaming::{KIB, MIB, ends, eventually};
use super::weights::{LARGE, Rig, WAYS, Weights};

/// Bytes of a unit: more than the window leaves of the slab it shares.
const UNIT: usize = 2 * LARGE;

/// Two units of one tensor each, on a device that pins nothing when it is told so.
struct Scene {
    weights: Weights,
    rig: Rig,
    plans: [Arc<LoadPlan>; 2],
    hold: Arc<Hold>,
}

impl Scene {
    /// With the whole window.
    fn new(pinned_bytes: u64) -> Self {
        let scene = Self::held(pinned_bytes, 128 * KIB, false);
        scene.rig.loader.wait_for_homes();
        scene
    }

    /// Where pinning stands still from the start, if it is `held`.
    fn held(pinned_bytes: u64, chunk_bytes: u64, held: bool) -> Self {
        let ((device, _), hold) = Hold::device();
        hold.set(held);
        let weights = Weights::new(&[UNIT, UNIT]);
        let disk = WAYS[0].parse().unwrap();
        let rig = Rig::on(device, pinned_bytes, &weights, disk, chunk_bytes, &[]).unwrap();
        let plans = [0, 1].map(|tensor| rig.loader.plan(&weights.layout(&[tensor])));
        Self { weights, rig, plans, hold }
    }

    fn home(&self, unit: usize) -> Home {
        self.rig.loader.home(&self.plans[unit])
    }

    #[track_caller]
    fn verify(&mut self, unit: usize, home: &Home, urgency: Urgency) {
        let bytes = self.rig.load(&self.plans[unit], Some(home), urgency).unwrap();
        self.weights.verify(&self.weights.layout(&[unit]), &bytes);
    }

    fn pinned_bytes(&self) -> u64 {
        self.rig.pinned.stats().active_bytes
    }
}

#[test]
fn a_load_does_not_wait_for_the_whole_window() {
    ends(|| {
        // Slots of slabs of their own, so that each has to be pinned.
        let mut scene = Scene::held(64 * MIB, 2 * MIB, true);
        let few_bytes = scene.pinned_bytes();
        let layout = scene.weights.layout(&[0]);
        for urgency in [Urgency::Ahead, Urgency::Demand] {
            let bytes = scene.rig.load(&scene.plans[0], None, urgency).unwrap();
            scene.weights.verify(&layout, &bytes);
        }
        assert_eq!(scene.pinned_bytes(), few_bytes);
        scene.hold.set(false);
        scene.rig.loader.wait_for_homes();
        // Of three slots and four, two were there each.
        assert_eq!(4 * scene.pinned_bytes(), 7 * few_bytes);
        for urgency in [Urgency::Demand, Urgency::Ahead] {
            let bytes = scene.rig.load(&scene.plans[0], None, urgency).unwrap();
            scene.weights.verify(&layout, &bytes);
        }
    });
}

#[test]
fn a_load_does_not_wait_for_its_home_and_a_later_one_finds_it() {
    ends(|| {
        let mut scene = Scene::new(48 * MIB);
        let window_bytes = scene.pinned_bytes();
        scene.hold.set(true);
        let homes = [0, 1].map(|unit| scene.home(unit));
        scene.hold.wait_for_one();
        for urgency in [Urgency::Ahead, Urgency::Demand] {
            scene.verify(0, &homes[0], urgency);
            scene.verify(1, &homes[1], urgency);
        }
        assert!(!homes[0].is_pinned() && !homes[1].is_pinned());
        scene.hold.set(false);
        scene.rig.loader.wait_for_homes();
        assert!(homes[0].is_pinned() && homes[1].is_pinned());
        scene.verify(0, &homes[0], Urgency::Demand);
        scene.verify(1, &homes[1], Urgency::Ahead);
        // What they keep is not read again.
        std::fs::File::create(&scene.weights.path).unwrap();
        scene.verify(0, &homes[0], Urgency::Ahead);
        scene.verify(1, &homes[1], Urgency::Demand);
        drop(homes);
        eventually("homes go back", || {
            // The last copies from them are over when somebody looks.
            scene.rig.loader.arrived_bytes();
            scene.pinned_bytes() == window_bytes
        });
        scene.rig.pinned.check().unwrap();
    });
}

#[test]
fn a_home_for_which_the_budget_has_no_room_is_pinned_once_it_has() {
    ends(|| {
        let mut scene = Scene::new(5 * MIB);
        let homes = [0, 1].map(|unit| scene.home(unit));
        scene.rig.loader.wait_for_homes();
        assert!(homes[0].is_pinned() && !homes[1].is_pinned());
        let held = scene.rig.pinned.stats();
        for _ in 0..3 {
            scene.verify(1, &homes[1], Urgency::Ahead);
            scene.rig.loader.wait_for_homes();
            assert!(!homes[1].is_pinned());
        }
        let [first, second] = homes;
        drop(first);
        eventually("the first goes back", || scene.pinned_bytes() < held.active_bytes);
        scene.verify(1, &second, Urgency::Ahead);
        scene.rig.loader.wait_for_homes();
        assert!(second.is_pinned());
        scene.verify(1, &second, Urgency::Demand);
        scene.rig.pinned.check().unwrap();
    });
}

#[test]
fn a_home_nobody_wants_any_more_is_not_pinned() {
    ends(|| {
        let scene = Scene::new(48 * MIB);
        let window_bytes = scene.pinned_bytes();
        scene.hold.set(true);
        let homes = [0, 1].map(|unit| scene.home(unit));
        scene.hold.wait_for_one();
        let [first, second] = homes;
        drop(second);
        scene.hold.set(false);
        scene.rig.loader.wait_for_homes();
        assert!(first.is_pinned());
        let home_bytes = scene.pinned_bytes() - window_bytes;
        assert!((UNIT as u64..2 * UNIT as u64).contains(&home_bytes), "{home_bytes}");
    });
}

#[test]
fn cancelling_while_a_home_is_pinned_waits_for_nothing() {
    ends(|| {
        let mut scene = Scene::new(48 * MIB);
        scene.hold.set(true);
        let homes = [0, 1].map(|unit| scene.home(unit));
        scene.hold.wait_for_one();
        scene.rig.loader.cancel();
        scene.rig.loader.wait_for_homes();
        let refused = scene.rig.load(&scene.plans[0], Some(&homes[0]), Urgency::Ahead);
        assert!(matches!(refused, Err(Error::Cancelled)));
        scene.hold.set(false);
    });
}

#[test]
fn a_loader_that_goes_while_a_home_is_pinned_waits_for_nothing_and_leaves_nothing() {
    ends(|| {
        let scene = Scene::new(48 * MIB);
        scene.hold.set(true);
        let homes = [0, 1].map(|unit| scene.home(unit));
        scene.hold.wait_for_one();
        let Scene { rig, hold, .. } = scene;
        let Rig { loader, pinned, .. } = rig;
        drop(loader);
        assert!(!settle(Duration::from_millis(1)), "somebody is still pinning");
        hold.set(false);
        eventually("all pinned memory goes back", || {
            let stats = pinned.stats();
            stats.active_bytes + stats.retired_bytes == 0 || homes[0].is_pinned()
        });
        drop(homes);
        eventually("all pinned memory goes back", || {
            let stats = pinned.stats();
            stats.active_bytes + stats.retired_bytes == 0
        });
        pinned.check().unwrap();
        assert!(settle(Duration::from_secs(60)));
    });
}
