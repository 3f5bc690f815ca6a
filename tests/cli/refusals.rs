//! What cannot be done, and what makes no sense: exit codes, and messages that help.

use std::os::unix::fs::FileExt;

use super::process::{Place, fail, json, path, succeed};
use super::streaming::{Content, Random};

fn model() -> Content {
    Content::new(&[&[700_000], &[900_000]], &[1000])
}

#[test]
fn a_limit_that_is_too_small_is_told_with_one_that_works() {
    let content = Content::new(&[&[3_000_000], &[900_000]], &[1000, 5_000_000]);
    let model = path(&content.path);
    for limit in ["1", "2MiB", "5MB"] {
        let words = ["a ring holds two of the largest", "are needed", "s a pass"];
        let run = fail(&["stream", model, "--vram", limit], 1, &words);
        let text = run.err.split("--vram ").nth(1).unwrap();
        let bytes: u64 = text.split(':').next().unwrap().parse().unwrap();
        let report = json(&["stream", model, "--vram", &bytes.to_string(), "--json"]);
        super::models::check_stream(&report, bytes, 1);
        fail(&["stream", model, "--vram", &(bytes - 1).to_string()], 1, &["--vram"]);
    }
}

#[test]
fn a_model_that_is_not_there_or_not_whole_is_a_failure_that_names_the_file() {
    let content = model();
    let empty = tempfile::tempdir().unwrap();
    let cut = tempfile::tempdir().unwrap();
    let short = cut.path().join("short.safetensors");
    std::fs::write(&short, &content.file()[..500_000]).unwrap();
    let text = cut.path().join("notes.txt");
    std::fs::write(&text, "no model").unwrap();
    for command in [&["inspect"][..], &["stream", "--vram", "8MiB"]] {
        let refuse = |model: &str, words: &[&str]| {
            fail(&[command, &[model]].concat(), 1, words);
        };
        refuse("/no/such/model.safetensors", &["/no/such/model.safetensors"]);
        refuse(path(empty.path()), &[path(empty.path())]);
        refuse(path(&short), &["short.safetensors"]);
        refuse(path(&text), &["notes.txt"]);
    }
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let content = model();
    let model = path(&content.path);
    let stream = |more: &[&str], words: &[&str]| {
        fail(&[&["stream", model, "--vram", "8MiB"], more].concat(), 2, words);
    };
    stream(&["--device", "gpu"], &["device", "gpu", "host"]);
    stream(&["--device", "host:colour=red"], &["colour=red", "vram=8GiB"]);
    stream(&["--prefetch", "-1"], &["-1"]);
    stream(&["--prefetch", "many"], &["many", "0 to 1024"]);
    stream(&["--passes", "0"], &["--passes", "0"]);
    stream(&["--layer-ms", "-3"], &["-3"]);
    stream(&["--layer-ms", "NaN"], &["NaN", "milliseconds"]);
    stream(&["--fast"], &["--fast"]);
    stream(&["--conf", "max_split_size_mb:few"], &["max_split_size_mb", "few"]);
    stream(&["--layers", "blocks"], &["layers", "{i}"]);
    stream(&["--layers", "no.{i}."], &["no.{i}.", "layers.0.w0"]);
    fail(&["stream", model, "--vram", "lots"], 2, &["--vram", "lots"]);
    stream(&["--mode", "medvram"], &["a1111:medvram", "sdnext:medvram"]);
    let small = ["--vram", "9GiB", "--device", "host:vram=16MiB"];
    fail(&[&["stream", model][..], &small].concat(), 2, &["--vram", "the device has 16.00 MiB"]);
    fail(&["stream"], 2, &["MODEL"]);
    fail(&["inspect"], 2, &["MODEL"]);
    fail(&["dance"], 2, &["dance"]);
    fail(&[], 2, &["Usage"]);
}

