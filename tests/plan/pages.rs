//! Device memory in pages, and plans as text.

use riverbed::plan::{Budgets, Component, DeviceRates, Job, Plan, Rules, UnitShape, plan};

fn job(units: u64, bytes: u64) -> Job {
    let unit = |at| UnitShape::new(format!("layers.{at}"), bytes, 1.0);
    Job::of(Component::new("model", (0..units).map(unit).collect()), 4)
}

#[test]
fn what_a_refusal_says_is_needed_will_do() {
    let (rates, page_bytes) = (DeviceRates::of_link(25e9, 90e12), 2 << 20);
    for bytes in [700_160, 1_000_000, 1_048_576, 1_048_577, 3_000_000, 9_999_999] {
        let job = job(5, bytes);
        let at = |vram_bytes| {
            let budgets = Budgets { page_bytes, ..Budgets::of_vram(vram_bytes) };
            plan(&job, &rates, &budgets, &Rules::auto())
        };
        let needed = at(1).unwrap_err().needed_bytes;
        let planned = at(needed).unwrap_or_else(|refusal| panic!("{bytes}: {refusal}"));
        assert!(planned.peak_bytes <= needed, "{bytes}: {planned:?}");
        assert!(at(needed - 1).is_err(), "{bytes}");
    }
}

/// JSON has no number without end, and rounds the last digit of others.
#[test]
fn a_plan_is_read_again_as_it_was_written() {
    let rates = DeviceRates::of_link(25e9, 90e12);
    let budgets = Budgets::of_vram(8_000_000);
    let planned = plan(&job(5, 3_000_000), &rates, &budgets, &Rules::auto()).unwrap();
    let read = Plan::from_json(&planned.to_json()).unwrap();
    assert_eq!((&read.rates, &read.budgets, &read.rules), (&rates, &budgets, &Rules::auto()));
    let [written, read] = [&planned, &read].map(|plan| &plan.phases[0]);
    assert!((read.seconds_per_pass / written.seconds_per_pass - 1.0).abs() < 1e-12);
    let resident =
        |at: usize| (written.plan.units[at].resident_bytes, &written.plan.units[at].name);
    for (at, unit) in read.plan.units.iter().enumerate() {
        assert_eq!((unit.resident_bytes, &unit.name), resident(at));
    }
}
