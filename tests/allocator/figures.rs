//! The figures by PyTorch's names, and as a table.

use riverbed::pool::{AllocOptions, Allocator, Lifetime, PrivatePoolOptions};

use crate::support::stream;
use crate::{allocator, device};

#[test]
fn every_name_of_pytorch_is_there_and_nothing_else() {
    let device = device(64);
    let mut expected = Vec::new();
    let parts = ["current", "peak", "allocated", "freed"];
    for name in [
        "allocation",
        "segment",
        "active",
        "inactive_split",
        "allocated_bytes",
        "reserved_bytes",
        "active_bytes",
        "inactive_split_bytes",
        "requested_bytes",
    ] {
        for pool in ["all", "small_pool", "large_pool"] {
            expected.extend(parts.map(|part| format!("{name}.{pool}.{part}")));
        }
    }
    for name in ["oversize_allocations", "oversize_segments"] {
        expected.extend(parts.map(|part| format!("{name}.{part}")));
    }
    for name in [
        "num_alloc_retries",
        "num_ooms",
        "num_oom_rejections",
        "num_sync_all_streams",
        "num_device_alloc",
        "num_device_free",
        "max_split_size",
    ] {
        expected.push(name.to_string());
    }
    expected.sort_unstable();
    let found: Vec<String> = allocator(&device, "").pytorch_stats().into_keys().collect();
    assert_eq!(found, expected);
}

#[test]
fn the_figures_are_those_of_the_allocator() {
    let device = device(128);
    let (allocator, stream) = (allocator(&device, "max_split_size_mb:20"), stream(&device));
    let pool = allocator.private_pool(PrivatePoolOptions::default());
    let _small = allocator.alloc::<u8>(1000, &stream).unwrap();
    let _large = pool.on(&stream).unwrap().alloc::<u8>(24 << 20).unwrap();
    allocator.alloc::<u8>(500 << 20, &stream).unwrap_err();
    let stats = allocator.pytorch_stats();
    for (name, figure) in [
        ("allocated_bytes.all.current", 1024 + (24 << 20)),
        ("requested_bytes.small_pool.peak", 1000),
        ("reserved_bytes.all.current", 26 << 20),
        ("reserved_bytes.large_pool.allocated", 24 << 20),
        ("reserved_bytes_by_private_pools.0_1.current", 24 << 20),
        ("oversize_segments.current", 1),
        ("num_ooms", 1),
        ("num_device_alloc", 2),
        ("max_split_size", 20 << 20),
    ] {
        assert_eq!(stats[name], figure, "{name}");
    }
}

#[test]
fn the_table_shows_what_there_is() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let weight = AllocOptions::default().lifetime(Lifetime::Weight);
    let _weight = allocator.alloc_with::<u8>(3 << 20, &stream, &weight).unwrap();
    let text = allocator.memory_summary();
    let words = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in: {text}")).split_whitespace().count()
    };
    assert_eq!(words("reserved"), 1 + 2 * 4, "{text}");
    assert_eq!(words("segments"), 1 + 4, "{text}");
    assert!(text.contains("  weight") && !text.contains("scratch"), "{text}");
    assert!(text.contains("20.00 MiB") && text.ends_with("out of memory 0\n"), "{text}");
}

#[test]
fn a_key_that_nothing_acts_on_is_refused_and_not_passed_over() {
    let device = device(64);
    let build = |conf: &str| Allocator::builder(&device).conf_str(conf).unwrap().build();
    let refused = build("graph_capture_record_stream_reuse:True").unwrap_err().to_string();
    assert!(refused.contains("graph_capture_record_stream_reuse:True"), "{refused}");
    assert!(refused.contains("leave the key out"), "{refused}");
    build("graph_capture_record_stream_reuse:False").unwrap();
    build("pinned_use_background_threads:True").unwrap();
}
