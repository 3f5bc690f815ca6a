//! What the selftest measures of a simulated device is what its profile says.

use riverbed::device::Call;
use riverbed::device::Device;
use riverbed::device::sim::{Cost, Profile, SimDriver, SimSpec, Sourced};
use riverbed::selftest::{Options, Report, run};

/// A card on which no two calls cost the same.
fn odd_card() -> Profile {
    let mut profile = Profile::built_in("h100").unwrap();
    let sourced = |value| Sourced { value, source: "made up".into() };
    profile.h2d_gb_per_s = sourced(31.0);
    profile.d2h_gb_per_s = sourced(17.0);
    profile.memory_gb_per_s = sourced(1234.0);
    profile.start_us = sourced(5.5);
    profile.capacity_bytes.value = 4 << 30;
    for (index, &call) in Call::ALL.iter().enumerate() {
        let known = profile.cost(call).unwrap().us_per_gib;
        let us_per_gib = if known > 0.0 { 1000.0 + 77.0 * index as f64 } else { 0.0 };
        let base_us = 1.0 + index as f64 * 0.37;
        let cost = Cost { base_us, us_per_gib, source: "made up".into() };
        profile.costs.insert(call.name().into(), cost);
    }
    profile
}

fn measured(profile: Profile) -> Report {
    let driver = SimDriver::new("sim", SimSpec::new(profile)).unwrap();
    let report = run(&Device::from_driver(driver), Options::new(true), &()).unwrap();
    assert_eq!(report.failed, 0, "{:#?}", report.checks);
    assert_eq!(report.memory_before, report.memory_after);
    report
}

/// Nanoseconds of `call` about `bytes`; mapping and setting access are one.
fn price(profile: &Profile, call: Call, bytes: u64) -> u64 {
    let cost = |call| profile.cost(call).unwrap().ns(bytes);
    match call {
        Call::Map | Call::SetAccess => cost(Call::Map) + cost(Call::SetAccess),
        call => cost(call),
    }
}

fn assert_near(what: &str, found: f64, expected: f64) {
    let near = (found - expected).abs() <= expected * 2e-3 + 1e-9;
    assert!(near, "{what}: {found} was measured of {expected}");
}

#[test]
fn what_is_measured_of_a_simulated_card_is_its_profile() {
    for card in [odd_card(), Profile::built_in("rtx4090").unwrap()] {
        let text = measured(card.clone()).profile().unwrap();
        let found = Profile::from_json(&text).unwrap();
        assert_eq!(found.capacity_bytes.value, card.capacity_bytes.value);
        assert_eq!(found.granularity_bytes.value, card.granularity_bytes.value);
        assert_eq!(found.copy_engines.value, card.copy_engines.value);
        assert_near("h2d", found.h2d_gb_per_s.value, card.h2d_gb_per_s.value);
        assert_near("d2h", found.d2h_gb_per_s.value, card.d2h_gb_per_s.value);
        assert_near("memory", found.memory_gb_per_s.value, card.memory_gb_per_s.value);
        assert_near("start_us", found.start_us.value, card.start_us.value);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let measured = |call: &&Call| json["costs"].get(call.name()).is_some();
        assert!(Call::ALL.iter().filter(measured).count() >= 39, "{text}");
        for &call in Call::ALL.iter().filter(measured) {
            for bytes in [0, 2 << 20, 64 << 20] {
                let (found, expected) = (price(&found, call, bytes), price(&card, call, bytes));
                // Each of two points may be off by the nanosecond they are rounded to.
                let near = found.abs_diff(expected) <= 40 + expected / 500;
                assert!(near, "{call} of {bytes}: {found} ns were measured of {expected}");
            }
        }
    }
}

#[test]
fn a_profile_names_what_it_was_measured_on() {
    let report = measured(odd_card());
    let text = report.profile().unwrap();
    let profile: serde_json::Value = serde_json::from_str(&text).unwrap();
    for call in ["alloc", "copy_h2d", "set_access", "pool_alloc", "register"] {
        let source = profile["costs"][call]["source"].as_str().unwrap();
        assert!(source.contains("selftest on sim"), "{call}: {source}");
    }
    let names: Vec<&str> = report.measurements.iter().map(|m| m.name.as_str()).collect();
    for name in ["record_event", "h2d, pinned, 1.00 MiB", "unmap, 2 MiB"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    // Nothing of the simulator varies but the time this crate's own code takes.
    for measured in report.measurements.iter().filter(|m| !m.name.starts_with("cached")) {
        assert_eq!((measured.low, measured.high), (measured.median, measured.median));
    }
}
