//! `riverbed replay`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::process::{Place, Run, fail, json, path, run, succeed};
use super::streaming::assert_says;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/replay").join(name)
}

/// A log of this many pairs of 30 MiB, in a place of its own.
fn log(pairs: usize) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("pairs.csv");
    let pair = "allocate,1,31457280,0\nfree,1,31457280,0\n";
    std::fs::write(&file, format!("Action,Pointer,Size,Stream\n{}", pair.repeat(pairs))).unwrap();
    (place, file)
}

#[test]
fn a_table_has_a_row_for_each_trace_and_the_notes_below() {
    let (trace, snapshot) =
        (recorded("flux_offload_2streams.csv.gz"), recorded("snapshot_cut.pickle"));
    let out = succeed(&["replay", path(&trace), path(&snapshot), "--repeat", "1"]);
    assert_says(&out, &["conf caching on sim", "RES/LIVE", "1.4092", "60/0", "2.42 GiB"]);
    assert_says(&out, &["snapshot_cut", "note: snapshot_cut: 223 block(s) from before"]);
    assert!(!out.contains("FAILED"), "{out}");
}

#[test]
fn json_measures_everything_on_one_line() {
    let (_place, file) = log(50);
    let report = json(&["replay", "--json", "--repeat", "1", path(&file)]);
    assert_eq!((&report["ops"], &report["peak_live"]), (&100.into(), &31_457_280.into()));
    assert_eq!(report["fits"]["1.02"], true);
    assert_eq!(report["min_capacity_over_live"], 1.0);
    for field in ["ns_per_op", "alloc_ns_p50", "ops_per_s_1t", "ops_per_s_2t"] {
        assert!(report[field].is_number(), "{field}: {report}");
    }
    let report = json(&["replay", "--json", "--measure", "fresh", path(&file)]);
    assert!(report.get("ns_per_op").is_none() && report["device_allocs"] == 1, "{report}");
    let report = json(&["replay", "--json", "--measure", "fresh", "--threads", "3", path(&file)]);
    assert!(report["ops_per_s_3t"].is_number(), "{report}");
    let both = succeed(&["replay", "--json", "--measure", "fresh", path(&file), path(&file)]);
    assert_eq!(both.lines().count(), 2);
}

#[test]
fn a_capacity_that_is_too_small_fails_at_an_event_with_the_row_still_shown() {
    let trace = recorded("flux_offload_2streams.csv.gz");
    let failed = run(&["replay", path(&trace), "--capacity", "1.02x"]);
    assert_eq!(failed.code, Some(1), "{}", failed.err);
    assert_says(&failed.out, &["flux_offload_2streams", "FAILED"]);
    assert_says(&failed.err, &["event ", "of 17540", "allocate ", "out of memory", "asked for"]);
    let report = run(&["replay", path(&trace), "--capacity", "1.02x", "--json"]);
    assert_eq!(report.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(
        (&report["ok"], &report["capacity_bytes"]),
        (&false.into(), &1_883_786_145_u64.into())
    );
    succeed(&["replay", path(&trace), "--capacity", "1.25x", "--measure", "fresh"]);
    succeed(&["replay", path(&trace), "--capacity", "3GB", "--measure", "fresh"]);
}

#[test]
fn confs_are_compared_and_the_string_to_paste_is_printed() {
    let (_place, file) = log(3);
    let out = succeed(&["replay", "--compare", path(&file), "--repeat", "1"]);
    assert_says(&out, &["MINCAP", "(default)", "max_split_size_mb:128", "nothing to set"]);
    let conf = ["--conf", "roundup_power2_divisions:[32:1,64:1,>:1]"];
    let out =
        succeed(&[&["replay", "--compare", path(&file), "--repeat", "1"], &conf[..]].concat());
    assert_says(&out, &["RIVERBED_ALLOC_CONF='", "PYTORCH_CUDA_ALLOC_CONF='"]);
    let report = json(&["replay", "--compare", "--json", path(&file), "--repeat", "1"]);
    assert_eq!(report["entries"][0]["rank"], 1);
    assert_eq!(report["entries"][0]["score"]["ok"], true);
    let none = run(&["replay", "--compare", path(&file), "--capacity", "0.5x"]);
    assert_eq!(none.code, Some(1));
    assert_says(&none.err, &["no conf completes pairs"]);
}

#[test]
fn files_that_are_no_traces_are_failures_that_name_them() {
    let place = tempfile::tempdir().unwrap();
    let empty = place.path().join("empty.csv");
    std::fs::write(&empty, "").unwrap();
    fail(&["replay", path(&empty)], 1, &["empty.csv", "empty"]);
    fail(&["replay", path(place.path())], 1, &[path(place.path()), "directory"]);
    fail(&["replay", "/no/such.csv"], 1, &["/no/such.csv"]);
    let evil = place.path().join("evil.pickle");
    std::fs::write(&evil, b"\x80\x04cposix\nsystem\n.").unwrap();
    fail(&["replay", path(&evil)], 1, &["evil.pickle", "byte 2", "posix.system", "refused"]);
    // A good one beside it is not replayed for nothing.
    let (_place, good) = log(1);
    fail(&["replay", path(&good), path(&evil)], 1, &["evil.pickle"]);
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let (_place, file) = log(1);
    let replay = |more: &[&str], words: &[&str]| {
        fail(&[&["replay", path(&file)], more].concat(), 2, words);
    };
    replay(&["--capacity", "x"], &["--capacity", "1.02x"]);
    replay(&["--capacity", "NaNx"], &["--capacity", "1.02x"]);
    replay(&["--capacity", "0"], &["--capacity", "above 0"]);
    replay(&["--capacity", "lots"], &["--capacity", "not a size"]);
    replay(&["--threads", "0"], &["--threads", "1 to 256"]);
    replay(&["--repeat", "0"], &["--repeat"]);
    replay(&["--measure", "most"], &["--measure", "fresh"]);
    replay(&["--conf", "max_split_size_mb:few"], &["max_split_size_mb"]);
    replay(&["--policy", "nobody"], &["nobody", "caching"]);
    replay(&["--device", "gpu"], &["gpu"]);
    replay(&["--compare", "--threads", "2"], &["--compare"]);
    fail(&["replay"], 2, &["TRACE"]);
}

#[test]
fn an_interrupt_ends_a_long_replay_with_its_exit_code() {
    let (_place, file) = log(100_000);
    let place = Place::new();
    let host = ["--device", "host:vram=1GiB"];
    let mut command =
        place.command(&[&["replay", path(&file), "--repeat", "1000"], &host[..]].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The stream's thread is there once the replay has begun.
    super::ends::wait_for_streams(child.id(), 1);
    super::ends::signal(&child, "INT");
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.err);
    assert_says(&run.err, &["interrupted after 0 trace(s)"]);
    assert_eq!(run.out, "");
}

#[test]
fn the_drivers_pool_replays_too_and_is_said_to_be_a_model() {
    let trace = recorded("flux_offload_2streams.csv.gz");
    let arguments = ["replay", path(&trace), "--conf", "policy:mempool", "--measure", "fresh"];
    let out = succeed(&arguments);
    assert_says(&out, &["conf policy:mempool on", "is a model here"]);
    assert!(!out.contains("FAILED"), "{out}");
}
