//! `riverbed plan`: figures of known shapes, held against a replay that knows nothing of the
//! planner; refusals and their ways out; what is printed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::model_files::safetensors;
use super::models::gguf_model;
use super::pass_replay::{PassReplay, ReplayUnit};
use super::process::{Place, fail, json, path, run, succeed};
use super::streaming::{Content, assert_says};

fn shape(name: &str) -> String {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shapes");
    path(&shapes.join(format!("{name}.json"))).to_owned()
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"))
}

fn bytes(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("{key} in {report}"))
}

/// What is true of every plan; its replay is as long as it says.
#[track_caller]
fn check(report: &Value) {
    assert_eq!(report["feasible"], true, "{report}");
    assert!(bytes(report, "peak_bytes") <= bytes(report, "limit_bytes"), "{report}");
    let (seconds, bound) = (number(report, "seconds_per_pass"), number(report, "bound_seconds"));
    assert!(seconds >= bound * (1.0 - 1e-9), "{seconds} s, the bound is {bound} s");
    assert!(!report["reason"].as_str().unwrap().is_empty());
    assert_eq!(report["mode"], "auto");
    assert!(report["link_bound"].is_boolean());
    let units = report["units"].as_array().unwrap();
    let sum = |key: &str| units.iter().map(|unit| bytes(unit, key)).sum::<u64>();
    assert!(sum("resident_bytes") <= bytes(report, "resident_bytes"));
    assert_eq!(sum("bytes") - sum("resident_bytes"), bytes(report, "streamed_bytes"));
    let waits = seconds - number(report, "compute_seconds");
    assert!((waits - number(report, "stall_seconds")).abs() < 1e-6 * seconds, "{report}");

    let unit = |unit: &Value| ReplayUnit {
        streamed_bytes: bytes(unit, "bytes") - bytes(unit, "resident_bytes"),
        compute_seconds: number(unit, "compute_seconds"),
    };
    let replay = PassReplay {
        units: units.iter().map(unit).collect(),
        ring_bytes: bytes(report, "ring_bytes"),
        bytes_per_second: number(report, "link_bytes_per_second"),
        prefetch: true,
    };
    let replayed = replay.steady_seconds().expect("every unit fits the ring");
    let off = (replayed / seconds - 1.0).abs();
    assert!(off < 1e-3, "replayed in {replayed} s, planned {seconds} s");
}

/// Plans a shape over a link given in GB/s and compute in TFLOP/s.
#[track_caller]
fn plan(name: &str, vram: &str, link: &str, tflops: &str, more: &[&str]) -> Value {
    let (shape, link) = (shape(name), format!("{link}GB/s"));
    let given = ["plan", &shape, "--vram", vram, "--link", &link, "--tflops", tflops, "--json"];
    let report = json(&[&given, more].concat());
    check(&report);
    report
}

#[test]
fn known_shapes_take_at_most_what_is_known_to_do() {
    for (name, vram, link, tflops, most) in [
        ("flux-dev", "4GB", "25", "90", 0.945),
        ("flux-dev", "6GB", "25", "90", 0.865),
        ("flux-dev", "8GB", "25", "90", 0.830),
        ("flux-dev", "8GB", "52", "450", 0.314),
        ("flux-dev", "16GB", "52", "450", 0.168),
        ("qwen-image", "8GB", "25", "90", 1.360),
        ("qwen-image", "16GB", "25", "90", 1.032),
        ("qwen-image", "22GB", "25", "90", 0.815),
        ("sd3.5-large", "1GB", "25", "90", 0.633),
    ] {
        let report = plan(name, vram, link, tflops, &[]);
        let seconds = number(&report, "seconds_per_pass");
        assert!(seconds <= most, "{name} in {vram}: {seconds} s, not {most} s");
    }
}

#[test]
fn a_video_model_hides_its_copies_in_two_units_of_memory() {
    let report = plan("wan2.2-a14b", "1.5GB", "12.5", "45", &[]);
    let waits = number(&report, "stall_seconds") / number(&report, "seconds_per_pass");
    assert!(waits < 1e-6, "{report}");
    assert_eq!(report["link_bound"], false);
}

