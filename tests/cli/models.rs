//! `riverbed inspect` and `riverbed stream` on small models of every format.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::model_files::{GgufTensor, Value as Pair, gguf, safetensors, shard_index};
use super::process::{json, path, succeed};
use super::streaming::{Content, MIB, assert_says};

/// A run's invariants, whatever the model.
#[track_caller]
pub(crate) fn check_stream(report: &Value, limit: u64, passes: u64) {
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key} in {report}"));
    let seconds = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"));
    assert_eq!(number("limit_bytes"), limit);
    assert!(number("peak_reserved_bytes") <= limit, "{report}");
    assert!(number("peak_reserved_bytes") > 0);
    assert!(number("pinned_peak_bytes") <= number("pinned_budget_bytes"), "{report}");
    assert_eq!(number("passes"), passes);
    assert_eq!(number("mismatches"), 0, "{report}");
    assert_eq!(number("bytes_verified"), passes * number("model_bytes"), "{report}");
    assert_eq!(number("host_waits_steady"), 0, "{report}");
    assert_eq!(number("device_allocs_steady"), 0, "{report}");
    assert!(number("layers") > 0);
    assert!(seconds("planned_seconds_per_pass") >= 0.0 && report["mode"].is_string());
    let phases = report["phases"].as_array().unwrap();
    let planned: u64 = phases.iter().map(|phase| phase["passes"].as_u64().unwrap()).sum();
    assert_eq!(planned, passes, "{report}");
    assert_eq!(report["ladder"]["passes"], passes);
    let list = report["seconds_per_pass"].as_array().unwrap();
    assert_eq!(list.len() as u64, passes);
    assert!(list.iter().all(|seconds| seconds.as_f64().unwrap() > 0.0), "{report}");
    for key in ["compute_seconds", "copy_seconds", "stall_seconds"] {
        assert!(seconds(key) >= 0.0, "{key} in {report}");
    }
    let causes = report["stalls"]["by_cause"].as_object().unwrap();
    let waited: f64 = causes.values().map(|seconds| seconds.as_f64().unwrap()).sum();
    assert!((waited - seconds("stall_seconds")).abs() < 1e-6, "{report}");
    let by_layer = report["stalls"]["by_layer"].as_array().unwrap();
    assert_eq!(by_layer.len() as u64, number("layers"));
    let computed: f64 = by_layer.iter().map(|l| l["compute_seconds"].as_f64().unwrap()).sum();
    assert!((computed - seconds("compute_seconds")).abs() < 1e-6, "{report}");
    let moved: u64 = report["bytes_moved_per_pass"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bytes| bytes.as_u64().unwrap())
        .sum();
    assert!(number("bytes_moved") >= moved, "{report}");
}

pub(crate) fn gguf_model(directory: &Path) -> PathBuf {
    let path = directory.join("small.gguf");
    let tensors: Vec<_> = (0..4)
        .map(|layer| GgufTensor::floats(&format!("blk.{layer}.w"), 100_000 + 7 * layer))
        .chain([GgufTensor::floats("token_embd.weight", 50_000)])
        .collect();
    std::fs::write(&path, gguf(3, &[("general.architecture", Pair::text("llama"))], &tensors))
        .unwrap();
    path
}

pub(crate) fn sharded_model(directory: &Path) -> PathBuf {
    let bytes = |seed: u8| (0..300_000u32).map(|i| (i * 7) as u8 ^ seed).collect::<Vec<u8>>();
    let shape = [300_000u64];
    let mut entries = Vec::new();
    for shard in 0..3u8 {
        let names = [0, 1].map(|half| format!("model.layers.{}.w", 2 * shard + half));
        let data = [bytes(shard), bytes(shard + 100)];
        let tensors = [0, 1].map(|at| (&names[at][..], "U8", &shape[..], &data[at][..]));
        std::fs::write(directory.join(format!("s{shard}.safetensors")), safetensors(&tensors))
            .unwrap();
        entries.extend(names.map(|name| (name, format!("s{shard}.safetensors"))));
    }
    let entries: Vec<_> = entries.iter().map(|(name, file)| (&name[..], &file[..])).collect();
    let path = directory.join("model.safetensors.index.json");
    std::fs::write(&path, shard_index(&entries)).unwrap();
    path
}

