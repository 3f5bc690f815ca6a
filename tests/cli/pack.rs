//! `riverbed pack`.

use serde_json::Value;

use super::process::{Place, Run, fail, json, path, succeed};
use super::streaming::assert_says;

/// Two short buffers that share room, over a long one, and a file of them.
const SMALL: &str = "id,lower,upper,size\na,0,4,100\nb,0,2,50\nc,2,4,50\n";
/// At most 5 are in use at one moment, but no packing is lower than 6.
const TIGHT: &str = "id,lower,upper,size\n\
    a,0,1,3\nb,0,2,2\nc,1,4,2\nd,1,3,1\ne,2,4,1\nf,2,3,1\ng,3,5,2\nh,4,5,3\n";

fn file(place: &Place, text: &str) -> std::path::PathBuf {
    let file = place.cwd().join("buffers.csv");
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn height_bound_and_gap_are_told_to_people_and_programs() {
    let place = Place::new();
    let file = file(&place, SMALL);
    let text = succeed(&["pack", path(&file)]);
    assert_says(&text, &["3 buffers", "height  150 ", "bound   150 ", "0.0000 %", "optimal"]);
    let value = json(&["pack", path(&file), "--json", "--align", "64"]);
    assert_eq!(value["height_bytes"], 192);
    assert_eq!(value["bound_bytes"], 192);
    assert_eq!(value["verdict"], "optimal");
    assert_eq!(value["gap_percent"], 0.0);
}

#[test]
fn the_offsets_are_written_beside_what_was_read() {
    let place = Place::new();
    let file = file(&place, SMALL);
    let out = place.cwd().join("packed.csv");
    succeed(&["pack", path(&file), "--out", path(&out)]);
    let written = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines[0], "id,lower,upper,size,offset");
    assert_eq!(lines.len(), 4);
    assert!(lines[1].starts_with("a,0,4,100,"), "{written}");
    // What it writes it also reads.
    assert_eq!(json(&["pack", path(&out), "--json"])["height_bytes"], 150);
    fail(&["pack", path(&file), "--out", path(&place.cwd().join("no/such"))], 1, &["cannot be"]);
}

#[test]
fn a_capacity_decides_the_exit_code() {
    let place = Place::new();
    let file = file(&place, SMALL);
    succeed(&["pack", path(&file), "--capacity", "150"]);
    let run: Run = place
        .command(&["pack", path(&file), "--capacity", "149", "--json"])
        .output()
        .unwrap()
        .into();
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert_says(&run.err, &["proved impossible", "149", "150"]);
    let value: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(value["verdict"], "impossible");
}

#[test]
fn without_a_budget_nothing_is_claimed_that_was_not_proved() {
    let place = Place::new();
    let challenging = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/packing/A.1048576.csv");
    let arguments = ["pack", challenging, "--capacity", "1MiB", "--budget", "0"];
    let run: Run = place.command(&arguments).output().unwrap().into();
    assert_eq!(run.code, Some(1));
    assert_says(&run.err, &["not found within the budget", "--budget"]);
    assert_says(&run.out, &["best found"]);
    let limited = ["pack", challenging, "--time-limit", "0", "--json"];
    assert_eq!(json(&limited)["verdict"], "best_found");
}

#[test]
fn a_bound_above_the_peak_load_is_proved_by_search() {
    let place = Place::new();
    let file = file(&place, TIGHT);
    let value = json(&["pack", path(&file), "--json"]);
    assert_eq!((&value["height_bytes"], &value["bound_bytes"]), (&6.into(), &6.into()));
    assert_eq!(value["verdict"], "optimal");
    let run: Run =
        place.command(&["pack", path(&file), "--capacity", "5"]).output().unwrap().into();
    assert_eq!(run.code, Some(1));
    assert_says(&run.err, &["proved impossible"]);
}

#[test]
fn files_that_are_no_buffers_are_refused_by_line() {
    let place = Place::new();
    for (text, words) in [
        ("", "line 1"),
        ("id,lower,upper\n1,2,3\n", "size"),
        ("id,lower,upper,size\na,0,1,8\nb,5,5,8\n", "line 3"),
        ("id,lower,upper,size\na,0,1,eight\n", "eight"),
    ] {
        fail(&["pack", path(&file(&place, text))], 1, &["buffers.csv", words]);
    }
    std::fs::write(place.cwd().join("raw.csv"), [0xff, 0xfe, 0]).unwrap();
    fail(&["pack", path(&place.cwd().join("raw.csv"))], 1, &["UTF-8"]);
    fail(&["pack", "no-such.csv"], 1, &["no-such.csv"]);
    let huge = file(&place, "lower,upper,size\n0,1,18446744073709551615\n");
    fail(&["pack", path(&huge)], 2, &["buffer 0"]);
    fail(&["pack", path(&huge), "--align", "0"], 2, &["--align"]);
    fail(&["pack", path(&huge), "--budget", "much"], 2, &["--budget", "5e9"]);
}

#[test]
fn no_buffers_need_no_memory() {
    let place = Place::new();
    let value = json(&["pack", path(&file(&place, "id,lower,upper,size\n")), "--json"]);
    assert_eq!((&value["height_bytes"], &value["buffers"]), (&0.into(), &0.into()));
}
