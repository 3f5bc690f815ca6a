use std::path::{Path, PathBuf};

use super::*;
use crate::weights::Format;

/// A model file whose data is a hole: it takes no room on disk.
fn write_model(path: &Path, tensors: &[(&str, &str, &[u64])]) {
    let (mut header, mut end) = (String::from("{"), 0);
    for (number, (name, dtype, shape)) in tensors.iter().enumerate() {
        let element = if *dtype == "F32" { 4 } else { 2 };
        let (begin, bytes) = (end, shape.iter().product::<u64>() * element);
        end += bytes;
        let comma = if number == 0 { "" } else { "," };
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
        );
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    std::fs::write(path, &file).unwrap();
    let whole = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    whole.set_len(file.len() as u64 + end).unwrap();
}

/// A language model of two layers with its table and head.
const SMALL: &[(&str, &str, &[u64])] = &[
    ("lm_head.weight", "BF16", &[1000, 64]),
    ("model.embed_tokens.weight", "BF16", &[1000, 64]),
    ("model.layers.0.mlp.weight", "BF16", &[64, 128]),
    ("model.layers.0.norm.weight", "BF16", &[64]),
    ("model.layers.1.mlp.weight", "BF16", &[64, 128]),
    ("model.layers.1.norm.weight", "BF16", &[65]),
    ("model.norm.weight", "BF16", &[64]),
];

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn model(&self, tensors: &[(&str, &str, &[u64])]) -> PathBuf {
        let path = self.0.path().join("small.safetensors");
        write_model(&path, tensors);
        path
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn options(change: impl FnOnce(&mut DescribeOptions)) -> DescribeOptions {
    let mut options = DescribeOptions::default();
    change(&mut options);
    options
}

fn open(path: &Path, options: &DescribeOptions) -> Result<DescribedJob> {
    DescribedJob::open(path, None, None, options)
}

/// Of the only component: name, bytes, GFLOP and keep of each unit.
fn units(path: &Path, options: &DescribeOptions) -> Vec<UnitShape> {
    let mut described = open(path, options).unwrap();
    described.job.components.remove(0).units
}

fn names(units: &[UnitShape]) -> Vec<&str> {
    units.iter().map(|unit| unit.name.as_str()).collect()
}

#[test]
fn layers_follow_the_table_and_the_head_comes_last_wherever_they_stand_in_the_file() {
    let (place, tokens) = (Place::new(), 10);
    let units = units(&place.model(SMALL), &options(|options| options.tokens = tokens));
    assert_eq!(
        names(&units),
        [
            "model.embed_tokens.weight",
            "model.layers.0",
            "model.layers.1",
            "lm_head.weight",
            "model.norm.weight"
        ]
    );
    let [table, first, second, head, norm] = &units[..] else { panic!("{units:?}") };
    assert_eq!((table.keep, table.gflop), (Keep::Always, 0.0));
    // Each tensor starts at a multiple of 256 bytes: so does the next unit.
    assert_eq!(first.grains, Grains::Parts(vec![64 * 128 * 2, 256]));
    assert_eq!(second.bytes, 64 * 128 * 2 + 256);
    assert_eq!(first.wire_bytes, first.bytes);
    assert_eq!(first.gflop, 2.0 * 64.0 * 128.0 * 10.0 / 1e9, "vectors count no work");
    assert_eq!(head.gflop, 2.0 * 64.0 * 1000.0 / 1e9, "a head is computed for one token");
    assert_eq!((norm.gflop, norm.keep), (0.0, Keep::Planned));
}

#[test]
fn each_part_names_its_tensor() {
    let place = Place::new();
    let described = open(&place.model(SMALL), &DescribeOptions::default()).unwrap();
    let [Backing::Model { model, units, .. }] = &described.backings[..] else { panic!() };
    assert_eq!(model.format(), Format::Safetensors);
    for (unit, shape) in units.iter().zip(&described.job.components[0].units) {
        assert_eq!(unit.name, shape.name);
        let Grains::Parts(parts) = &shape.grains else { panic!("{shape:?}") };
        let of_tensors: Vec<u64> = unit
            .tensors
            .iter()
            .map(|&at| packed_bytes(model.tensors()[at].len_bytes).unwrap())
            .collect();
        assert_eq!(*parts, of_tensors);
    }
}

#[test]
fn tables_stay_on_the_host_or_are_planned_if_asked() {
    let place = Place::new();
    let path = place.model(SMALL);
    let on_host = open(&path, &options(|options| options.tables = Tables::Host)).unwrap();
    assert_eq!(on_host.job.components[0].units.len(), 4);
    let [Backing::Model { host_tables, .. }] = &on_host.backings[..] else { panic!() };
    assert_eq!(host_tables[0].name, "model.embed_tokens.weight");
    assert!(on_host.notes[0].contains("host memory"), "{:?}", on_host.notes);
    let planned = units(&path, &options(|options| options.tables = Tables::Planned));
    assert_eq!((planned[0].keep, planned[0].gflop), (Keep::Planned, 0.0));
}

#[test]
fn a_table_that_is_the_head_too_is_multiplied() {
    let place = Place::new();
    let path = place.model(&SMALL[1..]);
    for (tables, keep) in [
        (Tables::Device, Keep::Always),
        (Tables::Host, Keep::Planned),
        (Tables::Planned, Keep::Planned),
    ] {
        let described = open(&path, &options(|options| options.tables = tables)).unwrap();
        let units = &described.job.components[0].units;
        let table = units.iter().find(|unit| unit.name.contains("embed")).unwrap();
        assert_eq!((table.keep, table.gflop), (keep, 2.0 * 64.0 * 1000.0 / 1e9), "{tables:?}");
        let last = described.notes.last().unwrap();
        assert!(last.contains("no head of its own"), "{:?}", described.notes);
    }
}

#[test]
fn overrides_keep_stream_and_cut() {
    let place = Place::new();
    let path = place.model(SMALL);
    let with = |always: &[&str], never: &[&str], unit: &[&str]| {
        let overrides = Overrides::new(always, never, unit).unwrap();
        open(&path, &options(|options| options.overrides = overrides))
    };
    let of = |described: Result<DescribedJob>| described.unwrap().job.components.remove(0).units;

    let kept = of(with(&[r"layers\.0"], &["embed"], &[]));
    let keeps: Vec<_> = kept.iter().map(|unit| unit.keep).collect();
    assert_eq!(keeps[..3], [Keep::Never, Keep::Always, Keep::Planned]);

    let cut = of(with(&[r"layers\.\d+\.norm"], &[], &[]));
    assert_eq!(names(&cut)[1..3], ["model.layers.0", "model.layers.0 (always)"]);
    assert_eq!((cut[1].bytes, cut[2].bytes), (64 * 128 * 2, 256));

    let own = of(with(&[], &[], &[r"norm\.weight$", r"layers\.\d+\.mlp"]));
    assert_eq!(
        names(&own),
        [
            "model.embed_tokens.weight",
            "layers.0.mlp",
            "norm.weight",
            "layers.1.mlp",
            "lm_head.weight"
        ]
    );

    for (described, words) in [
        (with(&["mlp"], &[r"layers\.1"], &[]), "matched by never"),
        (with(&["no such"], &[], &[]), "matches no unit and no tensor"),
        (with(&[r"0\.mlp"], &[r"1\.mlp"], &["mlp"]), "never do"),
    ] {
        let text = described.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
    let text = Overrides::new(&[], &["a("], &[]).unwrap_err().to_string();
    assert!(text.contains("never: 'a('") && text.contains("unclosed"), "{text}");
}

#[test]
fn a_narrower_type_at_rest_halves_matrices_alone() {
    let place = Place::new();
    let path = place.model(SMALL);
    let fp8 = options(|options| options.dtype = Some(parse_dtype("FP8").unwrap()));
    let described = open(&path, &fp8).unwrap();
    let layer = &described.job.components[0].units[1];
    assert_eq!(layer.grains, Grains::Parts(vec![64 * 128, 256]));
    assert!(described.notes[0].contains("cast to F8_E4M3 once"), "{:?}", described.notes);
    let wider = options(|options| options.dtype = Some(Dtype::F32));
    let described = open(&path, &wider).unwrap();
    assert_eq!(described.job.components[0].units[1].bytes, 64 * 128 * 2 + 256);
    assert!(described.notes[0].contains("changes nothing"), "{:?}", described.notes);
    assert!(parse_dtype("int3").unwrap_err().contains("fp8"));
}

/// What this thread has read so far, in bytes.
#[cfg(target_os = "linux")]
fn read_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    line.parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn of_six_gigabytes_only_the_header_is_read() {
    let place = Place::new();
    let layers: Vec<String> = (0..60).map(|i| format!("blocks.{i}.w")).collect();
    let tensors: Vec<_> =
        layers.iter().map(|name| (name.as_str(), "BF16", &[10_000, 5_000][..])).collect();
    let path = place.model(&tensors);
    let before = read_bytes();
    let described = open(&path, &DescribeOptions::default()).unwrap();
    let read = read_bytes() - before;
    assert_eq!(described.job.components[0].bytes(), 6_000_000_000);
    assert!(read < 1 << 20, "{read} bytes were read");
}

#[test]
fn shapes_are_numbered_and_scaled() {
    let place = Place::new();
    let shape = r#"{"name": "s", "note": "", "units": [
        {"name": "b.{i}", "count": 2, "bytes": 1001, "gflop": 5}, {"name": "end", "bytes": "1KB", "gflop": 0}]}"#;
    let path = place.file("s.json", shape);
    let whole = units(&path, &DescribeOptions::default());
    assert_eq!(names(&whole), ["b.0", "b.1", "end"]);
    assert_eq!((whole[1].bytes, whole[1].gflop, whole[2].bytes), (1001, 5.0, 1000));
    assert!(matches!(whole[0].grains, Grains::Slices(_)));
    let halved = units(&path, &options(|options| options.dtype = Some(Dtype::F8_E4M3)));
    assert_eq!((halved[0].bytes, halved[0].wire_bytes, halved[2].bytes), (501, 501, 500));
}

