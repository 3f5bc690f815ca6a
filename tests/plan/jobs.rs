//! Jobs of several components: peaks, what is held, and modes beside each other.

use riverbed::plan::{
    Budgets, Component, DeviceRates, Granularity, Job, Plan, Retention, Rules, UnitShape, plan,
};

const GIB: u64 = 1 << 30;

fn component(name: &str, count: usize, bytes: u64, gflop: f64) -> Component {
    let unit = |i| UnitShape::new(format!("{name}.{i}"), bytes, gflop);
    Component::new(name, (0..count).map(unit).collect())
}

/// Qwen-Image as its manual runs it: 16.6 GB of text encoder, 40.86 GB of transformer, 0.25 GB of
/// VAE, and 2 GiB to work in.
fn qwen_image(bytes_a_parameter: u64) -> Job {
    let mut job = Job::new("qwen-image");
    let text = job.component(component("text_encoder", 28, 16_600_000_000 / 28, 200.0));
    let transformer = 20_430_401_088 * bytes_a_parameter;
    let denoiser = job.component(component("transformer", 60, transformer / 60, 1218.0));
    let vae = job.component(component("vae", 1, 250_000_000, 5000.0));
    job.phase("text", text, 1, 2 * GIB);
    job.phase("denoise", denoiser, 40, 2 * GIB);
    job.phase("decode", vae, 1, 2 * GIB);
    job
}

fn rules(mode: &str, granularity: Granularity, retention: Retention) -> Rules {
    Rules { mode: mode.into(), granularity, retention, ..Rules::auto() }
}

fn with(job: &Job, rules: &Rules, vram: u64) -> Plan {
    let rates = DeviceRates::of_link(25e9, 90e12);
    plan(job, &rates, &Budgets::of_vram(vram), rules).unwrap()
}

#[test]
fn peaks_of_a_whole_job_are_the_weights_held_and_what_is_worked_in() {
    let near = |plan: &Plan, gib: f64| {
        let peak = plan.peak_bytes as f64 / GIB as f64;
        assert!((peak / gib - 1.0).abs() < 0.05, "{} peaks at {peak} GiB", plan.rules.mode);
    };
    let all = rules("none", Granularity::Layer, Retention::All);
    let component = rules("model", Granularity::Component, Retention::OneComponent);
    near(&with(&qwen_image(2), &all, 80 * GIB), 56.0);
    near(&with(&qwen_image(2), &component, 80 * GIB), 40.0);
    near(&with(&qwen_image(1), &component, 80 * GIB), 21.0);
}

#[test]
fn what_is_to_stay_whole_and_does_not_fit_is_refused_with_what_would_do() {
    let job = qwen_image(2);
    let rates = DeviceRates::of_link(25e9, 90e12);
    let bytes: Vec<u64> = job.components.iter().map(Component::bytes).collect();
    for (mode, needed) in [
        (rules("none", Granularity::Layer, Retention::All), bytes.iter().sum::<u64>() + 2 * GIB),
        (rules("model", Granularity::Component, Retention::OneComponent), bytes[1] + 2 * GIB),
    ] {
        let refusal = plan(&job, &rates, &Budgets::of_vram(24 * GIB), &mode).unwrap_err();
        assert_eq!(refusal.limit_bytes, 24 * GIB);
        assert_eq!(refusal.needed_bytes, needed);
        let enough = Budgets::of_vram(refusal.needed_bytes);
        assert!(plan(&job, &rates, &enough, &mode).is_ok());
        assert!(refusal.ways_out.iter().any(|way| way.change == "--mode auto"));
    }
}

#[test]
fn nothing_beats_all_resident_and_auto_beats_every_other_way() {
    let mut job = Job::new("two");
    let text = job.component(component("text", 24, 400_000_000, 100.0));
    let denoiser = job.component(component("denoiser", 30, 500_000_000, 700.0));
    job.phase("text", text, 1, 0).phase("denoise", denoiser, 16, 0);
    let all = with(&job, &rules("none", Granularity::Layer, Retention::All), u64::MAX >> 8);
    let sequential =
        Rules { ring_units: Some(2), ..rules("sequential", Granularity::Layer, Retention::None) };
    let blocking =
        Rules { prefetch: false, ring_units: Some(1), single_buffer: true, ..sequential.clone() };
    let group =
        Rules { ring_units: Some(2), ..rules("group", Granularity::Group(2), Retention::None) };
    let low_and_high =
        Retention::Watermarks { low_bytes: 3_000_000_000, high_bytes: 15_500_000_000 };
    let balanced = rules("balanced", Granularity::Layer, low_and_high);
    let model = rules("model", Granularity::Component, Retention::OneComponent);
    let partial = rules("partial", Granularity::Layer, Retention::OneComponent);
    let modes = [sequential.clone(), blocking.clone(), group.clone(), balanced, model, partial];
    for vram in [2_000_000_000, 8_000_000_000, 16_000_000_000, 20_000_000_000, 25_000_000_000] {
        let auto = with(&job, &Rules::auto(), vram).seconds;
        assert!(all.seconds <= auto * (1.0 + 1e-9), "{vram}: {auto}");
        for mode in &modes {
            let rates = DeviceRates::of_link(25e9, 90e12);
            let Ok(plan) = plan(&job, &rates, &Budgets::of_vram(vram), mode) else { continue };
            println!("{vram} {}: {:.3} (auto {auto:.3})", mode.mode, plan.seconds);
            assert!(auto <= plan.seconds * (1.0 + 1e-6), "{vram} {}: {}", mode.mode, plan.seconds);
            assert!(plan.peak_bytes <= vram);
        }
        assert!(with(&job, &group, vram).seconds <= with(&job, &blocking, vram).seconds);
    }
}
