//! How long a plan takes to make: models of many units, and a whole job.
//!
//! `cargo bench --bench plan`

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use riverbed::plan::{Budgets, Component, DeviceRates, Grains, Job, Rules, UnitShape, plan};

/// Units of unlike bytes and work, each of nine tensors.
fn component(name: &str, count: u64) -> Component {
    let unit = |at: u64| {
        let mib = 1 << 20;
        let parts: Vec<u64> = (0..9).map(|part| (1 + (at * 7 + part * 5) % 23) * mib).collect();
        let bytes = parts.iter().sum();
        let gflop = 200.0 + 150.0 * (at % 5) as f64;
        let grains = Grains::Parts(parts);
        UnitShape { grains, ..UnitShape::new(format!("{name}.{at}"), bytes, gflop) }
    };
    Component::new(name, (0..count).map(unit).collect())
}

fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let rates = DeviceRates::of_link(25e9, 90e12);
    let half = |job: &Job| {
        let bytes = job.components.iter().map(Component::bytes).max().unwrap_or(0);
        Budgets::of_vram(bytes / 2)
    };
    for units in [60, 250, 1000] {
        let job = Job::of(component("layers", units), 28);
        let budgets = half(&job);
        group.bench_with_input(BenchmarkId::new("units", units), &job, |b, job| {
            b.iter(|| plan(job, &rates, &budgets, &Rules::auto()).map(|plan| plan.seconds));
        });
    }
    let mut job = Job::new("three components");
    for (name, units, passes) in [("text", 24, 1), ("denoiser", 60, 28), ("vae", 4, 1)] {
        let at = job.component(component(name, units));
        job.phase(name, at, passes, 1 << 30);
    }
    let budgets = half(&job);
    group.bench_function("job of three components", |b| {
        b.iter(|| plan(&job, &rates, &budgets, &Rules::auto()).map(|plan| plan.seconds));
    });
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
