//! Passes whose units are read from disk each time, by threads of their own: after the first ones
//! nothing from the heap on any thread, nothing from the driver, and no wait of the host but the
//! one at the end of a pass. The only test of its program, so that all it takes can be counted.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/around.rs"]
mod around;
#[path = "support/model_files.rs"]
mod model_files;
#[path = "support/streaming.rs"]
mod streaming;

use std::sync::Arc;

use allocations::{allocated_bytes_by_all, count_no_more, uncounted};
use around::{Around, With};
use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::prefetch::{PrefetchOptions, Prefetcher};
use riverbed::transfer::{Files, Loader, LoaderOptions, Urgency};
use streaming::{Content, KIB, ends, stream, waits};

/// The device's own memory from the heap is not counted.
#[derive(Debug)]
struct Uncounted;

impl Around for Uncounted {
    fn around<T>(&self, _call: &'static str, work: impl FnOnce() -> T) -> T {
        uncounted(work)
    }
}

/// Runs passes over `content`, read as `disk` says with so many units ahead; gives what they
/// take once they are steady: bytes of heap, and calls that take and that wait.
fn taken_by_passes(content: &Content, disk: &str, depth: usize, passes: u64) -> [u64; 4] {
    let driver = HostDriver::new("host", "host:vram=64MiB".parse().unwrap()).unwrap();
    let device = Device::from_driver(Arc::new(With(Uncounted, driver)));
    let pinned = PinnedPool::new(&device, &"pinned_limit_mb:16".parse().unwrap());
    let allocator = Allocator::builder(&device).build().unwrap();
    let compute = stream(&device);
    let ring = allocator.alloc::<u8>(2 * content.largest() as usize, &compute).unwrap();
    let options = LoaderOptions {
        chunk_bytes: 64 * KIB,
        disk: disk.parse().unwrap(),
        ..LoaderOptions::default()
    };
    let files = Files::open(&content.model).unwrap();
    let loader = Loader::new(&device, &pinned, files, options).unwrap();
    loader.wait_for_homes();
    // The threads of streams are the device's.
    for stream in [&compute, loader.stream(), loader.stream_for(Urgency::Demand)] {
        stream.launch_host(Box::new(count_no_more)).unwrap();
    }
    let options = PrefetchOptions { depth, keep_in_ram: false, ..PrefetchOptions::default() };
    let model = Arc::clone(&content.model);
    let prefetcher = Prefetcher::new(model, content.units(), ring, loader, options).unwrap();
    let pass = || {
        for unit in 0..content.units().len() {
            prefetcher.acquire(unit, &compute).unwrap().stream().busy(20_000).unwrap();
        }
        prefetcher.finish_pass(&compute).unwrap().into_result().unwrap();
    };
    let taken = || {
        let sum = |calls: &[Call]| device.calls().sum(calls);
        let pinned = sum(&[Call::AllocPinned, Call::Register]);
        [allocated_bytes_by_all(), sum(Call::ALLOCATING), pinned, waits(&device)]
    };
    (0..10).for_each(|_| pass());
    let before = taken();
    (0..passes).for_each(|_| pass());
    let now = taken();
    std::array::from_fn(|at| now[at] - before[at])
}

#[test]
fn steady_passes_through_the_window_take_nothing_on_any_thread() {
    ends(|| {
        const PASSES: u64 = 30;
        let content = Content::layers(&[
            &[300_000],
            &[1, 5000, 700],
            &[170_001, 9],
            &[0],
            &[130_000, 131_000],
            &[300_000],
        ]);
        for disk in [
            "io_uring,direct=auto",
            "io_uring,direct=off",
            "threads,direct=auto",
            "threads,direct=off",
        ] {
            for depth in [0, 1, PrefetchOptions::AS_FAR_AS_ROOM] {
                let taken = taken_by_passes(&content, disk, depth, PASSES);
                assert_eq!(taken, [0, 0, 0, PASSES], "{disk}, {depth} ahead");
            }
        }
    });
}
