//! Traces of real programs: figures known from elsewhere.

use riverbed::replay::{DEVICE, Plan, Setup, read, score};

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
fn the_log_fits_closely_where_free_memory_is_mapped_anew() {
    let trace = only(read(&recorded("flux_offload_2streams.csv.gz"), None));
    let mut setup = Setup::new(DEVICE);
    setup.conf = "expandable_segments:True".parse().unwrap();
    let plan = Plan { repeat: 2, ..Plan::default() };
    let open = score(&trace, &setup, &plan, &()).unwrap();
    let fresh = open.fresh.unwrap();
    // 1.0129 of what is live; PyTorch 2.15.0's expandable segments hold 1.131.
    assert_eq!((fresh.peak_reserved, fresh.device_allocs), (1_870_659_584, 892));
    assert_eq!(fresh.remapped_bytes, 17_190_354_944);
    let warm = open.warm.unwrap();
    assert_eq!((warm.warm_peak_reserved, warm.warm_device_allocs_per_replay), (1_870_659_584, 0.0));
    for call in ["map", "unmap", "create_page", "destroy_page", "reserve"] {
        assert_eq!(warm.warm_driver_calls.get(call), None, "{call}");
    }
    setup.capacity_bytes = Some(trace.peak_live_bytes() / 100 * 102);
    let tight = score(&trace, &setup, &Plan::default(), &()).unwrap();
    assert!(tight.ok, "{:?}", tight.failure);
}