#[test]
fn decoding_is_said_to_be_link_bound() {
    let report = plan("llama3-8b-decode", "8GB", "25", "90", &[]);
    let seconds = number(&report, "seconds_per_pass");
    assert!((0.280..=0.300).contains(&seconds), "{seconds} s");
    assert_eq!(report["link_bound"], true);
    let shape = shape("llama3-8b-decode");
    let text = succeed(&["plan", &shape, "--vram", "8GB", "--link", "25GB/s", "--tflops", "90"]);
    assert_says(&text, &["link bound", "would make a pass"]);
    assert!(!text.contains("hide behind"), "{text}");
}

#[test]
fn a_limit_below_two_units_is_refused_with_ways_out_that_work() {
    for (name, vram, needed, enough) in [
        ("flux-dev", "1.30GB", 1_359_325_184, "--vram 1.360GB"),
        ("sdxl-unet", "1.5GB", 1_652_400_000, "--vram 1.653GB"),
    ] {
        let shape = shape(name);
        let given = ["plan", &shape, "--vram", vram, "--link", "25GB/s", "--tflops", "90"];
        let words = ["are needed", "--split", "--single-buffer", enough, "s a pass"];
        fail(&given, 1, &words);
        let refused = run(&[&given[..], &["--json"]].concat());
        assert_eq!(refused.code, Some(1), "{}", refused.err);
        let refused: Value = serde_json::from_str(&refused.out).unwrap();
        assert_eq!((&refused["feasible"], &refused["mode"]), (&false.into(), &"auto".into()));
        assert_eq!(bytes(&refused, "needed_bytes"), needed);
        assert!(bytes(&refused, "limit_bytes") < needed);
        assert_says(refused["suggestion"].as_str().unwrap(), &["--split", "--single-buffer"]);
        assert!(!refused["reason"].as_str().unwrap().is_empty());
        let ways = refused["ways_out"].as_array().unwrap();
        for option in ["--split", "--single-buffer"] {
            let way = ways.iter().find(|way| way["change"] == option).expect(option);
            let report = plan(name, vram, "25", "90", &[option]);
            let (told, planned) =
                (number(way, "seconds_per_pass"), number(&report, "seconds_per_pass"));
            assert!((told / planned - 1.0).abs() < 1e-9, "{option}: {told} s, then {planned} s");
        }
        plan(name, &needed.to_string(), "25", "90", &[]);
        plan(name, enough.trim_start_matches("--vram "), "25", "90", &[]);
    }
}

#[test]
fn people_get_groups_a_picture_and_reasons() {
    let shape = shape("flux-dev");
    let text = succeed(&["plan", &shape, "--vram", "6GB", "--link", "25GB/s", "--tflops", "90"]);
    assert_says(
        &text,
        &[
            "double_blocks.0 .. 18",
            "single_blocks.0 .. 37",
            "below which no plan is",
            "1 GB more",
            "copies ",
            "compute ",
            "waits ",
            "ring ",
            "Why:",
        ],
    );
    assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
    // The picture is of the pass that was planned.
    let seconds = text.lines().find_map(|line| line.strip_prefix("a pass "));
    let seconds = seconds.unwrap().trim().split(':').next().unwrap();
    assert!(text.lines().any(|line| line.starts_with("  ") && line.ends_with(seconds)), "{text}");
}

