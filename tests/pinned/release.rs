//! When memory goes back to the system.

use std::time::Duration;

use riverbed::device::Call;
use riverbed::pinned::{PinnedOptions, PinnedPool};

use crate::support::{stream, wait_until};
use crate::{host, pool};

#[test]
fn trimming_gives_back_all_that_is_free_wherever_it_lies() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:64");
    let kept = pool.alloc(1 << 20).unwrap();
    drop([3, 5, 7].map(|mib| pool.alloc(mib << 20).unwrap()));
    assert_eq!(pool.stats().cached_bytes, (16 << 20));
    assert_eq!(pool.trim(), 15 << 20);
    let stats = pool.stats();
    assert_eq!((stats.reserved_bytes, stats.slabs), (2 << 20, 1), "small ones share a slab");
    assert_eq!(pool.trim(), 0);
    drop(kept);
    assert_eq!(pool.trim(), 2 << 20);
}

#[test]
fn idle_slabs_go_when_they_are_old_and_no_sooner() {
    let device = host();
    let with_age = |idle| {
        let options = PinnedOptions::default().idle_trim(idle);
        PinnedPool::with_options(&device, &"pinned_limit_mb:64".parse().unwrap(), options)
    };
    let (young, old, never) =
        (with_age(Some(Duration::from_secs(3600))), with_age(Some(Duration::ZERO)), with_age(None));
    for pool in [&young, &old, &never] {
        drop(pool.alloc(3 << 20).unwrap());
    }
    assert_eq!(old.maintain(), 3 << 20);
    // Unless the machine is short of memory just now, which no test can rule out.
    assert!([0, 3 << 20].contains(&young.maintain()));
    assert!([0, 3 << 20].contains(&never.maintain()));
}

#[test]
fn the_reserved_region_does_not_age() {
    let device = host();
    let options = PinnedOptions::default().idle_trim(Some(Duration::ZERO));
    let conf = "pinned_limit_mb:64,pinned_reserve_segment_size_mb:8".parse().unwrap();
    let pool = PinnedPool::with_options(&device, &conf, options);
    drop(pool.alloc(1 << 20).unwrap());
    assert_eq!(pool.stats().reserved_bytes, 8 << 20);
    assert!([0, 8 << 20].contains(&pool.maintain()));
    pool.trim();
    assert_eq!(pool.stats().reserved_bytes, 0);
}

#[test]
fn a_slab_that_is_on_its_way_out_counts_until_it_is_gone() {
    let device = host();
    let stream = stream(&device);
    let pool = pool(&device, "pinned_limit_mb:8,pinned_max_cached_size_mb:1");
    for _ in 0..50 {
        let block = pool.alloc(5 << 20).unwrap();
        block.record_use(&stream).unwrap();
        drop(block);
        stream.synchronize().unwrap();
    }
    let stats = pool.stats();
    assert!(stats.reserved_peak_bytes <= 8 << 20, "{stats:?}");
    wait_until("all is unpinned", || pool.stats().reserved_bytes == 0);
    assert_eq!(device.calls().get(Call::Register), 50, "none was kept");
    pool.check().unwrap();
}
