//! How a replay goes, on traces made by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use riverbed::conf::Conf;
use riverbed::replay::{
    Perturb, Plan, Score, Setup, Stop, Trace, Watch, candidates, contest, score,
};

use crate::{Scratch, assert_says, only};

const MIB: u64 = 1 << 20;

fn trace(lines: &str) -> Trace {
    let text = format!("Action,Pointer,Size,Stream\n{}", lines.replace("; ", "\n"));
    only(Scratch::new().read("t.csv", text))
}

fn setup(limit_bytes: Option<u64>) -> Setup {
    Setup { capacity_bytes: limit_bytes, ..Setup::new("host:vram=4GiB") }
}

fn run(lines: &str, limit_bytes: Option<u64>, plan: &Plan) -> Score {
    score(&trace(lines), &setup(limit_bytes), plan, &()).unwrap()
}

/// Two blocks of 30 MiB after each other.
const REUSE: &str = "allocate,1,31457280,0; free,1,0,0; allocate,2,31457280,0; free,2,0,0";

#[test]
fn replays_that_nearly_repeat_are_measured_by_the_most_that_was_live() {
    let perturb = Some(Perturb { share: 0.5, seed: 1 });
    let score = run(REUSE, None, &Plan { repeat: 3, perturb, ..Plan::default() });
    let perturbed = score.perturbed.unwrap();
    assert_eq!(perturbed.perturbed_replays, 3);
    assert!(perturbed.perturbed_peak_live >= score.peak_live);
    assert!(perturbed.perturbed_peak_reserved >= perturbed.perturbed_peak_live);
}

#[test]
fn a_fresh_replay_counts_exactly_and_a_warm_one_takes_nothing() {
    let score = run(REUSE, None, &Plan { repeat: 3, ..Plan::default() });
    assert!(score.ok && score.failure.is_none());
    let fresh = score.fresh.unwrap();
    assert_eq!((fresh.peak_reserved, fresh.reserved_over_live), (30 * MIB, 1.0));
    assert_eq!((fresh.device_allocs, fresh.device_frees), (1, 0));
    assert_eq!(fresh.driver_calls.get("alloc"), Some(&1));
    let warm = score.warm.unwrap();
    assert_eq!((warm.warm_replays, warm.warm_peak_reserved), (3, 30 * MIB));
    assert_eq!(warm.warm_device_allocs_per_replay, 0.0);
    assert!(warm.warm_driver_calls.is_empty(), "{:?}", warm.warm_driver_calls);
    assert!(score.calls.is_none() && score.capacity.is_none() && score.ops_per_s.is_empty());
}

#[test]
fn a_free_elsewhere_is_over_by_the_next_operation() {
    // The block is used and freed on stream 1 and then wanted on stream 0 again.
    let lines = "allocate,1,31457280,0; free,1,0,1; allocate,2,31457280,0; free,2,0,0";
    for _ in 0..20 {
        let fresh = run(lines, None, &Plan::default()).fresh.unwrap();
        assert_eq!(fresh.device_allocs, 1);
        assert_eq!(fresh.driver_calls.get("record_event"), Some(&1));
    }
    // Memory of one stream does not serve the other.
    let lines = "allocate,1,31457280,0; free,1,0,0; allocate,2,31457280,1; free,2,0,1";
    assert_eq!(run(lines, None, &Plan::default()).fresh.unwrap().device_allocs, 2);
}

#[test]
fn a_replay_that_fails_says_at_which_event_and_why() {
    let lines = "allocate,1,31457280,0; allocate,2,33554432,0; allocate,3,8,0";
    let score = run(lines, Some(40 * MIB), &Plan { capacity: true, ..Plan::default() });
    assert!(!score.ok && score.fresh.is_none() && score.capacity.is_none());
    let failure = score.failure.unwrap();
    assert_says(
        &failure,
        &[
            "event 1 ",
            "of 3",
            "allocate 33554432 bytes",
            "1 block(s) of 30.00 MiB live",
            "out of memory",
        ],
    );
}

#[test]
fn what_is_left_live_is_freed_and_the_next_replay_finds_it() {
    let score = run("allocate,1,31457280,0", None, &Plan { repeat: 2, ..Plan::default() });
    assert_eq!(score.warm.unwrap().warm_device_allocs_per_replay, 0.0);
}

