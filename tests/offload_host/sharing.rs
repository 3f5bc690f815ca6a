//! One copy in host memory for several devices and several loaders.

use riverbed::device::settle;

use super::streaming::{Random, ends, eventually};
use super::world::{SLACK, World, homes_bytes, model};

const LAYER: usize = 200_000;

#[test]
fn several_devices_copy_from_one_piece_of_memory() {
    ends(|| {
        let a = model(6, LAYER);
        let world = World::new(homes_bytes(&a));
        let worlds = [world.beside(), world.beside()];
        world.run("a", &a, 3);
        let before = world.stats();
        let mut running = worlds.each_ref().map(|world| world.open("a", &a));
        for _ in 0..4 {
            // At first through the window, out of that memory; then straight.
            running.iter_mut().for_each(super::world::Running::pass);
        }
        let after = world.stats();
        assert_eq!(after.disk_bytes, before.disk_bytes, "no file was read");
        assert_eq!(after.held_bytes, homes_bytes(&a), "and it is there once");
        let conf = riverbed::conf::Conf::default();
        for world in &worlds {
            let pinned = world.cache.pinned(&world.device, &conf).stats();
            let pages: u64 =
                a.packed().iter().map(|bytes| (bytes + SLACK).next_multiple_of(4096)).sum();
            assert_eq!(pinned.adopted_bytes, pages, "each driver knows it");
        }
        // The memory goes when the last device is through with it.
        drop(running);
        assert!(settle(std::time::Duration::from_secs(60)));
        assert_eq!(world.cache.trim(0), homes_bytes(&a));
        eventually("all of it is given back", || {
            let held = |world: &World| {
                let stats = world.cache.pinned(&world.device, &conf).stats();
                stats.adopted_bytes
            };
            worlds.iter().map(held).sum::<u64>() == 0 && world.cache.stats().held_bytes == 0
        });
    });
}

#[test]
fn a_device_whose_pinned_budget_is_spent_reads_no_file_either() {
    ends(|| {
        let a = model(6, LAYER);
        let world = World::new(homes_bytes(&a));
        world.run("a", &a, 3);
        let other = world.beside();
        // Room for its window alone.
        let tight = "pinned_limit_mb:1".parse().unwrap();
        let pool = other.cache.pinned(&other.device, &tight);
        let mut running = other.open("a", &a);
        (0..3).for_each(|_| running.pass());
        assert_eq!(running.disk_bytes(), 0);
        assert!(pool.stats().adopted_bytes < homes_bytes(&a));
    });
}

#[test]
fn a_loader_that_ends_while_it_reads_takes_nobody_with_it() {
    ends(|| {
        let a = model(8, LAYER);
        for seed in 0..6 {
            let mut random = Random::new(seed);
            let world = World::new(homes_bytes(&a));
            let beside = world.beside();
            let mut steady = beside.open("a", &a);
            for _ in 0..4 {
                let short = world.open("a", &a);
                for unit in 0..random.below(8) {
                    drop(short.prefetcher.acquire(unit, &short.stream).unwrap());
                }
                if random.below(2) == 0 {
                    short.prefetcher.cancel();
                }
                drop(short);
                steady.pass();
            }
            steady.passes(4);
            let before = steady.disk_bytes();
            steady.pass();
            assert_eq!(steady.disk_bytes(), before, "every home was read in the end");
        }
    });
}

#[test]
fn many_short_loaders_leave_nothing_behind() {
    ends(|| {
        let a = model(3, 20_000);
        let world = World::new(homes_bytes(&a));
        world.run("a", &a, 3);
        for _ in 0..40 {
            assert_eq!(world.run("a", &a, 1), 0);
        }
        assert!(settle(std::time::Duration::from_secs(60)));
        let device = &world.device;
        let calls = device.calls();
        let made = calls.count(riverbed::device::Call::CreateStream);
        let gone = calls.count(riverbed::device::Call::DestroyStream);
        assert!(made - gone < 12, "{made} streams were made and {gone} are gone");
    });
}

#[test]
fn models_side_by_side_under_one_tight_budget_stay_right() {
    ends(|| {
        let contents = [model(5, 90_000), model(6, 50_000), model(4, 130_000)];
        let all: u64 = contents.iter().map(homes_bytes).sum();
        for share in [4, 2] {
            let world = World::new(all / share);
            std::thread::scope(|scope| {
                for (number, content) in contents.iter().enumerate() {
                    let world = if number == 1 { world.beside() } else { world.beside_same() };
                    scope.spawn(move || {
                        let name = format!("model {number}");
                        let mut running = world.open(&name, content);
                        for round in 0..6 {
                            let _in_use = (round % 2 == 0).then(|| world.cache.begin(&name));
                            running.pass();
                            if round == 3 {
                                running = world.open(&name, content);
                            }
                        }
                    });
                }
            });
            assert!(world.stats().held_bytes <= all / share);
        }
    });
}
