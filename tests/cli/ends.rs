//! How the binary ends: help, closed pipes, signals; and that nothing stays behind.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use super::process::{Place, Run, path, succeed};
use super::streaming::{Content, Random, assert_says, eventually};

/// Waits until the process is in its passes: every stream is made, and the file was read for
/// the checksums it is compared with.
pub(crate) fn wait_until_streaming(pid: u32) {
    wait_for_streams(pid, 5);
}

/// Waits until the process has so many streams, and reads nothing for checksums.
///
/// A thread carries the name of the one that made it until it has run far enough to take its
/// own, so a second thread of the first one's name may still be one that reads.
pub(crate) fn wait_for_streams(pid: u32, streams: usize) {
    eventually("the process streams", || {
        let Ok(first) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else { return false };
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
        let names: Vec<String> = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .collect();
        let count = |wanted: &str| names.iter().filter(|name| name.trim() == wanted).count();
        count("riverbed-stream") >= streams
            && count("riverbed-verify") == 0
            && count(first.trim()) == 1
    });
}

fn tasks_count(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(1) == Some(&pid.to_string())
        })
        .collect()
}

#[test]
fn help_has_examples_for_every_subcommand() {
    let text = succeed(&["--help"]);
    assert_says(
        &text,
        &[
            "devices",
            "doctor",
            "conf",
            "inspect",
            "pack",
            "replay",
            "selftest",
            "stream",
            "Exit codes",
        ],
    );
    for command in ["devices", "doctor", "conf", "inspect", "pack", "replay", "selftest", "stream"]
    {
        let text = succeed(&[command, "--help"]);
        assert_says(&text, &["Examples:", &format!("riverbed {command}")]);
    }
    assert_says(&succeed(&["--version"]), &[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let content = Content::layers(&[&[1000], &[2000]]);
    let model = path(&content.path);
    for arguments in [
        &["devices"][..],
        &["conf"],
        &["conf", "--json"],
        &["inspect", model, "--tensors"],
        &["stream", model, "--vram", "6MiB"],
        &["stream", model, "--vram", "6MiB", "--json"],
        &["stream", "--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let place = Place::new();
        let mut command = place.command(arguments);
        let run = Run::from(command.stdout(writer).output().unwrap());
        assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.err);
        assert!(!run.err.contains("panicked"), "{arguments:?}: {}", run.err);
    }
}

#[test]
fn a_message_nobody_reads_does_not_change_the_exit_code() {
    for (arguments, code) in
        [(&["inspect", "/no/such/model"][..], 1), (&["conf", "nonsense:1"], 2), (&["dance"], 2)]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let place = Place::new();
        let status = place.command(arguments).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

fn long_run(place: &Place, content: &Content, more: &[&str]) -> Command {
    let base = ["stream", path(&content.path), "--vram", "8MiB", "--never", "layers"];
    let long = ["--passes", "100000", "--layer-ms", "2"];
    let mut command = place.command(&[&base[..], &long, more].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn an_interrupt_ends_a_run_with_130_and_leaves_nothing() {
    let content = Content::new(&[&[700_000], &[900_000], &[800_000]], &[1000]);
    for name in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let child = long_run(&place, &content, &[]).spawn().unwrap();
        wait_until_streaming(child.id());
        signal(&child, name);
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(130), "{name}: {}", run.err);
        assert_eq!(run.out, "", "{name}");
        assert_says(&run.err, &["interrupted"]);
        assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn an_interrupt_ends_a_run_that_is_still_loading() {
    // The residents alone take a minute over this link.
    let content = Content::new(&[&[1000], &[2000]], &[3_000_000]);
    let place = Place::new();
    let device = ["--device", "host:vram=64MiB,h2d=50kB/s"];
    let child = long_run(&place, &content, &device).spawn().unwrap();
    eventually("the copy stream is there", || tasks_count(child.id()) >= 4);
    signal(&child, "INT");
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.err);
    assert_says(&run.err, &["interrupted while loading"]);
}

#[test]
fn being_killed_at_any_moment_leaves_no_process_and_no_file() {
    let mut random = Random::from_env(9);
    let content = Content::new(&[&[700_000], &[900_000], &[800_000]], &[1000]);
    let place = Place::new();
    for _ in 0..50 {
        let mut child = long_run(&place, &content, &[]).spawn().unwrap();
        // Anywhere from its start to well into the passes.
        std::thread::sleep(std::time::Duration::from_micros(random.below(60_000) as u64));
        let offspring = children(child.id());
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "it ended by itself");
        assert_eq!(offspring, Vec::<String>::new());
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert_eq!(out, "", "no half of a report");
        assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_run_leaves_no_file() {
    let content = Content::new(&[&[700_000], &[900_000]], &[1000]);
    let place = Place::new();
    for arguments in [
        &["stream", path(&content.path), "--vram", "8MiB", "--json"][..],
        &["inspect", path(&content.path)],
        &["devices"],
    ] {
        assert!(place.command(arguments).output().unwrap().status.success());
        assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}
