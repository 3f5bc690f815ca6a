//! What conf strings mean for the process pool.

use riverbed::Error;
use riverbed::conf::{Conf, MEMPOOL};
use riverbed::device::Device;
use riverbed::process_pool;

use crate::support::MIB;

#[test]
fn another_policy_is_refused_by_its_key() {
    let device = Device::open("host:vram=64MiB").unwrap();
    for (conf, key) in [
        ("policy:caching", "policy"),
        ("policy:expandable,limit_mb:32", "policy"),
        ("expandable_segments:True", "expandable_segments"),
        ("backend:native", "backend"),
        ("expandable_segments:False,backend:native", "backend"),
    ] {
        match process_pool::install(&device, conf).unwrap_err() {
            Error::Conf { key: named, reason } => {
                assert_eq!(named, key, "{conf}: {reason}");
                assert!(reason.contains("leave the key out"), "{reason}");
            }
            other => panic!("{conf}: {other}"),
        }
    }
    for conf in ["", "policy:mempool", "backend:cudaMallocAsync", "expandable_segments:False"] {
        let pool = process_pool::install(&device, conf).unwrap_or_else(|e| panic!("{conf}: {e}"));
        assert_eq!(pool.conf().policy(), MEMPOOL);
        assert!(pool.unread_keys().is_empty(), "{conf}: {:?}", pool.unread_keys());
    }
}

#[test]
fn keys_without_effect_are_told_of() {
    let device = Device::open("host:vram=64MiB").unwrap();
    let conf =
        "max_split_size_mb:64,pinned_limit_mb:8,limit_mb:32,mempool_allow_opportunistic:True";
    let pool = process_pool::install(&device, conf).unwrap();
    assert_eq!(pool.unread_keys(), ["pinned_limit_mb", "max_split_size_mb"]);
}

#[test]
fn the_smaller_of_the_two_limits_counts() {
    let device = Device::open("host:vram=64MiB").unwrap();
    for (conf, limit) in [
        ("limit_mb:40,per_process_memory_fraction:0.5", 32 * MIB),
        ("limit_mb:8,per_process_memory_fraction:0.5", 8 * MIB),
        ("limit_mb:4096", 4096 * MIB),
    ] {
        let pool = process_pool::install(&device, conf).unwrap();
        assert_eq!(pool.statistics().unwrap().limit_bytes, Some(limit), "{conf}");
    }
    let pool = process_pool::install(&device, "per_process_memory_fraction:1").unwrap();
    assert_eq!(pool.statistics().unwrap().limit_bytes, None);
}

#[test]
fn a_limit_below_a_page_would_be_none_and_is_refused() {
    let device = Device::open("host:vram=64MiB").unwrap();
    for (conf, key) in [
        ("limit_mb:1", "limit_mb"),
        ("per_process_memory_fraction:0", "per_process_memory_fraction"),
    ] {
        let error = process_pool::install(&device, conf).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("2.00 MiB"), "{error}");
    }
}

#[test]
fn the_report_marks_what_is_not_read() {
    let conf: Conf = "limit_mb:32".parse::<Conf>().unwrap().for_process_pool().unwrap();
    let read: Vec<&str> = conf
        .explain_for_process_pool()
        .into_iter()
        .filter(|option| !option.unread)
        .map(|option| option.key)
        .collect();
    assert_eq!(
        read,
        [
            "policy",
            "backend",
            "expandable_segments",
            "limit_mb",
            "per_process_memory_fraction",
            "mempool_release_threshold_mb",
            "mempool_follow_event_dependencies",
            "mempool_allow_opportunistic",
            "mempool_allow_internal_dependencies",
        ]
    );
}