#[test]
fn a_simulated_card_brings_its_link_costs_and_memory() {
    let shape = shape("flux-dev");
    let auto = json(&["plan", &shape, "--vram", "auto", "--device", "sim:rtx4090", "--json"]);
    let (limit, card) = (bytes(&auto, "limit_bytes"), 24 << 30);
    assert_eq!(limit, card - (512 << 20));
    assert!(bytes(&auto, "peak_bytes") <= limit);
    assert_eq!(number(&auto, "link_bytes_per_second"), 25e9);
    assert_eq!(number(&auto, "flop_per_second"), 90e12);
    assert!(auto["notes"][0].as_str().unwrap().contains("margin"), "{auto}");
    let given = ["plan", &shape, "--vram", "8GB", "--device", "sim:rtx4090", "--json"];
    let on_card = json(&given);
    let bare = plan("flux-dev", "8GB", "25", "90", &[]);
    assert!(number(&on_card, "seconds_per_pass") > number(&bare, "seconds_per_pass"));
    let unused = json(&[&given[..], &["--tokens", "9"]].concat());
    assert_says(&unused["notes"].to_string(), &["--tokens has no effect"]);
    let slower = json(&[&given[..], &["--link", "12.5GB/s", "--tflops", "45"]].concat());
    assert_eq!(number(&slower, "link_bytes_per_second"), 12.5e9);
    assert_eq!(number(&slower, "flop_per_second"), 45e12);
}

#[test]
fn a_model_is_planned_from_its_header_and_overrides_are_heard() {
    let content = Content::new(&[&[700_000, 9], &[700_000, 9], &[900_000]], &[1000]);
    let model = path(&content.path);
    let given = ["plan", model, "--link", "1GB/s", "--tflops", "0.001", "--json"];
    let with = |more: &[&str]| json(&[&given[..], more].concat());
    check(&with(&["--vram", "2MB", "--passes", "4"]));
    let resident = |report: &Value, name: &str| {
        let units = report["units"].as_array().unwrap();
        let unit =
            units.iter().find(|unit| unit["name"] == name).unwrap_or_else(|| panic!("{name}"));
        (bytes(unit, "resident_bytes"), bytes(unit, "bytes"))
    };
    let never = with(&["--vram", "2MB", "--never", r"layers\.0", "--split"]);
    assert_eq!(resident(&never, "layers.0").0, 0);
    let own = with(&["--unit", r"layers\.\d\.w0", "--vram", "3MB", "--always", r"layers\.1\.w0"]);
    let (stays, all) = resident(&own, "layers.1.w0");
    assert_eq!(stays, all);
    let directory = tempfile::tempdir().unwrap();
    let gguf = gguf_model(directory.path());
    let report = json(&[
        "plan",
        path(&gguf),
        "--vram",
        "1MB",
        "--link",
        "1GB/s",
        "--tflops",
        "1",
        "--tokens",
        "512",
        "--tables",
        "host",
        "--json",
    ]);
    check(&report);
    let fp8 = json(&[
        "plan",
        &shape("flux-dev"),
        "--vram",
        "2GB",
        "--link",
        "25GB/s",
        "--tflops",
        "90",
        "--dtype",
        "fp8",
        "--json",
    ]);
    check(&fp8);
    assert_eq!(bytes(&fp8, "weights_bytes"), 11_837_283_328);
    assert!((number(&fp8, "seconds_per_pass") - 0.8265).abs() < 1e-4, "{fp8}");
}

