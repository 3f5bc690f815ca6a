//! Real models through real limits. They are fetched when they are not there.

use riverbed::weights::Model;

use super::fetched::fetched;
use super::models::check_stream;
use super::process::json;
use super::streaming::MIB;

fn stream(name: &str, limit: u64, passes: u64, bytes: u64, layers: usize) {
    let model = fetched(name);
    let model = model.to_str().unwrap();
    let report = json(&["inspect", model, "--json"]);
    assert_eq!(report["model_bytes"], bytes);
    assert_eq!(report["layers"].as_array().unwrap().len(), layers);
    let (vram, passes_text) = (limit.to_string(), passes.to_string());
    let arguments = ["stream", model, "--vram", &vram, "--passes", &passes_text, "--json"];
    let report = json(&arguments);
    check_stream(&report, limit, passes);
    assert_eq!(report["model_bytes"], bytes);
    assert!(limit < bytes, "the model does not fit, which is the point");
}

#[test]
fn minilm_streams_through_64_mib() {
    stream("MiniLM", 64 * MIB, 5, 90_856_960, 6);
}

#[test]
fn smollm2_streams_through_40_mib() {
    stream("SmolLM2", 40 * MIB, 3, 96_576_768, 30);
}

#[test]
fn a_real_header_cut_anywhere_is_refused() {
    let model = Model::open(fetched("MiniLM")).unwrap();
    let whole = std::fs::read(&model.files()[0].path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    for len in [0, 1, 7, 8, 9, 100, header / 2, header - 1, header, header + 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = Model::open(&path).err().unwrap_or_else(|| panic!("cut at {len}"));
        super::streaming::assert_says(&error.to_string(), &["model.safetensors"]);
    }
}
