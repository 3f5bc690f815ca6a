//! `riverbed stream` on a job of several components: its phases in order, by a plan.

use std::path::PathBuf;

use super::models::{check_stream, gguf_model, sharded_model};
use super::process::{fail, json, path, succeed};
use super::streaming::{Content, MIB, assert_says};

/// A text encoder, a denoiser of three passes and a decoder, in three formats; and the job's file.
struct Pipeline {
    file: PathBuf,
    directory: tempfile::TempDir,
    _denoiser: Content,
}

/// Bytes of all three, and of one run of the phases.
const MODEL_BYTES: u64 = 4 * 450_042 + 7_200_000 + 1_800_000;
const RUN_BYTES: u64 = MODEL_BYTES + 2 * 7_200_000;
const PASSES: u64 = 5;

impl Pipeline {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        gguf_model(directory.path());
        sharded_model(directory.path());
        let denoiser = Content::layers(&[&[700_000, 500_000][..]; 6]);
        let job = format!(
            r#"{{"name": "a picture", "components": [
                {{"name": "text", "model": "small.gguf"}},
                {{"name": "denoiser", "model": "{}"}},
                {{"name": "decoder", "model": "model.safetensors.index.json"}}],
              "phases": [
                {{"name": "prompt", "component": "text"}},
                {{"name": "denoise", "component": "denoiser", "passes": 3, "working_bytes": "1MiB"}},
                {{"name": "decode", "component": "decoder", "working_bytes": "4MiB"}}]}}"#,
            path(&denoiser.path)
        );
        let file = directory.path().join("job.json");
        std::fs::write(&file, job).unwrap();
        Self { file, directory, _denoiser: denoiser }
    }

    fn stream<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["stream", path(&self.file), "--link", "10GB/s"], more].concat()
    }
}

#[test]
fn the_phases_of_a_job_run_in_order_by_the_plan_of_any_mode() {
    let pipeline = Pipeline::new();
    for (mode, vram) in [
        ("auto", 14),
        ("none", 20),
        ("a1111:medvram", 14),
        ("sequential", 10),
        ("group=2,no-stream", 10),
        ("disk", 10),
    ] {
        let limit = format!("{vram}MiB");
        let report =
            json(&pipeline.stream(&["--json", "--vram", &limit, "--mode", mode, "--ram", "12MiB"]));
        let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"));
        assert!(number("peak_reserved_bytes") <= vram * MIB, "{report}");
        assert!(number("planned_peak_bytes") <= vram * MIB, "{report}");
        assert_eq!((number("mismatches"), number("bytes_verified")), (0, RUN_BYTES), "{report}");
        assert_eq!((number("model_bytes"), number("passes")), (MODEL_BYTES, PASSES));
        assert_eq!(
            (&report["ladder"]["refusals"], &report["format"]),
            (&0.into(), &"GGUF, safetensors".into())
        );
        assert_eq!(report["mode"], mode.split('=').next().unwrap());
        let phases = report["phases"].as_array().unwrap();
        let named = |phase: &serde_json::Value| {
            let text = |key: &str| phase[key].as_str().unwrap().to_owned();
            (text("name"), text("component"), phase["passes"].as_u64().unwrap())
        };
        let expected =
            [("prompt", "text", 1), ("denoise", "denoiser", 3), ("decode", "decoder", 1)];
        let expected = expected.map(|(name, of, passes)| (name.into(), of.into(), passes));
        assert_eq!(phases.iter().map(named).collect::<Vec<_>>(), expected);
        let layers = report["stalls"]["by_layer"].as_array().unwrap();
        assert_eq!(layers.len() as u64, number("layers"));
        let first = layers[0]["layer"].as_str().unwrap();
        assert!(first.starts_with("text/"), "{first}");
    }
}

#[test]
fn a_job_is_told_to_people_phase_by_phase() {
    let pipeline = Pipeline::new();
    let text = succeed(&pipeline.stream(&["--vram", "14MiB"]));
    assert_says(&text, &["PHASE", "denoise", "PLANNED s", "all bytes verified", "short of memory"]);
    assert_says(&text, &["mode", "auto", "planned", "Why:"]);
}

#[test]
fn what_a_job_cannot_have_is_refused_with_the_way_out() {
    let pipeline = Pipeline::new();
    let refuse = |more: &[&str], code, words: &[&str]| {
        fail(&pipeline.stream(more), code, words);
    };
    refuse(&["--vram", "10MiB", "--mode", "none"], 1, &["all weights are to stay", "--mode auto"]);
    refuse(&["--vram", "10MiB", "--mode", "partial"], 1, &["partial", "worked in", "3.0"]);
    refuse(&["--vram", "14MiB", "--passes", "2"], 2, &["passes", "job.json"]);
    refuse(&["--vram", "14MiB", "--mode", "balansed"], 2, &["did you mean balanced"]);
    let shapes = pipeline.directory.path().join("shapes.json");
    std::fs::write(&shapes, r#"{"name": "s", "units": [{"name": "a", "bytes": 10, "gflop": 1}]}"#)
        .unwrap();
    let words = ["a shape, which has no weights"];
    fail(&["stream", path(&shapes), "--vram", "8MiB"], 1, &words);
}

#[test]
fn a_config_file_of_another_system_says_how() {
    let content = Content::layers(&[&[700_000, 500_000][..]; 6]);
    let config = content.directory.path().join("invokeai.yaml");
    std::fs::write(&config, "device_working_mem_gb: 0.002\nmax_cache_vram_gb: 0.008\n").unwrap();
    let stream = ["stream", path(&content.path), "--config", path(&config), "--json"];
    let report = json(&stream);
    let limit = report["limit_bytes"].as_u64().unwrap();
    check_stream(&report, limit, 1);
    assert_eq!(report["mode"], "partial");
    // What an option says goes over the file.
    let report = json(&[&stream[..], &["--vram", "9MiB", "--mode", "auto"]].concat());
    check_stream(&report, 9 * MIB, 1);
    assert_eq!(report["mode"], "auto");
}
