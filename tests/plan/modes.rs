//! Modes by their names, beside each other and at their least limit.

use riverbed::modes::{Card, Mode, smallest};
use riverbed::plan::{Budgets, Component, DeviceRates, Job, UnitShape, plan};

use crate::cells::shape;

const GB: u64 = 1_000_000_000;

/// A text encoder once and a denoiser 16 times.
fn two_components() -> Job {
    let component = |name: &str, count: usize, bytes: u64, gflop: f64| {
        let unit = |i| UnitShape::new(format!("{name}.{i}"), bytes, gflop);
        Component::new(name, (0..count).map(unit).collect())
    };
    let mut job = Job::new("two");
    let text = job.component(component("text", 8, 1_200_000_000, 300.0));
    let denoiser = job.component(component("denoiser", 10, 1_500_000_000, 2100.0));
    job.phase("text", text, 1, 0).phase("denoise", denoiser, 16, 0);
    job
}

#[test]
fn none_is_fastest_then_auto_then_every_other_mode() {
    let job = two_components();
    let rates = DeviceRates::of_link(25e9, 90e12);
    let mut planned = 0;
    for vram in [4, 12, 16, 25].map(|gb| gb * GB) {
        let card = Card::of(vram);
        let seconds = |name: &str| {
            let rules = Mode::parse(name).unwrap().preset(&card).rules;
            plan(&job, &rates, &Budgets::of_vram(vram), &rules).ok().map(|plan| plan.seconds)
        };
        let auto = seconds("auto").unwrap();
        if let Some(none) = seconds("none") {
            assert!(none <= auto * (1.0 + 1e-9), "{vram}: none {none}, auto {auto}");
        }
        for row in Mode::all() {
            let Some(other) = seconds(row.name) else { continue };
            planned += 1;
            let in_order = row.name == "none" || auto <= other * (1.0 + 1e-6);
            assert!(in_order, "{vram}: auto {auto}, {} {other}", row.name);
        }
        let (stream, blocking) = (seconds("group=1"), seconds("group=1,no-stream"));
        if let (Some(stream), Some(blocking)) = (stream, blocking) {
            assert!(stream <= blocking, "{vram}: {stream} {blocking}");
        }
    }
    assert!(planned > 30, "only {planned} plans were made");
}

#[test]
fn a_limit_of_zero_is_the_smallest_that_is_not_refused() {
    for (job, name) in [(shape("flux-dev"), "vram_limit=0"), (two_components(), "a1111:lowvram")] {
        let rates = DeviceRates::of_link(25e9, 90e12);
        let rules = Mode::parse(name).unwrap().preset(&Card::of(24 * GB)).rules;
        let (limit, found) = smallest(&job, &rates, &Budgets::of_vram(0), &rules).unwrap();
        assert!(found.peak_bytes <= limit && limit < 4 * GB, "{limit}");
        let below = Budgets::of_vram(limit - 1);
        assert!(plan(&job, &rates, &below, &rules).is_err(), "{name}: {limit} is not the least");
    }
}
