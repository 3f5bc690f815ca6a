//! Whole traces of real programs: what is held, which driver calls are made, and how little
//! memory is enough.
//!
//! `RIVERBED_TRACES=FOLDER cargo test --release --test golden` compares every trace of the
//! figures that lies in the folder too, among them those too large for the repository.

use std::collections::BTreeMap;
use std::path::PathBuf;

use riverbed::replay::{DEVICE, Plan, Score, Setup, Trace, read, score};

use crate::data;

/// What the original does with a trace under a conf.
#[derive(Debug, serde::Deserialize)]
struct Figures {
    trace: String,
    conf: String,
    peak_live: u64,
    peak_reserved: u64,
    device_allocs: u64,
    device_frees: u64,
    min_capacity_over_live: f64,
}

fn figures() -> Vec<Figures> {
    serde_json::from_slice(&std::fs::read(data("golden/traces.json")).unwrap()).unwrap()
}

/// Where a trace lies, if it is here.
fn file_of(trace: &str) -> Option<PathBuf> {
    let name = format!("{trace}.csv.gz");
    let folders = [Some(data("golden/traces")), Some(data("replay"))];
    let more = std::env::var_os("RIVERBED_TRACES").map(PathBuf::from);
    let folders = folders.into_iter().chain([more]).flatten();
    folders.map(|folder| folder.join(&name)).find(|path| path.exists())
}

fn replay(trace: &Trace, conf: &str, capacity_bytes: Option<u64>) -> Score {
    let conf = conf.parse().unwrap();
    let setup = Setup { conf, capacity_bytes, ..Setup::new(DEVICE) };
    score(trace, &setup, &Plan::default(), &()).unwrap()
}

/// Capacities are tried in steps of 0.005 of the peak of live bytes.
fn completes_within(trace: &Trace, conf: &str, over_live: f64) -> bool {
    let bytes = trace.peak_live_bytes() as f64 * over_live;
    replay(trace, conf, Some(bytes as u64)).ok
}

fn compare(trace: &Trace, figures: &Figures) {
    let Figures { conf, min_capacity_over_live: least, .. } = figures;
    let what = format!("{} under '{conf}'", figures.trace);
    assert_eq!(trace.peak_live_bytes(), figures.peak_live, "{what}");
    let fresh = replay(trace, conf, None).fresh.unwrap();
    assert_eq!(fresh.peak_reserved, figures.peak_reserved, "{what}: peak of reserved bytes");
    assert_eq!(fresh.device_allocs, figures.device_allocs, "{what}: segments taken");
    assert_eq!(fresh.device_frees, figures.device_frees, "{what}: segments given back");
    assert!(completes_within(trace, conf, *least), "{what}: does not fit into {least}");
    let less = least - 0.005;
    assert!(!completes_within(trace, conf, less), "{what}: fits into {less} too");
}

#[test]
fn traces_are_served_as_by_pytorch() {
    let mut by_trace: BTreeMap<String, Vec<Figures>> = BTreeMap::new();
    for figures in figures() {
        by_trace.entry(figures.trace.clone()).or_default().push(figures);
    }
    assert_eq!(by_trace.len(), 9);
    let mut compared = 0;
    for (name, figures) in by_trace {
        let Some(path) = file_of(&name) else { continue };
        let mut traces = read(&path, None).unwrap();
        let trace = traces.remove(0);
        for figures in &figures {
            compare(&trace, figures);
            compared += 1;
        }
    }
    assert!(compared >= 20, "only {compared} figures had a trace to compare with");
}