#[test]
fn every_shape_at_hand_is_read() {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shapes");
    let mut seen = 0;
    for entry in std::fs::read_dir(shapes).unwrap() {
        let path = entry.unwrap().path();
        assert!(!units(&path, &DescribeOptions::default()).is_empty(), "{path:?}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn a_job_names_models_shapes_and_units() {
    let place = Place::new();
    place.model(SMALL);
    place.file("s.json", r#"{"units": [{"name": "b", "bytes": 100, "gflop": 1}]}"#);
    let job = place.file(
        "job.json",
        r#"{"name": "an image", "components": [
            {"name": "text", "model": "small.safetensors", "tokens": 7, "dtype": "fp8"},
            {"name": "denoiser", "shape": "s.json", "keep": "always"},
            {"name": "vae", "units": [{"name": "vae", "bytes": "1MB", "gflop": 3}]}],
           "phases": [{"component": "text"},
            {"name": "denoise", "component": "denoiser", "passes": 28, "working_bytes": "2GiB"},
            {"component": "vae", "working_bytes": 5}]}"#,
    );
    let described = open(&job, &DescribeOptions::default()).unwrap();
    let job = &described.job;
    assert_eq!(job.name, "an image");
    assert_eq!(job.components[0].units[1].gflop, 2.0 * 64.0 * 128.0 * 7.0 / 1e9);
    assert_eq!((job.components[1].keep, &*job.components[1].name), (Keep::Always, "denoiser"));
    assert_eq!(job.components[2].bytes(), 1_000_000);
    let phase = &job.phases[1];
    assert_eq!(
        (&*phase.name, phase.component, phase.passes, phase.working_bytes),
        ("denoise", 1, 28, 2 << 30)
    );
    assert_eq!((&*job.phases[0].name, job.phases[0].passes), ("text", 1));
    assert!(matches!(
        described.backings[..],
        [Backing::Model { .. }, Backing::Shape, Backing::Shape]
    ));
    assert!(described.notes[0].starts_with("text: "), "{:?}", described.notes);
}

#[test]
fn wrong_files_are_told_with_field_and_what_is_allowed() {
    let place = Place::new();
    let unit = r#"{"name": "u", "bytes": 1, "gflop": 0}"#;
    let component = format!(r#"{{"name": "a", "units": [{unit}]}}"#);
    for (text, words) in [
        ("{".to_owned(), "is not JSON"),
        ("[]".into(), "an object with the keys name"),
        (r#"{"name": "x"}"#.into(), "units: is missing"),
        (r#"{"units": []}"#.into(), "at least one unit"),
        (r#"{"units": [{"name": "u", "bytes": 0, "gflop": 1}]}"#.into(), "units[0].bytes: 0 is"),
        (r#"{"units": [{"name": "u", "bytes": "x", "gflop": 1}]}"#.into(), "64MiB"),
        (r#"{"units": [{"name": "u", "bytes": 1}]}"#.into(), "units[0].gflop: is missing"),
        (r#"{"units": [{"name": "u", "bytes": 1, "gflop": -1}]}"#.into(), "a number from 0"),
        (
            r#"{"units": [{"name": "u", "bytes": 1, "gflop": 1, "count": 2}]}"#.into(),
            "{i} in the name",
        ),
        (
            r#"{"units": [{"name": "u{i}", "bytes": 1, "gflop": 1, "count": 200000}]}"#.into(),
            "from 1 to 100000",
        ),
        (r#"{"dtype": "q", "units": []}"#.into(), "dtype: \"q\" is"),
        (r#"{"units": [], "speed": 1}"#.into(), "speed: no such field; fields are name"),
        (r#"{"components": [], "phases": []}"#.into(), "at least one component"),
        (format!(r#"{{"components": [{component}], "phases": []}}"#), "at least one phase"),
        (
            format!(r#"{{"components": [{component}], "phases": [{{"component": "b"}}]}}"#),
            "components are a",
        ),
        (
            format!(
                r#"{{"components": [{component}], "phases": [{{"component": "a", "passes": 0}}]}}"#
            ),
            "phases[0].passes: 0 is",
        ),
        (format!(r#"{{"components": [{component}, {component}], "phases": []}}"#), "another"),
        (r#"{"components": [{"name": "a"}], "phases": []}"#.into(), "exactly one of"),
        (
            r#"{"components": [{"name": "a", "shape": "gone.json"}], "phases": []}"#.into(),
            "gone.json: cannot be read",
        ),
    ] {
        let error = open(&place.file("bad.json", &text), &DescribeOptions::default()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(words) && said.contains(".json"), "{text}: {said}");
    }
    let path = place.file(
        "j.json",
        &format!(r#"{{"components": [{component}], "phases": [{{"component": "a"}}]}}"#),
    );
    let error = DescribedJob::open(&path, None, Some(3), &DescribeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("says how often"), "{error}");
}