#[test]
fn every_format_is_inspected_and_streamed() {
    let directory = tempfile::tempdir().unwrap();
    let content = Content::new(&[&[700_000], &[1, 0], &[900_000, 5]], &[1000, 3_000_000]);
    let shards = tempfile::tempdir().unwrap();
    let cases = [
        (content.path.clone(), "safetensors", 4_601_006, 3, 2),
        (gguf_model(directory.path()), "GGUF", 4 * (450_042), 4, 1),
        (sharded_model(shards.path()), "safetensors", 1_800_000, 6, 0),
        (shards.path().to_path_buf(), "safetensors", 1_800_000, 6, 0),
    ];
    for (model, format, bytes, layers, rest) in cases {
        let model = path(&model);
        let report = json(&["inspect", model, "--json"]);
        assert_eq!(report["format"], format, "{report}");
        assert_eq!(report["model_bytes"], bytes, "{report}");
        assert_eq!(report["layers"].as_array().unwrap().len(), layers);
        assert_eq!(report["rest"].as_array().unwrap().len(), rest);
        let units = ["layers", "rest"].iter().flat_map(|key| report[key].as_array().unwrap());
        let sum: u64 = units.map(|unit| unit["bytes"].as_u64().unwrap()).sum();
        assert_eq!(sum, bytes);
        let text = succeed(&["inspect", model, "--tensors"]);
        assert_says(&text, &[format, "layer", "TENSOR", "DTYPE"]);

        for (passes, prefetch) in [("1", "4"), ("4", "0"), ("4", "1"), ("4", "64")] {
            let base = ["stream", model, "--vram", "8MiB", "--json", "--never", "."];
            let report = json(&[&base[..], &["--passes", passes, "--prefetch", prefetch]].concat());
            check_stream(&report, 8 * MIB, passes.parse().unwrap());
            assert_eq!(report["model_bytes"], bytes);
            assert_eq!(report["format"], format);
            assert_eq!(report["resident_bytes"], 0);
        }
        let text = succeed(&["stream", model, "--vram", "8MiB", "--ram", "1MiB"]);
        assert_says(&text, &["all bytes verified", "VRAM peak", "waited for"]);
    }
}

#[test]
fn the_settings_of_a_run_are_followed() {
    let content = Content::layers(&[&[700_000], &[700_000], &[700_000], &[700_000]]);
    let model = path(&content.path);
    let base = ["stream", model, "--vram", "6MiB", "--json", "--passes", "2", "--never", "layers"];
    let with = |more: &[&str]| {
        let report = json(&[&base[..], more].concat());
        check_stream(&report, 6 * MIB, 2);
        report
    };
    assert_eq!(with(&["--ram", "512KiB"])["pinned_budget_bytes"], 512 << 10);
    assert_eq!(with(&["--prefetch", "0"])["prefetch_depth_units"], 0);
    let slow = with(&["--layer-ms", "3"]);
    assert!(slow["compute_seconds"].as_f64().unwrap() >= 8.0 * 0.003, "{slow}");
    let linked = with(&["--device", "host:vram=16MiB,h2d=100MB/s"]);
    let rate = linked["link_bytes_per_second"].as_f64().unwrap();
    assert!(rate > 0.0 && rate <= 100.5e6, "{linked}");
    assert_eq!(with(&["--conf", "pinned_limit_mb:3"])["pinned_budget_bytes"], 3 * MIB);
    let layers = with(&["--layers", "layers.{i}."]);
    assert_eq!(layers["layers"], 4);
    let planned = with(&["--link", "2GB/s", "--layer-ms", "4"]);
    let seconds = planned["planned_seconds_per_pass"].as_f64().unwrap();
    assert!(seconds >= 4.0 * 0.004, "what is added is planned too: {planned}");
}

#[test]
fn a_model_is_found_by_its_name_among_the_fetched_ones() {
    let place = super::process::Place::new();
    let models = tempfile::tempdir().unwrap();
    let content = Content::layers(&[&[1000]]);
    std::fs::create_dir(models.path().join("tiny")).unwrap();
    std::fs::copy(&content.path, models.path().join("tiny/model.safetensors")).unwrap();
    let run = |models: &Path| {
        let mut command = place.command(&["inspect", "tiny", "--json"]);
        command.env("RIVERBED_MODELS", models).output().unwrap()
    };
    assert!(run(models.path()).status.success());
    let elsewhere = run(&place.cwd());
    assert_eq!(elsewhere.status.code(), Some(1));
    assert_says(&String::from_utf8(elsewhere.stderr).unwrap(), &["tiny"]);
}

#[test]
fn a_model_with_no_known_layers_can_still_be_inspected() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("odd.safetensors");
    let bytes = safetensors(&[("a.w", "U8", &[3], &[1, 2, 3]), ("b.w", "U8", &[1], &[4])]);
    std::fs::write(&file, bytes).unwrap();
    let report = json(&["inspect", path(&file), "--json"]);
    assert_eq!(report["layers"].as_array().unwrap().len(), 0);
    assert_eq!(report["rest"].as_array().unwrap().len(), 2);
    assert_says(&succeed(&["inspect", path(&file)]), &["a.w", "--layers"]);
}

#[test]
fn any_pinned_budget_from_192_kibibytes_on_will_do() {
    let content = Content::layers(&[&[700_000], &[900_000]]);
    for kib in (192..20 * 1024).step_by(640) {
        let ram = format!("{kib}KiB");
        let model = path(&content.path);
        let report = json(&["stream", model, "--vram", "8MiB", "--ram", &ram, "--json"]);
        check_stream(&report, 8 * MIB, 1);
    }
}
