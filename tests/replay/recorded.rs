//! Traces of real programs: figures known from elsewhere.

use riverbed::replay::{DEVICE, Plan, Route, Setup, read, score};

use crate::{only, recorded};

#[test]
fn the_log_reads_as_its_index_says_and_replays_as_pytorch_places_it() {
    let trace = only(read(&recorded("flux_offload_2streams.csv.gz"), None));
    assert_eq!(trace.name(), "flux_offload_2streams");
    assert_eq!((trace.ops().len(), trace.allocs(), trace.streams()), (17_540, 8770, 2));
    assert_eq!((trace.slots(), trace.live_at_end()), (114, 0));
    assert_eq!(trace.peak_live_bytes(), 1_846_849_162);
    assert_eq!(trace.peak_live_rounded_bytes(), 1_846_853_632);
    assert_eq!(trace.notes(), [""; 0]);
    // Measured on PyTorch 2.15.0's own allocator.
    let (reserved, allocs) = (2_602_565_632, 60);
    let setup = Setup::new(DEVICE);
    let plan = Plan { repeat: 1, ..Plan::default() };
    let score = score(&trace, &setup, &plan, &()).unwrap();
    let fresh = score.fresh.unwrap();
    assert_eq!((fresh.peak_reserved, fresh.device_allocs), (reserved, allocs));
    assert_eq!(fresh.device_frees, 0);
    let warm = score.warm.unwrap();
    assert_eq!((warm.warm_peak_reserved, warm.warm_device_allocs_per_replay), (reserved, 0.0));
}

#[test]
fn the_snapshot_reads_as_an_independent_reader_does() {
    let trace = only(read(&recorded("snapshot_cut.pickle"), None));
    assert_eq!((trace.ops().len(), trace.allocs(), trace.slots()), (426, 330, 235));
    assert_eq!((trace.peak_live_bytes(), trace.allocated_bytes()), (1_940_955_136, 2_627_391_492));
    assert_eq!(trace.live_at_end(), 234);
}

#[test]
fn the_drivers_pool_replays_the_log_by_both_routes() {
    let trace = only(read(&recorded("flux_offload_2streams.csv.gz"), None));
    for (device, route) in [("host", Route::Stream), ("host", Route::Raw), ("sim", Route::Stream)] {
        let conf = "policy:mempool".parse().unwrap();
        let setup = Setup { conf, route, ..Setup::new(device) };
        let score = score(&trace, &setup, &Plan::default(), &()).unwrap();
        assert!(score.ok, "{device}: {:?}", score.failure);
        assert!(score.notes.iter().any(|note| note.contains("is a model here")));
        let fresh = score.fresh.unwrap();
        assert_eq!(
            (fresh.driver_calls["pool_alloc"], fresh.driver_calls["pool_free"]),
            (8770, 8770)
        );
        assert!(fresh.peak_reserved >= trace.peak_live_bytes(), "{device}: {fresh:?}");
    }
}

#[test]
fn the_log_fits_closely_where_free_memory_is_mapped_anew() {
    let trace = only(read(&recorded("flux_offload_2streams.csv.gz"), None));
    let mut setup = Setup::new(DEVICE);
    setup.conf = "expandable_segments:True".parse().unwrap();
    let plan = Plan { repeat: 2, ..Plan::default() };
    let open = score(&trace, &setup, &plan, &()).unwrap();
    let fresh = open.fresh.unwrap();
    // 1.0152 of what is live; PyTorch 2.15.0's expandable segments hold 1.131.
    assert_eq!((fresh.peak_reserved, fresh.device_allocs), (1_874_853_888, 844));
    assert_eq!(fresh.remapped_bytes, 17_647_534_080);
    let warm = open.warm.unwrap();
    assert_eq!((warm.warm_peak_reserved, warm.warm_device_allocs_per_replay), (1_874_853_888, 0.0));
    for call in ["map", "unmap", "create_page", "destroy_page", "reserve"] {
        assert_eq!(warm.warm_driver_calls.get(call), None, "{call}");
    }
    setup.capacity_bytes = Some(trace.peak_live_bytes() / 100 * 102);
    let tight = score(&trace, &setup, &Plan::default(), &()).unwrap();
    assert!(tight.ok, "{:?}", tight.failure);
}