#[test]
fn a_job_is_planned_phase_by_phase() {
    let job = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/jobs/flux-image.json");
    let given = ["plan", job, "--vram", "12GB", "--link", "25GB/s", "--tflops", "90"];
    let report = json(&[&given[..], &["--json"]].concat());
    check(&report);
    let phases = report["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["prompt", "denoise", "decode"]);
    assert_eq!(
        (&phases[1]["component"], &phases[1]["passes"]),
        (&"transformer".into(), &28.into())
    );
    assert_eq!(phases[1]["seconds_per_pass"], report["seconds_per_pass"]);
    assert_eq!(bytes(&phases[1], "working_bytes"), 1 << 30);
    for phase in phases {
        assert!(bytes(phase, "peak_bytes") <= bytes(&report, "limit_bytes"), "{phase}");
        let held = ["resident_bytes", "ring_bytes", "held_bytes", "working_bytes"];
        let sum: u64 = held.iter().map(|key| bytes(phase, key)).sum();
        assert!(sum <= bytes(&report, "limit_bytes"), "{phase}");
    }
    let seconds: f64 = phases.iter().map(|phase| number(phase, "seconds")).sum();
    assert!((seconds / number(&report, "seconds") - 1.0).abs() < 1e-6, "{report}");
    assert_says(&succeed(&given), &["PHASE", "denoise", "text", "3 components"]);
    fail(&[&given[..], &["--passes", "3"]].concat(), 2, &["passes", "flux-image.json"]);
}

#[test]
fn modes_are_known_by_their_names_and_none_is_faster_than_auto() {
    let job = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/jobs/flux-image.json");
    let given = ["plan", job, "--vram", "25GB", "--link", "25GB/s", "--tflops", "90"];
    let seconds = |mode: &str| {
        let report = json(&[&given[..], &["--json", "--mode", mode]].concat());
        assert_eq!(report["mode"], mode.split('=').next().unwrap(), "{report}");
        assert!(bytes(&report, "peak_bytes") <= bytes(&report, "limit_bytes"), "{report}");
        number(&report, "seconds")
    };
    let auto = seconds("auto");
    for mode in ["model", "sequential", "group=4", "balanced", "a1111:medvram", "a1111:lowvram"] {
        assert!(auto <= seconds(mode) * (1.0 + 1e-9), "{mode}");
    }
    assert!(seconds("group=4") < seconds("group=4,no-stream"));
    let text = succeed(&[&given[..], &["--mode", "group=4,no-stream"]].concat());
    assert_says(&text, &["mode group", "both in turn"]);
    fail(&[&given[..], &["--mode", "none"]].concat(), 1, &["none", "all weights"]);
    let ambiguous = [&given[..], &["--mode", "medvram"]].concat();
    fail(&ambiguous, 2, &["a1111:medvram", "sdnext:medvram"]);
    fail(&[&given[..], &["--mode", "disk"]].concat(), 2, &["disk", "--disk"]);
    let smallest = json(&[
        "plan",
        job,
        "--mode",
        "vram_limit=0",
        "--link",
        "25GB/s",
        "--tflops",
        "90",
        "--json",
    ]);
    assert!(smallest["notes"].to_string().contains("the least that will do"), "{smallest}");
    assert!(bytes(&smallest, "peak_bytes") <= bytes(&smallest, "limit_bytes"), "{smallest}");
}

#[test]
fn config_files_of_other_systems_are_heard_and_options_go_over_them() {
    let place = Place::new();
    let config = place.cwd().join("invokeai.yaml");
    std::fs::write(&config, "enable_partial_loading: true\ndevice_working_mem_gb: 4\n").unwrap();
    let shape = shape("flux-dev");
    let given = ["plan", &shape, "--device", "sim:rtx4090", "--config", path(&config), "--json"];
    let report = json(&[&given[..], &["--ram", "64GB"]].concat());
    assert_eq!((&report["mode"], bytes(&report, "limit_bytes")), (&"partial".into(), 24 << 30));
    assert_eq!(bytes(&report["phases"][0], "working_bytes"), 4 << 30);
    let over = ["--ram", "64GB", "--working-mem", "1GiB", "--vram", "12GB"];
    let over = json(&[&given[..], &over].concat());
    assert_eq!(bytes(&over["phases"][0], "working_bytes"), 1 << 30);
    assert_eq!(bytes(&over, "limit_bytes"), 12_000_000_000);
    std::fs::write(&config, "device_working_mem_gb: much\n").unwrap();
    fail(&given, 1, &["invokeai.yaml", "device_working_mem_gb"]);
}

/// What is told of tables, and of a model that has none but a head.
#[test]
fn tables_that_stand_in_the_way_are_a_way_out() {
    let rows = vec![0; 2_000_000];
    let layer = vec![0; 400_000];
    let shapes: [&[u64]; 2] = [&[1000, 1000], &[500, 400]];
    let tensors = [
        ("model.embed_tokens.weight", "BF16", shapes[0], &rows[..]),
        ("model.layers.0.w", "BF16", shapes[1], &layer[..]),
        ("model.layers.1.w", "BF16", shapes[1], &layer[..]),
        ("lm_head.weight", "BF16", shapes[1], &layer[..]),
    ];
    let place = Place::new();
    let file = place.cwd().join("small.safetensors");
    std::fs::write(&file, safetensors(&tensors)).unwrap();
    let given = ["plan", path(&file), "--vram", "1MB", "--link", "1GB/s", "--tflops", "1"];
    fail(&given, 1, &["--tables host", "a pass"]);
    let on_host = json(&[&given[..], &["--tables", "host", "--json"]].concat());
    check(&on_host);
    assert_says(on_host["notes"][0].as_str().unwrap(), &["host memory", "embed_tokens"]);
}

#[test]
fn wrong_usage_of_a_plan_is_told_with_the_way_out() {
    let shape = shape("flux-dev");
    let refuse = |more: &[&str], words: &[&str]| {
        fail(&[&["plan", &shape], more].concat(), 2, words);
    };
    refuse(&["--link", "25GB/s", "--tflops", "9"], &["--vram", "--device"]);
    refuse(&["--vram", "8GB"], &["--device"]);
    refuse(&["--vram", "8"], &["--device"]);
    refuse(&["--vram", "lots", "--link", "25GB/s"], &["lots", "auto"]);
    refuse(&["--vram", "8GB", "--link", "25GB/s"], &["--tflops", "it is needed"]);
    refuse(&["--vram", "auto", "--link", "25GB/s", "--tflops", "9"], &["--device"]);
    refuse(&["--vram", "1GB", "--device", "host"], &["--tflops", "host"]);
    refuse(&["--vram", "1GB", "--device", "sim:rtx5090"], &["--tflops", "sim:rtx5090"]);
    refuse(&["--vram", "48GB", "--device", "sim:rtx4090"], &["24.00 GiB"]);
    let given = ["--vram", "8GB", "--link", "25GB/s", "--tflops", "90"];
    let refuse = |more: &[&str], words: &[&str]| refuse(&[&given, more].concat(), words);
    refuse(&["--mode", "turbo"], &["turbo", "auto"]);
    refuse(&["--dtype", "int3"], &["int3", "fp8"]);
    refuse(&["--ram", "8GB"], &["--disk"]);
    refuse(&["--always", "nothing like it"], &["always", "double_blocks.0"]);
    refuse(&["--never", "("], &["never", "unclosed"]);
    refuse(&["--always", "double", "--never", r"blocks\.1$"], &["never", "double_blocks.1"]);
}

#[test]
fn files_that_are_no_shapes_are_failures_that_name_the_field() {
    let place = Place::new();
    let refuse = |text: &str, words: &[&str]| {
        let file: PathBuf = place.cwd().join("shapes.json");
        std::fs::write(&file, text).unwrap();
        let given = ["plan", path(&file), "--vram", "8GB", "--link", "25GB/s", "--tflops", "90"];
        fail(&given, 1, &[words, &["shapes.json"]].concat());
    };
    refuse("{", &["is not JSON"]);
    refuse(r#"{"units": [{"name": "a", "bytes": -4, "gflop": 1}]}"#, &["units[0].bytes", "-4"]);
    refuse(r#"{"components": [{"name": "a", "model": "gone"}], "phases": []}"#, &["gone"]);
}

/// Its link is measured, and its pages count.
#[test]
fn a_device_of_this_machine_is_measured() {
    let place = Place::new();
    let file = place.cwd().join("shapes.json");
    let shapes = r#"{"units": [{"name": "a.{i}", "count": 6, "bytes": 4000000, "gflop": 0.1}]}"#;
    std::fs::write(&file, shapes).unwrap();
    let given = ["plan", path(&file), "--vram", "16MiB", "--device", "host", "--ram", "1GB"];
    let report = json(&[&given[..], &["--tflops", "0.01", "--json"]].concat());
    assert!(number(&report, "link_bytes_per_second") > 1e6, "{report}");
    assert!(bytes(&report, "peak_bytes") <= 16 << 20, "{report}");
    assert_eq!(bytes(&report, "ring_bytes") % (2 << 20), 0, "{report}");
}
