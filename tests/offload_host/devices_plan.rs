//! One job over several devices, planned.

use riverbed::plan::{
    Budgets, Component, DeviceRates, Job, PlanDevice, Rules, UnitShape, plan, plan_devices,
};

const GB: u64 = 1_000_000_000;

fn device(link_gb: f64, tflops: f64, vram_bytes: u64) -> PlanDevice {
    PlanDevice {
        rates: DeviceRates::of_link(link_gb * 1e9, tflops * 1e12),
        budgets: Budgets::of_vram(vram_bytes),
    }
}

/// Twenty layers of which the first are larger and take no longer.
fn uneven() -> Component {
    let unit = |i: u64| {
        let bytes = if i < 7 { 680_000_000 } else { 283_000_000 };
        UnitShape::new(format!("blocks.{i}"), bytes, 1305.0)
    };
    Component::new("transformer", (0..20).map(unit).collect())
}

fn seconds(component: &Component, range: std::ops::Range<usize>, on: &PlanDevice) -> f64 {
    if range.is_empty() {
        return 0.0;
    }
    let part = Component { units: component.units[range].to_vec(), ..component.clone() };
    let job = Job::of(part, 4);
    let planned = plan(&job, &on.rates, &on.budgets, &Rules::auto());
    planned.map_or(f64::INFINITY, |plan| plan.phases[0].seconds_per_pass)
}

#[test]
fn the_slowest_device_is_as_fast_as_any_boundary_makes_it() {
    let component = uneven();
    for devices in [
        [device(25.0, 90.0, 2 * GB), device(25.0, 90.0, 2 * GB)],
        [device(12.5, 22.0, 4 * GB), device(25.0, 90.0, 2 * GB)],
        [device(25.0, 450.0, 6 * GB), device(12.5, 450.0, 3 * GB)],
    ] {
        let planned =
            plan_devices(&Job::of(component.clone(), 4), &devices, &Rules::auto()).unwrap();
        let best = (0..=20)
            .map(|end| {
                seconds(&component, 0..end, &devices[0]).max(seconds(
                    &component,
                    end..20,
                    &devices[1],
                ))
            })
            .fold(f64::INFINITY, f64::min);
        let slowest = planned.seconds_per_pass(0);
        assert!(slowest <= best * 1.01, "{slowest} {best}");
        assert!(planned.seconds_through(0) <= 2.0 * slowest);
        for (part, device) in planned.parts.iter().zip(&devices) {
            let plan = part.plan.as_ref().unwrap();
            assert!(plan.peak_bytes <= device.budgets.vram_bytes);
            assert_eq!(plan.phases[0].plan.units.len(), part.units[0].len());
        }
        let places: Vec<_> = (0..20).map(|unit| planned.device_of(0, unit).unwrap()).collect();
        assert!(places.is_sorted() && planned.device_of(0, 20).is_none());
        // As data, and the same again.
        let again = plan_devices(&Job::of(component.clone(), 4), &devices, &Rules::auto()).unwrap();
        assert_eq!(
            serde_json::to_string(&again).unwrap(),
            serde_json::to_string(&planned).unwrap()
        );
    }
}

#[test]
fn a_device_too_small_for_any_unit_has_none_and_two_of_them_are_refused() {
    let job = Job::of(uneven(), 4);
    let devices = [device(25.0, 90.0, GB / 10), device(25.0, 90.0, 4 * GB)];
    let planned = plan_devices(&job, &devices, &Rules::auto()).unwrap();
    assert_eq!((planned.parts[0].units[0].len(), planned.parts[0].plan.is_none()), (0, true));
    assert_eq!(planned.parts[1].units[0], 0..20);
    let small = [devices[0].clone(), devices[0].clone()];
    let refused = plan_devices(&job, &small, &Rules::auto()).unwrap_err();
    assert!(refused.needed_bytes > GB / 10 && !refused.reason.is_empty(), "{refused}");
    let none = plan_devices(&job, &[], &Rules::auto()).unwrap_err();
    assert_eq!(none.reason, "there is no device");
}

#[test]
fn every_component_is_divided_and_phases_without_units_are_left_out() {
    let mut job = Job::new("image");
    let encoder = job.component(Component::new(
        "encoder",
        (0..4).map(|i| UnitShape::new(format!("e.{i}"), 100_000_000, 10.0)).collect(),
    ));
    let transformer = job.component(uneven());
    let vae = job.component(Component::new("vae", vec![UnitShape::new("vae", 170_000_000, 50.0)]));
    job.phase("text", encoder, 1, 0).phase("denoise", transformer, 20, 0).phase("vae", vae, 1, 0);
    let devices = [device(25.0, 90.0, 4 * GB), device(25.0, 90.0, 4 * GB)];
    let planned = plan_devices(&job, &devices, &Rules::auto()).unwrap();
    // One unit is on one device alone.
    let with_vae: Vec<_> = planned.phase(2).map(|(device, _)| device).collect();
    assert_eq!(with_vae.len(), 1);
    assert_eq!(planned.device_of(2, 0), Some((with_vae[0], 0)));
    assert_eq!(planned.phase(1).count(), 2);
    for (device, phase) in planned.phase(1) {
        assert_eq!(phase.name, "denoise");
        assert_eq!(phase.plan.units.len(), planned.parts[device].units[1].len());
    }
}
