//! Units over several devices: each on its own, right bytes, one copy in RAM.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use riverbed::device::{Device, Stream};
use riverbed::offload::{DeviceUnits, MultiDevice, RamCache, StreamOptions};

use super::streaming::{Content, MIB, Sums, assert_says, ends, host, stream};
use super::world::{homes_bytes, model};

/// Two take more than a page of the host device, so that a part of three streams.
const LAYER: usize = 1_200_000;
/// Room for three of them, and to work in.
const LIMIT: u64 = 6 * MIB + 500_000;

fn part(device: &Device, units: Range<usize>, cache: &RamCache) -> DeviceUnits {
    let mut options = StreamOptions::new(LIMIT);
    options.ram = Some((cache.clone(), "model".into()));
    DeviceUnits { device: device.clone(), units, options }
}

/// Runs a pass on all devices, checking the bytes on those that have some.
fn pass(over: &MultiDevice, content: &Content, streams: &[Stream]) {
    let find = |device: &Device| streams.iter().find(|stream| stream.device() == device).unwrap();
    let mut sums: HashMap<String, Sums> = HashMap::new();
    for unit in 0..over.units() {
        let device = over.device_of(unit).unwrap();
        let lease = over.acquire(unit, find(device)).unwrap();
        let name = &content.units()[unit].name;
        assert!(lease.tensors().all(|tensor| tensor.name.starts_with(&name[..])));
        if !device.info().simulated {
            let key = format!("{:p}", find(device));
            sums.entry(key).or_insert_with(|| Sums::new(device)).enqueue(&lease, content);
        }
    }
    for report in over.finish_pass(|device| find(device)).unwrap() {
        report.into_result().unwrap();
    }
    for sums in sums.values_mut() {
        sums.verify();
    }
    over.parts().for_each(|(_, part)| part.prefetcher().wait_for_homes());
}

#[test]
fn units_run_where_they_were_put_with_right_bytes() {
    ends(|| {
        let content = model(9, LAYER);
        let (a, b) = (host(32).0, host(32).0);
        let cache = RamCache::new(homes_bytes(&content));
        let parts = [part(&a, 0..5, &cache), part(&b, 5..9, &cache)];
        let over = MultiDevice::load(&content.model, content.units(), &parts).unwrap();
        assert_eq!(over.units(), 9);
        assert!((0..9).all(|unit| (over.device_of(unit) == Some(&a)) == (unit < 5)));
        let handed: Vec<usize> = (0..9).filter(|&unit| over.hands_over(unit)).collect();
        assert_eq!(handed, [0, 5]);
        let streams = [stream(&a), stream(&b)];
        for _ in 0..4 {
            pass(&over, &content, &streams);
        }
        let read = cache.stats();
        assert_eq!((read.units, read.held_bytes), (9, homes_bytes(&content)));
        // Every limit holds, and each device moved its own units alone.
        for (device, part) in over.parts() {
            let stats = part.allocator().stats();
            assert!(stats.reserved_bytes.all.peak <= LIMIT);
            assert!(device.calls().get(riverbed::device::Call::CopyH2d) > 0);
        }
        let error = over.acquire(5, &streams[0]).unwrap_err();
        assert_says(&error.to_string(), &["stream"]);

        // The boundary moves: what the other device read comes from RAM.
        drop(over);
        let parts = [part(&a, 0..2, &cache), part(&b, 2..9, &cache)];
        let over = MultiDevice::load(&content.model, content.units(), &parts).unwrap();
        for _ in 0..3 {
            pass(&over, &content, &streams);
        }
        assert_eq!(cache.stats().disk_bytes, read.disk_bytes);
    });
}

#[test]
fn host_and_simulated_devices_of_different_speeds_mix() {
    ends(|| {
        let content = model(8, LAYER);
        let devices: Vec<Device> = ["host:vram=32MiB", "sim:rtx3060", "sim:rtx4090"]
            .iter()
            .map(|name| Device::open(name).unwrap())
            .collect();
        let cache = RamCache::new(64 * MIB);
        let ranges = [0..3, 3..4, 4..8];
        let parts: Vec<_> = devices
            .iter()
            .zip(ranges)
            .map(|(device, range)| {
                let mut part = part(device, range, &cache);
                part.options.limit_bytes = 8 * MIB;
                part.options.conf = "pinned_limit_mb:64".parse().unwrap();
                part
            })
            .collect();
        let over = MultiDevice::load(&content.model, content.units(), &parts).unwrap();
        let streams: Vec<Stream> = devices.iter().map(stream).collect();
        for _ in 0..2 {
            pass(&over, &content, &streams);
        }
        let parts: Vec<usize> = over.parts().map(|(_, part)| part.units().len()).collect();
        assert_eq!(parts, [3, 1, 4]);
    });
}

#[test]
fn ranges_that_leave_units_out_are_refused_and_empty_ones_are_none() {
    let content = model(4, 5_000);
    let device = host(8).0;
    let cache = RamCache::new(MIB);
    let load = |ranges: &[Range<usize>]| {
        let parts: Vec<_> =
            ranges.iter().map(|range| part(&device, range.clone(), &cache)).collect();
        MultiDevice::load(&content.model, content.units(), &parts)
    };
    for ranges in
        [&[0..0, 0..3][..], &[0..2, 3..4], &[0..3, 2..4], &[0..3, 3..5], &[0..0, 0..0], &[]]
    {
        let error = load(ranges).unwrap_err();
        assert_says(&error.to_string(), &["units of a device", "in order, each once"]);
    }
    let over = load(&[0..0, 0..4, 4..4]).unwrap();
    assert_eq!(over.parts().len(), 1);
    assert!((0..4).all(|unit| !over.hands_over(unit)));
    assert!(over.device_of(4).is_none());
    let memory = device.memory().unwrap();
    let model = Arc::clone(&content.model);
    drop((over, model));
    assert!(memory.free_bytes < memory.total_bytes);
}
