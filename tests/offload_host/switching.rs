//! Model switching: what fits is read once, what does not is read again in part.

use std::sync::Arc;

use riverbed::device::settle;
use riverbed::offload::{RamCache, RamOptions, StreamOptions, StreamedModel};

use super::streaming::{Content, KIB, MIB, Sums, assert_says, ends, eventually, host, stream};
use super::world::{SLACK, World, homes_bytes, model};

const LAYER: usize = 200_000;

#[test]
fn what_fits_is_read_once_however_often_models_take_turns() {
    ends(|| {
        let (a, b) = (model(6, LAYER), model(4, LAYER));
        let world = World::new(homes_bytes(&a) + homes_bytes(&b));
        // Once to their homes, and through the window while these were not pinned yet: all of them
        // at most, and the first once more.
        let first = world.run("a", &a, 3);
        let most = 2 * a.model.total_bytes() + LAYER as u64;
        assert!((a.model.total_bytes()..=most).contains(&first), "{first}");
        world.run("b", &b, 3);
        let before = world.stats();
        for _ in 0..3 {
            assert_eq!(world.run("a", &a, 2), 0);
            assert_eq!(world.run("b", &b, 1), 0);
        }
        let after = world.stats();
        assert_eq!((after.disk_bytes, after.misses), (before.disk_bytes, before.misses));
        assert_eq!((after.evictions, after.units), (0, 10));
        assert_eq!(after.held_bytes, homes_bytes(&a) + homes_bytes(&b));
        assert!(after.hits >= before.hits + 3 * (2 * 6 + 4));
    });
}

#[test]
fn what_does_not_fit_is_read_again_in_units_and_not_in_models() {
    ends(|| {
        let (a, b) = (model(6, LAYER), model(5, LAYER));
        let home = LAYER.next_multiple_of(256) as u64 + SLACK;
        // Room for eight of eleven.
        let world = World::new(8 * home);
        world.run("a", &a, 3);
        world.run("b", &b, 3);
        // All of b came in, and the last three of a had to leave.
        let stats = world.stats();
        assert_eq!((stats.evictions, stats.units), (3, 8));
        let again = world.run("a", &a, 4);
        assert!(again >= 3 * LAYER as u64, "three have left");
        // And each of them comes through the window until its home is pinned, once or twice.
        assert!(again <= 9 * LAYER as u64, "{again}");
        assert_eq!(world.run("a", &a, 1), 0, "now all of it is there");
        assert_eq!(world.stats().units, 8);
    });
}

#[test]
fn a_model_larger_than_the_budget_keeps_its_part_and_reads_the_rest_in_every_pass() {
    ends(|| {
        let a = model(8, LAYER);
        let home = LAYER.next_multiple_of(256) as u64 + SLACK;
        let world = World::new(5 * home);
        let _in_use = world.cache.begin("a");
        let mut running = world.open("a", &a);
        running.passes(3);
        for _ in 0..3 {
            let before = running.disk_bytes();
            running.pass();
            assert_eq!(running.disk_bytes() - before, 3 * LAYER as u64);
        }
        assert_eq!(world.stats().evictions, 0, "it does not turn over");
    });
}

#[test]
fn what_comes_next_by_the_job_stays_before_what_comes_later() {
    ends(|| {
        let contents = [model(5, LAYER), model(4, LAYER), model(3, LAYER)];
        let [a, b, c] = &contents;
        let home = LAYER.next_multiple_of(256) as u64 + SLACK;
        let world = World::new(9 * home);
        world.cache.expect(["a", "b", "c", "b", "a"]);
        world.run("a", a, 3);
        world.run("b", b, 3);
        // Full. By last use a would have to go wholly or in part before b, and so it does, for it
        // comes after b.
        world.run("c", c, 3);
        assert_eq!(world.run("b", b, 1), 0);
        let read = world.run("a", a, 1);
        assert!(read >= 3 * LAYER as u64);

        // The other way round, where by last use a would leave.
        let world = World::new(9 * home);
        world.cache.expect(["a", "b", "c", "a", "b"]);
        world.run("a", a, 3);
        world.run("b", b, 3);
        world.run("c", c, 3);
        assert_eq!(world.run("a", a, 1), 0, "it comes before b");
    });
}

#[test]
fn what_is_in_use_never_leaves() {
    ends(|| {
        let (a, b) = (model(4, LAYER), model(4, LAYER + 256));
        let world = World::new(homes_bytes(&b) + 1000);
        let in_use = world.cache.begin("a");
        let mut running = world.open("a", &a);
        running.passes(3);
        let before = running.disk_bytes();
        // b finds no room and is read in every pass.
        let first = world.run("b", &b, 2);
        assert_eq!(first, 2 * b.model.total_bytes());
        assert!(world.stats().refusals > 0);
        assert_eq!(world.cache.trim(0), 0);
        running.pass();
        assert_eq!(running.disk_bytes(), before);
        // No longer in use, it makes room, though its prefetcher is still there.
        drop(in_use);
        world.run("b", &b, 3);
        assert_eq!(world.run("b", &b, 1), 0);
        // And runs on, right, by the window.
        running.pass();
        assert!(running.disk_bytes() > before);
    });
}

