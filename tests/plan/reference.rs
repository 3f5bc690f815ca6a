//! Auto beside what other systems do with the same units, limit and link.

use riverbed::modes::reference::{Policy, pass};
use riverbed::plan::{Budgets, DeviceRates, Job, Rules, plan};

use crate::cells::{CARDS, SHAPES, shape};

/// Seconds of a pass, and of its compute; split where two of the largest unit do not fit, as a
/// refusal says first.
fn auto(job: &Job, rates: &DeviceRates, limit: u64) -> (f64, f64) {
    let split = limit < 2 * job.components[0].largest_unit_bytes();
    let rules = Rules { split, ..Rules::auto() };
    let plan = plan(job, rates, &Budgets::of_vram(limit), &rules).unwrap();
    (plan.phases[0].seconds_per_pass, plan.phases[0].compute_seconds)
}

#[test]
fn auto_is_never_slower_and_half_as_fast_again_where_much_is_copied() {
    let (mut compared, mut much) = (0, 0);
    // By policy: the least and the greatest lead, at half of the pinned rate and at all of it.
    let mut leads = vec![[f64::INFINITY, 0.0, f64::INFINITY, 0.0]; Policy::ALL.len()];
    for name in SHAPES {
        let job = shape(name);
        let component = &job.components[0];
        for (card, tflops, link) in CARDS {
            let rates = DeviceRates::of_link(link * 1e9, tflops * 1e12);
            for quarters in 1..4 {
                let limit = component.bytes() * quarters / 4;
                let own = auto(&job, &rates, limit);
                for (policy, leads) in Policy::ALL.iter().zip(&mut leads) {
                    let reference = |fraction| pass(*policy, component, limit, &rates, fraction);
                    let Some(half) = reference(0.5) else { continue };
                    let full = reference(1.0).map_or(half.seconds, |pass| pass.seconds);
                    // Some take more than their limit; what they took is then ours.
                    let (auto, compute) = match half.peak_bytes > limit {
                        true => auto(&job, &rates, half.peak_bytes),
                        false => own,
                    };
                    let what = format!("{name} on {card} at {quarters}/4, {}", policy.name());
                    let [half_lead, full_lead] = [half.seconds / auto, full / auto];
                    assert!(half_lead >= 1.0 - 1e-9, "{what}: {} against {auto}", half.seconds);
                    compared += 1;
                    let copies = half.copied_bytes as f64 / rates.link_bytes_per_second;
                    if policy.blocks() && copies >= 0.3 * compute {
                        assert!(half_lead >= 1.5, "{what}: only {half_lead} times");
                        much += 1;
                    }
                    *leads = [
                        leads[0].min(half_lead),
                        leads[1].max(half_lead),
                        leads[2].min(full_lead),
                        leads[3].max(full_lead),
                    ];
                }
            }
        }
    }
    for (policy, [least, most, least_full, most_full]) in Policy::ALL.iter().zip(&leads) {
        println!(
            "{:<32} {least:>6.2} to {most:>6.2} times; at the full rate {least_full:.2} to \
             {most_full:.2}",
            policy.name()
        );
    }
    println!("{compared} compared, {much} with much copied");
    assert!(compared > 500 && much > 200, "{compared} compared, {much} with much copied");
}
