//! `riverbed selftest`.

use std::fs;
use std::process::Stdio;

use super::ends::signal;
use super::process::{Place, Run, fail, json, path, succeed};
use super::streaming::eventually;

#[test]
fn the_host_passes_in_a_table() {
    let text = succeed(&["selftest", "--device", "host:vram=128MiB", "--quick"]);
    for words in ["CHECKS", "MEASURED", "BARS", "virtual memory", "h2d, pinned", " 0 failed\n"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(text.contains(", 0 skipped, 0 failed"), "the host lacks nothing: {text}");
}

#[test]
fn the_simulator_passes_as_json_and_says_what_it_skips() {
    let report = json(&["selftest", "--device", "sim:1GiB,vmm=off", "--quick", "--json"]);
    assert_eq!(report["failed"], 0);
    assert_eq!(report["quick"], true);
    assert_eq!(report["device"]["name"], "sim:1GiB,vmm=off");
    let checks = report["checks"].as_array().unwrap();
    let count = |outcome| checks.iter().filter(|check| check["outcome"] == outcome).count();
    assert_eq!(report["passed"], count("passed"));
    assert_eq!(report["skipped"], count("skipped"));
    for check in checks {
        assert_eq!(check["outcome"] == "skipped", check["reason"].is_string(), "{check}");
    }
    let check = checks.iter().find(|check| check["name"] == "capacity_counts_a_page_once").unwrap();
    assert!(check["reason"].as_str().unwrap().contains("no virtual memory"), "{check}");
    assert!(!report["measurements"].as_array().unwrap().is_empty());
}

#[test]
fn a_device_that_fails_is_named_with_the_call() {
    let arguments = ["selftest", "--device", "sim:1GiB,fail=create_gate@2", "--quick", "--json"];
    let run: Run = Place::new().command(&arguments).output().unwrap().into();
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(run.err.contains("1 check(s) failed"), "{}", run.err);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let failed: Vec<_> = report["checks"].as_array().unwrap().iter().collect();
    let failed: Vec<_> = failed.iter().filter(|check| check["outcome"] == "failed").collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["finding"]["call"], "create_gate");
    assert_eq!(failed[0]["finding"]["status"], 999);
}

#[test]
fn wrong_devices_and_files_are_refused_before_anything_runs() {
    fail(&["selftest", "--device", "toaster"], 2, &["toaster", "riverbed devices"]);
    fail(&["selftest", "--device", "host:vram=8MiB"], 1, &["64.00 MiB", "8.00 MiB", "free"]);
    let arguments = ["selftest", "--device", "sim", "--save-profile", "no/such/place.json"];
    fail(&arguments, 1, &["no/such/place.json", "cannot be written", "--save-profile"]);
}

#[test]
fn a_saved_profile_opens_as_a_card() {
    let place = Place::new();
    let file = place.cwd().join("card.json");
    fs::write(&file, "what was there before").unwrap();
    let arguments =
        ["selftest", "--device", "sim:rtx3060", "--quick", "--save-profile", path(&file)];
    let run: Run = place.command(&arguments).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.err);
    let device = format!("sim:profile={}", path(&file));
    let report = json(&["selftest", "--device", &device, "--quick", "--json"]);
    let description = report["device"]["description"].as_str().unwrap();
    assert!(description.contains("as measured"), "{description}");
    assert_eq!(place.leftovers(), [file]);
}

#[test]
fn a_profile_that_is_not_reached_leaves_no_file() {
    let place = Place::new();
    let device = "sim:1GiB,fail=create_stream@1";
    let arguments = ["selftest", "--device", device, "--quick", "--save-profile", "card.json"];
    let run: Run = place.command(&arguments).output().unwrap().into();
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
}

#[test]
fn a_temporary_directory_that_is_not_there_is_named_with_the_way_out() {
    let place = Place::new();
    let mut command = place.command(&["selftest", "--device", "host:vram=128MiB", "--quick"]);
    let run: Run = command.env("TMPDIR", "no/such/place").output().unwrap().into();
    assert_eq!(run.code, Some(1), "{}", run.err);
    for words in ["FAILED", "no/such/place", "cannot be written", "set TMPDIR"] {
        assert!(run.out.contains(words), "{words} in {}", run.out);
    }
}

#[test]
fn ctrl_c_ends_it_between_two_checks_with_nothing_left() {
    let place = Place::new();
    let mut command = place.command(&["selftest", "--device", "host:vram=256MiB"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // Its threads are there when it works, and it watches for signals by then.
    let tasks = format!("/proc/{}/task", child.id());
    eventually("the selftest works", || {
        let count = std::fs::read_dir(&tasks).map_or(0, Iterator::count);
        count >= 3
    });
    signal(&child, "INT");
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.code, Some(130), "{}", run.err);
    assert_eq!(run.out, "");
    assert!(run.err.contains("interrupted"), "{}", run.err);
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
}
