//! What somebody waits for goes first: on a simulated link, where waiting can be read off a
//! clock.

use riverbed::device::{Device, Event, Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::transfer::{Files, Loader, LoaderOptions, Urgency};

use super::streaming::{MIB, ends};
use super::weights::Weights;

#[test]
fn a_small_load_wanted_now_waits_for_no_more_than_what_is_under_way() {
    ends(|| {
        let weights = Weights::new(&[51 << 10, 24 << 20]);
        let device = Device::open("sim:h100").unwrap();
        let pinned = PinnedPool::new(&device, &"pinned_limit_mb:256".parse().unwrap());
        let options = LoaderOptions { in_flight_bytes: Some(16 * MIB), ..LoaderOptions::default() };
        let files = Files::open(&weights.model).unwrap();
        let mut loader = Loader::new(&device, &pinned, files, options).unwrap();
        assert_ne!(loader.stream_for(Urgency::Demand), loader.stream());
        let (small, bulk) = (weights.layout(&[0]), weights.layout(&[1]));
        let (small, bulk) = (loader.plan(&small), loader.plan(&bulk));
        let homes = [&small, &bulk].map(|plan| loader.home(plan));
        let allocator = Allocator::builder(&device).build().unwrap();
        let home = Stream::new(&device, Priority::Normal).unwrap();
        let to = [&small, &bulk]
            .map(|plan| allocator.alloc::<u8>(plan.len_bytes() as usize, &home).unwrap());
        let mut load = |which: usize, urgency| {
            let plan = [&small, &bulk][which];
            let load = loader.load_buffer(&to[which], plan, Some(&homes[which]), urgency);
            load.unwrap();
            loader.stream_for(urgency).clone()
        };
        // Both homes are read.
        load(0, Urgency::Ahead).synchronize().unwrap();
        load(1, Urgency::Ahead).synchronize().unwrap();

        let (begun, ended) =
            (Event::with_timing(&device).unwrap(), Event::with_timing(&device).unwrap());
        let mut waits_ns = Vec::new();
        for _ in 0..400 {
            load(1, Urgency::Ahead); // 24 MiB each: 10 GB in all.
            if waits_ns.len() % 4 == 0 {
                std::thread::yield_now();
            }
            begun.record(&home).unwrap();
            let stream = load(0, Urgency::Demand);
            ended.record(&stream).unwrap();
            ended.synchronize().unwrap();
            waits_ns.push(ended.elapsed_ns_since(&begun).unwrap());
        }
        waits_ns.sort_unstable();
        let p99 = waits_ns[waits_ns.len() * 99 / 100];
        assert!(p99 <= 400_000, "{p99} ns; the median is {}", waits_ns[waits_ns.len() / 2]);
        loader.stream().synchronize().unwrap();
    });
}