#[test]
fn a_device_that_is_not_there_is_a_failure_with_the_way_out() {
    let content = model();
    for device in ["cuda", "cuda:0", "hip"] {
        let arguments = ["stream", path(&content.path), "--vram", "8MiB", "--device", device];
        // Where a vendor's driver really is there, it is not for this test to say.
        if !std::path::Path::new("/dev/nvidiactl").exists()
            && !std::path::Path::new("/dev/kfd").exists()
        {
            fail(&arguments, 1, &[device, "host"]);
        }
    }
}

#[test]
fn a_pinned_budget_that_is_too_small_is_a_failure() {
    let content = model();
    let model = path(&content.path);
    fail(&["stream", model, "--vram", "8MiB", "--ram", "100KiB"], 1, &["pinned", "100.00 KiB"]);
    succeed(&["stream", model, "--vram", "8MiB", "--ram", "1MiB"]);
}

#[test]
fn a_model_cut_in_its_data_while_it_streams_is_a_failure_that_names_file_and_offset() {
    let content = Content::layers(&[&[700_000], &[900_000], &[800_000]]);
    let place = Place::new();
    // Slow, so that the cut comes first; with so little RAM every pass reads the file again.
    let arguments = [
        "stream",
        path(&content.path),
        "--vram",
        "8MiB",
        "--passes",
        "1000",
        "--ram",
        "512KiB",
        "--prefetch",
        "0",
        "--layer-ms",
        "5",
        "--never",
        "layers",
    ];
    let mut command = place.command(&arguments);
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    super::ends::wait_until_streaming(child.id());
    let file = std::fs::OpenOptions::new().write(true).open(&content.path).unwrap();
    file.set_len(1_500_000).unwrap();
    let run = super::process::Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(1), "{}", run.err);
    super::streaming::assert_says(&run.err, &["model.safetensors", "byte "]);
    assert_eq!(run.out, "");
}

#[test]
fn a_model_whose_bytes_change_while_it_streams_is_no_success() {
    let content = Content::layers(&[&[700_000], &[900_000], &[800_000]]);
    let place = Place::new();
    let arguments = [
        "stream",
        path(&content.path),
        "--vram",
        "8MiB",
        "--passes",
        "1500",
        "--ram",
        "512KiB",
        "--prefetch",
        "0",
        "--layer-ms",
        "1",
        "--never",
        "layers",
    ];
    let mut command = place.command(&arguments);
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    super::ends::wait_until_streaming(child.id());
    let file = std::fs::OpenOptions::new().write(true).read(true).open(&content.path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1_000_000).unwrap();
    let run = super::process::Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(1), "{}", run.out);
    // Whoever reads first finds it: a reader that the file was written to, or the device's checksum.
    if run.err.contains("checksum") {
        super::streaming::assert_says(&run.err, &["checksum", "layers.1.w0"]);
        super::streaming::assert_says(&run.out, &["MISMATCHES"]);
    } else {
        super::streaming::assert_says(&run.err, &[path(&content.path), "written to while"]);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    use super::model_files::{GgufTensor, gguf};
    use riverbed::weights::Model;
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::new(1);
    let bytes: Vec<u8> = (0..40_000).map(|_| random.next() as u8).collect();
    let tensors = [
        GgufTensor::new("blk.0.w", &[10_000], 0, &bytes),
        GgufTensor::new("blk.1.w", &[10_000], 0, &bytes),
    ];
    let files = [
        ("m.gguf", gguf(3, &[], &tensors)),
        ("m.safetensors", Content::layers(&[&[40_000], &[30_000]]).file()),
    ];
    for (name, whole) in files {
        let path = directory.path().join(name);
        for len in (0..whole.len()).step_by(1000).chain([whole.len() - 1]) {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = Model::open(&path).err().unwrap_or_else(|| panic!("{name} cut at {len}"));
            super::streaming::assert_says(&error.to_string(), &[name]);
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(Model::open(&path).is_ok());
    }
}
