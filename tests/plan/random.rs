//! Random models, budgets and devices.

use proptest::prelude::*;
use riverbed::plan::{
    Budgets, Component, DeviceRates, Grains, Job, Rules, UnitPlan, UnitShape, plan,
};

use crate::pass_replay::{PassReplay, ReplayUnit};

fn replayed(units: &[UnitPlan], ring_bytes: u64, link: f64) -> Option<f64> {
    let unit = |unit: &UnitPlan| ReplayUnit {
        streamed_bytes: unit.bytes - unit.resident_bytes,
        compute_seconds: unit.compute_seconds,
    };
    let units = units.iter().map(unit).collect();
    PassReplay { units, ring_bytes, bytes_per_second: link, prefetch: true }.steady_seconds()
}

/// The shortest pass of all ways to keep whole units, each with the ring that leaves.
fn best_of_whole_units(units: &[UnitPlan], limit: u64, link: f64) -> f64 {
    let mut best = f64::INFINITY;
    for choice in 0..1u32 << units.len() {
        let keep = |at: usize| choice >> at & 1 == 1;
        let mut kept = units.to_vec();
        for (at, unit) in kept.iter_mut().enumerate() {
            unit.resident_bytes = if keep(at) { unit.bytes } else { 0 };
        }
        let resident: u64 = kept.iter().map(|unit| unit.resident_bytes).sum();
        let Some(ring) = limit.checked_sub(resident) else { continue };
        best = best.min(replayed(&kept, ring, link).unwrap_or(f64::INFINITY));
    }
    best
}

/// How a unit can be divided.
#[derive(Debug, Clone, Copy)]
enum Divided {
    Whole,
    Parts(u64),
    Slices,
}

fn divided() -> impl Strategy<Value = Divided> {
    prop_oneof![Just(Divided::Whole), (1..6u64).prop_map(Divided::Parts), Just(Divided::Slices)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn plans_hold_their_limits_are_above_the_bound_and_near_the_best(
        units in proptest::collection::vec((1..2000u64, 0.0..4.0f64), 1..24),
        how in divided(),
        share in 0.02..1.1f64,
        gb_per_s in 1.0..60.0f64,
        seed in any::<u64>(),
    ) {
        let mib = 1 << 20;
        let link = gb_per_s * 1e9;
        let shape = |(at, &(size, work)): (usize, &(u64, f64))| {
            let bytes = size * mib;
            // Work of about as long as the copy takes.
            let gflop = work * bytes as f64 / link * 1e3;
            let mut unit = UnitShape::new(format!("layers.{at}"), bytes, gflop);
            match how {
                Divided::Whole => unit.grains = Grains::Whole,
                Divided::Slices => {}
                Divided::Parts(count) => {
                    let each = bytes / count;
                    let mut parts = vec![each; count as usize];
                    parts[(seed as usize + at) % count as usize] += bytes - each * count;
                    unit.grains = Grains::Parts(parts);
                }
            }
            unit
        };
        let units: Vec<UnitShape> = units.iter().enumerate().map(shape).collect();
        let component = Component::new("model", units);
        let all = component.bytes();
        let limit = (all as f64 * share) as u64;
        let enough = 2 * component.largest_unit_bytes();
        let job = Job::of(component, 10);
        let rates = DeviceRates::of_link(link, 1e12);
        match plan(&job, &rates, &Budgets::of_vram(limit), &Rules::auto()) {
            Err(refusal) => {
                prop_assert!(limit < enough && limit < all);
                prop_assert_eq!(refusal.needed_bytes, enough.min(all));
                let enough = Budgets::of_vram(refusal.needed_bytes);
                prop_assert!(plan(&job, &rates, &enough, &Rules::auto()).is_ok());
            }
            Ok(plan) => {
                let phase = &plan.phases[0];
                let units = &phase.plan.units;
                let resident: u64 = units.iter().map(|unit| unit.resident_bytes).sum();
                prop_assert!(resident + phase.plan.ring_bytes <= limit);
                prop_assert!(phase.peak_bytes <= limit);
                prop_assert!(phase.seconds_per_pass >= phase.bound_seconds * (1.0 - 1e-9));
                let seconds = replayed(units, phase.plan.ring_bytes, link).unwrap();
                prop_assert!((seconds / phase.seconds_per_pass - 1.0).abs() < 1e-3,
                    "{} planned, {seconds} replayed", phase.seconds_per_pass);
                if units.len() <= 8 {
                    let best = best_of_whole_units(units, limit, link);
                    prop_assert!(seconds <= best * 1.03, "{seconds}, and {best} can be had");
                }
            }
        }
    }
}
