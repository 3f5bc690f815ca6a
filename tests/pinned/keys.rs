//! Each key of the conf does what it says.

use riverbed::device::{Call, Device, Gate};
use riverbed::pinned::PinnedPool;

use crate::support::{stream, wait_until};
use crate::{host, pool};

fn calls_under(device: &Device, conf: &str) -> (u64, u64) {
    let count = || (device.calls().get(Call::Register), device.calls().get(Call::AllocPinned));
    let before = count();
    drop(pool(device, conf).alloc(20 << 20).unwrap());
    (count().0 - before.0, count().1 - before.1)
}

#[test]
fn the_source_of_slabs_is_as_said_and_registered_memory_where_nothing_is() {
    let (host, sim) = (host(), Device::open("sim:1GiB").unwrap());
    assert_eq!(calls_under(&host, "pinned_limit_mb:64"), (1, 0));
    assert_eq!(calls_under(&sim, "pinned_limit_mb:64"), (0, 1));
    let alias =
        "pinned_limit_mb:64,pinned_use_hip_host_register:True,pinned_num_register_threads:8";
    assert_eq!(calls_under(&sim, alias), (1, 0));
    assert_eq!(
        calls_under(&host, "pinned_limit_mb:64,pinned_use_cuda_host_register:False"),
        (0, 1)
    );
}

#[test]
fn one_reserved_region_is_taken_first_and_within_the_budget() {
    let device = host();
    let reserve = |budget_mib: u64| {
        let conf = format!("pinned_limit_mb:{budget_mib},pinned_reserve_segment_size_mb:16");
        let pool = pool(&device, &conf);
        let blocks = [1, 3].map(|mib| pool.alloc(mib << 20).unwrap());
        let reserved_bytes = pool.stats().reserved_bytes;
        drop(blocks);
        reserved_bytes
    };
    assert_eq!(reserve(64), 16 << 20);
    assert_eq!(reserve(10), 10 << 20);
}

#[test]
fn blocks_above_the_cached_size_go_when_copies_are_done() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:64,pinned_max_cached_size_mb:2");
    drop(pool.alloc(2 << 20).unwrap());
    drop(pool.alloc(2 << 20).unwrap());
    assert_eq!(pool.stats().reserved_bytes, 2 << 20, "cached");
    drop(pool.alloc((2 << 20) + 1).unwrap());
    wait_until("it is gone", || pool.stats().reserved_bytes == 2 << 20);
    let nothing = PinnedPool::new(&device, &"pinned_max_cached_size_mb:0".parse().unwrap());
    drop(nothing.alloc(1).unwrap());
    wait_until("it is gone", || nothing.stats().reserved_bytes == 0);
}

#[test]
fn a_thread_in_the_background_asks_events_and_callers_do_not() {
    let device = Device::open("host:vram=4MiB").unwrap();
    let (stream, gate) = (stream(&device), Gate::new(&device).unwrap());
    let pool = pool(&device, "pinned_limit_mb:64,pinned_use_background_threads:True");
    stream.wait_gate(&gate, 1).unwrap();
    let block = pool.alloc(1 << 20).unwrap();
    block.record_use(&stream).unwrap();
    drop(block);
    let asked = || device.calls().get(Call::QueryEvent);
    wait_until("it is asked for", || asked() > 3);
    assert_eq!(pool.stats().retired_bytes, 1 << 20);
    gate.open(1).unwrap();
    wait_until("it is back", || pool.stats().retired_bytes == 0);
    let before = asked();
    drop(pool.alloc(1 << 20).unwrap());
    assert_eq!(asked(), before);
    pool.check().unwrap();
}

#[test]
fn statistics_have_pytorchs_names() {
    let pool = pool(&host(), "pinned_limit_mb:64");
    let block = pool.alloc(5 << 20).unwrap();
    drop(pool.alloc(100).unwrap());
    let stats = pool.pytorch_stats();
    let expected = [
        ("num_host_alloc", 2),
        ("num_host_free", 0),
        ("allocations.current", 2),
        ("allocated_bytes.current", 7 << 20),
        ("allocated_bytes.allocated", 7 << 20),
        ("allocated_bytes.freed", 0),
        ("active_requests.current", 1),
        ("active_requests.allocated", 2),
        ("active_requests.freed", 1),
        ("active_bytes.current", 5 << 20),
        ("host_alloc_time.count", 2),
        ("host_free_time.count", 0),
    ];
    for (name, value) in expected {
        assert_eq!(stats.get(name), Some(&value), "{name} of {stats:?}");
    }
    let prefixes = ["allocations", "allocated_bytes", "active_requests", "active_bytes"];
    let parts = ["current", "peak", "allocated", "freed"];
    let times = ["total", "max", "min", "count", "avg"];
    assert_eq!(stats.len(), 2 + prefixes.len() * parts.len() + 2 * times.len());
    drop(block);
    assert_eq!(pool.trim(), 7 << 20);
    assert_eq!(pool.pytorch_stats()["allocated_bytes.freed"], 7 << 20);
    assert_eq!(pool.pytorch_stats()["num_host_free"], 2);
}

#[test]
fn write_combined_memory_is_apart_from_other_memory() {
    let pool = pool(&host(), "pinned_limit_mb:64");
    drop(pool.alloc(1 << 20).unwrap());
    let mut block = pool.alloc_write_combined(1 << 20).unwrap();
    assert!(block.is_pinned());
    block.fill(3);
    drop(block);
    assert_eq!(pool.stats().slabs, 2);
    drop(pool.alloc_write_combined(1 << 20).unwrap());
    assert_eq!(pool.stats().slabs, 2, "it is used again");
    assert_eq!(pool.trim(), 4 << 20);
}
