//! Shapes, cards and limits.

use riverbed::offload::{DescribeOptions, DescribedJob};
use riverbed::plan::{Budgets, DeviceRates, Job, Rules, plan};

use crate::pass_replay::{PassReplay, ReplayUnit};

pub(crate) const SHAPES: [&str; 8] = [
    "flux-dev",
    "llama3-70b-prefill-4096",
    "llama3-8b-decode",
    "llama3-8b-prefill-2048",
    "qwen-image",
    "sd3.5-large",
    "sdxl-unet",
    "wan2.2-a14b",
];

/// Cards with what they sustain, in TFLOP/s, and their link, in GB/s.
pub(crate) const CARDS: [(&str, f64, f64); 4] =
    [("3060", 22.0, 25.0), ("3090", 45.0, 25.0), ("4090", 90.0, 25.0), ("h100", 450.0, 52.0)];

pub(crate) fn shape(name: &str) -> Job {
    let path = format!("{}/tests/data/shapes/{name}.json", env!("CARGO_MANIFEST_DIR"));
    DescribedJob::open(path, None, Some(20), &DescribeOptions::default()).unwrap().job
}

/// The seconds of a pass and their bound, after the replay gave the same. What is refused for the
/// lack of two slots is planned with one.
fn seconds(job: &Job, link: f64, tflops: f64, vram: u64) -> (f64, f64) {
    let rates = DeviceRates::of_link(link * 1e9, tflops * 1e12);
    let two_slots = 2 * job.components[0].largest_unit_bytes();
    let rules = Rules { single_buffer: vram < two_slots, ..Rules::auto() };
    let plan = plan(job, &rates, &Budgets::of_vram(vram), &rules).unwrap();
    let phase = &plan.phases[0];
    let unit = |unit: &riverbed::plan::UnitPlan| ReplayUnit {
        streamed_bytes: unit.bytes - unit.resident_bytes,
        compute_seconds: unit.compute_seconds,
    };
    let replay = PassReplay {
        units: phase.plan.units.iter().map(unit).collect(),
        ring_bytes: phase.plan.ring_bytes,
        bytes_per_second: link * 1e9,
        prefetch: true,
    };
    let replayed = replay.steady_seconds().unwrap();
    let off = (replayed / phase.seconds_per_pass - 1.0).abs();
    assert!(off < 1e-3, "{}: {} planned, {replayed} replayed", plan.job, phase.seconds_per_pass);
    assert!(phase.peak_bytes <= vram && phase.seconds_per_pass >= phase.bound_seconds - 1e-9);
    (phase.seconds_per_pass, phase.bound_seconds)
}

#[test]
fn a_quarter_half_and_three_quarters_of_each_shape_on_each_card_are_near_the_bound() {
    let (mut near, mut cells) = (0, 0);
    for name in SHAPES {
        let job = shape(name);
        let bytes = job.components[0].bytes();
        for (card, tflops, link) in CARDS {
            for quarters in 1..4 {
                let (seconds, bound) = seconds(&job, link, tflops, bytes * quarters / 4);
                let share = bound / seconds;
                println!("{name} {card} {quarters}/4: {share:.4} {seconds:.4}");
                let least = if name == "sdxl-unet" { 0.72 } else { 0.93 };
                assert!(share >= least, "{name} on {card} at {quarters}/4: {share}");
                cells += 1;
                near += usize::from(share >= 0.99);
            }
        }
    }
    println!("{near} of {cells}");
    assert_eq!(cells, 96);
    assert!(near >= 55, "{near} cells are within 1 % of the bound");
}