#[test]
fn a_smaller_budget_takes_effect_at_once_and_memory_is_given_back() {
    ends(|| {
        let a = model(6, LAYER);
        let world = World::new(homes_bytes(&a));
        world.run("a", &a, 3);
        let home = homes_bytes(&a) / 6;
        assert!(settle(std::time::Duration::from_secs(60)));
        world.cache.set_budget(2 * home);
        let stats = world.cache.stats();
        assert_eq!((stats.held_bytes, stats.units), (2 * home, 2));
        assert_eq!(world.cache.trim(0), 2 * home);
        let pool = world.cache.pinned(&world.device, &riverbed::conf::Conf::default());
        eventually("all pinned memory is free", || {
            pool.trim();
            let stats = pool.stats();
            stats.active_bytes + stats.retired_bytes == 0
        });
        pool.check().unwrap();
    });
}

#[test]
fn another_state_of_the_files_is_another_model() {
    ends(|| {
        let a = model(3, LAYER);
        let world = World::new(10 * MIB);
        world.run("m", &a, 3);
        assert_eq!(world.run("m", &a, 1), 0);
        let bytes = a.file();
        std::fs::remove_file(&a.path).unwrap();
        std::fs::write(&a.path, bytes).unwrap();
        assert!(world.run("m", &a, 1) >= 3 * LAYER as u64);
        // By another name it has homes of its own.
        assert!(world.run("n", &a, 1) >= 3 * LAYER as u64);
    });
}

#[test]
fn residents_come_back_from_ram_if_copies_are_kept_and_from_disk_if_not() {
    ends(|| {
        for keeps in [true, false] {
            let content = Content::new(&[&[100_000], &[90_000]], &[300_000, 50_000]);
            let device = host(64).0;
            let options = RamOptions::new(8 * MIB).keep_ram_copy(keeps);
            let cache = RamCache::with_options(options);
            let mut read = Vec::new();
            for _ in 0..3 {
                let mut options = StreamOptions::new(8 * MIB);
                options.ram = Some((cache.clone(), "model".into()));
                let (model, grouping) = (Arc::clone(&content.model), &content.grouping);
                let before = cache.stats().disk_bytes;
                let loaded = StreamedModel::load(&device, model, grouping, options).unwrap();
                let residents = loaded.residents().unwrap();
                for rest in ["rest0", "rest1"] {
                    assert_eq!(residents.bytes(rest).unwrap(), content.bytes[rest], "{rest}");
                }
                read.push(cache.stats().disk_bytes - before);
                let (stream, mut sums) = (stream(&device), Sums::new(&device));
                for _ in 0..2 {
                    for unit in 0..2 {
                        let lease = loaded.acquire(unit, &stream).unwrap();
                        sums.enqueue(&lease, &content);
                    }
                    loaded.finish_pass(&stream).unwrap().into_result().unwrap();
                    sums.verify();
                    loaded.prefetcher().wait_for_homes();
                }
            }
            let again = if keeps { 0 } else { 350_000 };
            assert_eq!(read, [350_000, again, again], "copies are kept: {keeps}");
            let residents_held = cache.stats().held_bytes > 350_000;
            assert_eq!(residents_held, keeps, "{:?}", cache.stats());
        }
    });
}

#[test]
fn a_home_of_other_tensors_or_files_is_refused() {
    use riverbed::pinned::PinnedPool;
    use riverbed::transfer::{Files, Loader, LoaderOptions, Urgency};
    use riverbed::weights::UnitLayout;

    let (a, b) = (model(2, 5_000), model(2, 5_000));
    let device = host(8).0;
    let pinned = PinnedPool::new(&device, &"pinned_limit_mb:8".parse().unwrap());
    let options = LoaderOptions { chunk_bytes: 64 * KIB, ..LoaderOptions::default() };
    let loader = |content: &Content| {
        Loader::new(&device, &pinned, Files::open(&content.model).unwrap(), options).unwrap()
    };
    let (mut of_a, of_b) = (loader(&a), loader(&b));
    let allocator = riverbed::pool::Allocator::builder(&device).build().unwrap();
    let buffer = allocator.alloc::<u8>(8192, &stream(&device)).unwrap();
    let plan = of_a.plan(&UnitLayout::new(&a.model, &a.units()[0]).unwrap());
    let other = of_a.plan(&UnitLayout::new(&a.model, &a.units()[1]).unwrap());
    for home in [of_b.home(&plan), of_a.home(&other)] {
        let error = of_a.load_buffer(&buffer, &plan, Some(&home), Urgency::Ahead).unwrap_err();
        assert_says(&error.to_string(), &["home", "same tensors of the same files"]);
    }
}
