//! `riverbed devices`.

use super::process::{json, succeed};

#[test]
fn the_host_is_always_there_and_absent_devices_say_why() {
    let text = succeed(&["devices"]);
    let report = json(&["devices", "--json"]);
    let devices = report["devices"].as_array().unwrap();
    for kind in ["host", "cuda", "hip"] {
        assert!(text.lines().any(|line| line.starts_with(kind)), "{kind} in {text}");
        let device = devices
            .iter()
            .find(|device| device["name"].as_str().unwrap().starts_with(kind))
            .unwrap_or_else(|| panic!("{kind} in {report}"));
        let detail = device["detail"].as_str().unwrap();
        assert!(!detail.is_empty(), "{kind}");
        if device["available"] == true {
            assert!(device["info"]["total_bytes"].as_u64().unwrap() > 0, "{kind}");
        } else {
            assert_ne!(kind, "host");
            assert!(device["info"].is_null(), "{kind}");
            // Where a vendor's driver really is there, it is not for this test to say.
            if !std::path::Path::new("/dev/nvidiactl").exists()
                && !std::path::Path::new("/dev/kfd").exists()
            {
                assert!(detail.contains("lib") || detail.contains("no "), "{kind}: {detail}");
            }
        }
    }
}

#[test]
fn the_cards_of_the_simulator_are_listed() {
    let text = succeed(&["devices"]);
    let report = json(&["devices", "--json"]);
    for card in riverbed::device::sim::Profile::names() {
        let name = format!("sim:{card}");
        assert!(text.lines().any(|line| line.starts_with(&name)), "{name} in {text}");
        let devices = report["devices"].as_array().unwrap();
        let device = devices.iter().find(|device| device["name"] == *name).unwrap();
        assert_eq!(device["info"]["simulated"], true, "{name}");
    }
}
