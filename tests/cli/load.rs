//! `riverbed load`: every byte of a model on the device, or an error and nothing kept.

use super::models::{gguf_model, sharded_model};
use super::process::{fail, json, path, succeed};
use super::streaming::{Content, MIB, assert_says};

#[test]
fn every_format_is_loaded_whole() {
    let content = Content::new(&[&[700_000], &[1, 0], &[900_000, 5]], &[1000, 3_000_000]);
    let (directory, shards) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cases = [
        (content.path.clone(), "safetensors", 4_601_006),
        (gguf_model(directory.path()), "GGUF", 4 * 450_042),
        (sharded_model(shards.path()), "safetensors", 1_800_000),
    ];
    for (model, format, bytes) in cases {
        let model = path(&model);
        let report = json(&["load", model, "--verify", "--json"]);
        let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"));
        assert_eq!((number("model_bytes"), number("bytes_verified")), (bytes, bytes));
        assert_eq!((number("mismatches"), &report["format"]), (0, &format.into()));
        assert!((bytes..=number("limit_bytes")).contains(&number("reserved_bytes")), "{report}");
        let rate = |key: &str| report[key].as_f64().unwrap();
        let loaded = rate("bytes_per_second") * rate("seconds");
        assert!((loaded / bytes as f64 - 1.0).abs() < 1e-6, "{report}");
        assert!(rate("link_busy_seconds") <= rate("seconds"), "{report}");
        let text = succeed(&["load", model, "--verify"]);
        assert_says(&text, &["loaded in", "all of it", "waited for"]);
        assert!(!succeed(&["load", model]).contains("verified"));
    }
}

#[test]
fn files_are_read_as_asked_and_the_report_says_how() {
    let content = Content::layers(&[&[3_000_000], &[3_000_000]]);
    let model = path(&content.path);
    for command in [&["load", model, "--verify"][..], &["stream", model, "--vram", "8MiB"]] {
        let disk = ["--json", "--disk", "threads,direct=off,depth=3"];
        let report = json(&[command, &disk].concat());
        assert_eq!(report["bytes_verified"], 6_000_000, "{report}");
        let (disk, number) = (&report["disk"], |key: &str| report["disk"][key].as_u64());
        assert_eq!((&disk["backend"], &disk["direct"]), (&"threads".into(), &false.into()));
        assert_eq!((number("depth"), disk["why"].is_string()), (Some(3), true), "{disk}");
    }
    let report = json(&["stream", model, "--vram", "8MiB", "--no-verify", "--json"]);
    assert_eq!((&report["bytes_verified"], &report["mismatches"]), (&0.into(), &0.into()));
    let text = succeed(&["stream", model, "--vram", "8MiB", "--no-verify"]);
    assert_says(&text, &["not asked for", "read by"]);
}

#[test]
fn budgets_are_kept_while_loading() {
    let content = Content::layers(&[&[3_000_000], &[3_000_000]]);
    let model = path(&content.path);
    let report = json(&[
        "load",
        model,
        "--vram",
        "8MiB",
        "--ram",
        "512KiB",
        "--device",
        "host:vram=1GiB",
        "--json",
        "--verify",
    ]);
    assert_eq!(report["limit_bytes"], 8 * MIB);
    assert!(report["pinned_peak_bytes"].as_u64().unwrap() <= 512 << 10, "{report}");
    assert_eq!(report["bytes_verified"], 6_000_000);
}

#[test]
fn what_cannot_be_loaded_is_refused_with_the_way_out() {
    let content = Content::layers(&[&[3_000_000], &[3_000_000]]);
    let model = path(&content.path);
    fail(&["load", model, "--vram", "4MiB"], 1, &["the whole model", "4.00 MiB", "stream"]);
    fail(&["load", model, "--device", "host:vram=4MiB"], 1, &["the whole model", "stream"]);
    fail(&["load", model, "--ram", "4KiB"], 1, &["pinned"]);
    fail(&["load", model, "--device", "sim"], 1, &["sim", "use 'host'"]);
    fail(&["load", model, "--vram", "much"], 2, &["--vram", "much"]);
    fail(&["load", model, "--conf", "nonsense:1"], 2, &["nonsense"]);
    fail(&["load", model, "--disk", "tape"], 2, &["--disk", "tape", "io_uring"]);
    fail(&["load", model, "--disk", "depth=0"], 2, &["--disk", "depth", "256"]);
    fail(&["load", "no/such/model"], 1, &["no/such/model"]);
    let cut = content.path.with_file_name("cut.safetensors");
    let bytes = std::fs::read(&content.path).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    fail(&["load", path(&cut)], 1, &["cut.safetensors"]);
}