#[test]
fn the_least_capacity_is_found_in_steps() {
    let plan = Plan { capacity: true, ..Plan::default() };
    let capacity = run(REUSE, None, &plan).capacity.unwrap();
    assert_eq!(capacity.min_capacity_over_live, 1.0);
    assert!(capacity.fits.values().all(|&fits| fits), "{:?}", capacity.fits);
    assert!(capacity.ns_per_op_at_min_capacity.is_some());
    // 15 MiB take a segment of 16 MiB, which is 1.0667 of them.
    let capacity = run("allocate,1,15728640,0", None, &plan).capacity.unwrap();
    assert_eq!(capacity.min_capacity_over_live, 1.07);
    let fits: Vec<bool> = capacity.fits.values().copied().collect();
    assert_eq!(fits, [false, false, true, true]);
    // A byte needs a segment of 2 MiB.
    let capacity = run("allocate,1,1,0", None, &plan).capacity.unwrap();
    assert_eq!(capacity.min_capacity_over_live, 0.0);
}

#[test]
fn calls_and_threads_are_measured() {
    let plan = Plan { repeat: 2, per_call: true, threads: vec![1, 3], ..Plan::default() };
    let score = run(REUSE, None, &plan);
    let calls = score.calls.unwrap();
    assert!(calls.alloc_ns_p50 <= calls.alloc_ns_p99 && calls.free_ns_p50 <= calls.free_ns_p999);
    let rates: Vec<_> =
        score.ops_per_s.iter().map(|(name, rate)| (name.as_str(), rate.is_some())).collect();
    assert_eq!(rates, [("ops_per_s_1t", true), ("ops_per_s_3t", true)]);
    // Two threads need twice the memory: a rate that cannot be had is none.
    let plan = Plan { repeat: 1, threads: vec![2], ..Plan::default() };
    let score = run("allocate,1,1073741824,0", Some(3 << 29), &plan);
    assert!(score.ok && score.ops_per_s["ops_per_s_2t"].is_none_or(|rate| rate > 0.0));
}

#[test]
fn scores_as_json_have_the_names_of_the_documentation() {
    let plan =
        Plan { repeat: 1, per_call: true, capacity: true, threads: vec![1, 2], perturb: None };
    let json = serde_json::to_value(run(REUSE, None, &plan)).unwrap();
    let page = include_str!("../../docs/replay.md");
    for name in json.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{name}`")), "docs/replay.md lacks {name}");
    }
    for name in
        ["peer", "trace", "ok", "peak_reserved", "ns_per_op", "free_ns_p999", "ops_per_s_2t"]
    {
        assert!(json.get(name).is_some(), "{name}");
    }
    assert_eq!(json["config"], "caching");
}

/// Ends a replay after so many looks.
struct After(AtomicU64);

impl Watch for After {
    fn went_on(&self, _: u64) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) > 1
    }
}

#[test]
fn a_watch_ends_the_replay_wherever_it_is() {
    let trace = trace(REUSE);
    let plan = Plan { repeat: 1, per_call: true, capacity: true, threads: vec![2], perturb: None };
    for looks in 1..12 {
        let outcome = score(&trace, &setup(None), &plan, &After(AtomicU64::new(looks)));
        assert!(matches!(outcome, Err(Stop::Interrupted)), "{looks}");
    }
}

#[test]
fn a_contest_ranks_by_reserved_memory_and_gives_strings_to_paste() {
    // Rounding 18 MiB up in quarters of a power of two makes 20 of them.
    let lines = "allocate,1,18874368,0; allocate,2,18874368,0; free,1,0,0; free,2,0,0";
    let (trace, setup) = (trace(lines), setup(None));
    let confs = candidates(&setup);
    assert!(confs.len() > 4 && confs[0].to_string().is_empty());
    let plan = Plan { repeat: 1, ..Plan::default() };
    let entries = contest(&trace, &setup, &confs, &plan, &()).unwrap();
    assert_eq!(entries.len(), confs.len());
    let reserved: Vec<u64> =
        entries.iter().map(|entry| entry.score.fresh.as_ref().unwrap().peak_reserved).collect();
    assert!(reserved.is_sorted() && reserved[0] < *reserved.last().unwrap(), "{reserved:?}");
    assert!(entries.iter().enumerate().all(|(at, entry)| entry.rank == at + 1));
    let plain = entries.iter().find(|entry| entry.conf == "max_split_size_mb:128").unwrap();
    assert_eq!(plain.pytorch_conf.as_deref(), Some("max_split_size_mb:128"));
}

#[test]
fn a_contest_keeps_the_conf_given_and_does_not_paste_ours_into_pytorch() {
    let conf: Conf = "limit_mb:512".parse().unwrap();
    let setup = Setup { conf, ..setup(None) };
    let confs = candidates(&setup);
    assert!(confs.iter().all(|conf| conf.is_set("limit_mb")));
    let plan = Plan::default();
    let entries = contest(&trace(REUSE), &setup, &confs[..1], &plan, &()).unwrap();
    assert_eq!((entries[0].conf.as_str(), &entries[0].pytorch_conf), ("limit_mb:512", &None));
}
