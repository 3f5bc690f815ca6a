//! Statistics of a stretch of the program, with a peak of its own.

use crate::support::stream;
use crate::{allocator, check, device};

#[test]
fn scopes_nest_and_each_has_its_own_peak() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let alloc = |bytes: usize| allocator.alloc::<u8>(bytes, &stream).unwrap();
    drop(alloc(512 * 100));
    let kept = alloc(512 * 10);
    let outer = allocator.stats_scope();
    drop(alloc(512 * 20));
    let inner = allocator.stats_scope();
    drop((alloc(512 * 3), alloc(512 * 4)));
    drop(kept);
    let grown = alloc(512 * 2);
    let stats = inner.stats();
    assert_eq!((stats.allocated_blocks, stats.freed_blocks), (3, 3));
    assert_eq!((stats.allocated_bytes, stats.freed_bytes), (512 * 9, 512 * 17));
    assert_eq!((stats.peak_blocks, stats.peak_bytes), (2, 512 * 7));
    assert!(stats.peaks_exact);
    drop(inner);
    let stats = outer.stats();
    assert_eq!((stats.allocated_bytes, stats.freed_bytes), (512 * 29, 512 * 37));
    assert_eq!((stats.peak_blocks, stats.peak_bytes), (2, 512 * 20));
    drop(grown);
    let peak = allocator.stats().allocated_bytes.all.peak;
    assert_eq!(peak, 512 * 100, "the allocator's own peak is from before");
    assert_eq!(allocator.stats().active_bytes.all.peak, peak);
    check(&allocator);
}

#[test]
fn overlapping_scopes_and_resets_do_not_disturb_each_other() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let alloc = |bytes: usize| allocator.alloc::<u8>(bytes, &stream).unwrap();
    let first = allocator.stats_scope();
    drop(alloc(512 * 8));
    let second = allocator.stats_scope();
    drop(alloc(512 * 5));
    allocator.reset_peak_stats();
    allocator.reset_accumulated_stats();
    drop(alloc(512 * 2));
    let peaks = |scope: &riverbed::pool::StatsScope| scope.stats().peak_bytes / 512;
    assert_eq!((peaks(&first), peaks(&second)), (8, 5));
    drop(first);
    drop(alloc(512 * 6));
    assert_eq!(peaks(&second), 6);
    assert_eq!(second.stats().allocated_bytes, 512 * 13);
    assert_eq!(allocator.stats().allocated_bytes.all.peak, 512 * 6, "since the reset");
}

#[test]
fn several_threads_are_said_to_make_peaks_inexact() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let elsewhere = |bytes: usize| {
        std::thread::scope(|scope| {
            scope.spawn(|| drop(allocator.alloc::<u8>(bytes, &stream).unwrap())).join().unwrap();
        });
    };
    elsewhere(1000);
    let scope = allocator.stats_scope();
    drop(allocator.alloc::<u8>(512, &stream).unwrap());
    assert!(scope.stats().peaks_exact, "the other thread did nothing since");
    elsewhere(512);
    let held = allocator.alloc::<u8>(512, &stream).unwrap();
    let stats = scope.stats();
    assert_eq!((stats.allocated_blocks, stats.freed_blocks), (3, 2));
    assert!(stats.peak_blocks >= 1 && !stats.peaks_exact, "{stats:?}");
    drop(held);
}
