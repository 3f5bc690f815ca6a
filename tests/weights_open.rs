//! Opening models that are in order: both formats, shards, directories, files without a
//! telling name.

#[path = "support/model_files.rs"]
mod model_files;

use std::path::Path;

use model_files::{GgufTensor, Value, gguf, safetensors, shard_index};
use riverbed::weights::{Dtype, Format, Model};

fn put(directory: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The bytes a tensor's record points at.
fn bytes_of(model: &Model, name: &str) -> Vec<u8> {
    let tensor = model.tensors().iter().find(|tensor| tensor.name == name).unwrap();
    let file = std::fs::read(&model.files()[tensor.file].path).unwrap();
    let start = tensor.offset_bytes as usize;
    file[start..start + tensor.len_bytes as usize].to_vec()
}

#[test]
fn a_safetensors_file_reads_in_the_order_of_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let file = safetensors(&[
        ("z", "BF16", &[2, 3], &[1; 12]),
        ("scalar", "F32", &[], &[2; 4]),
        ("empty", "I64", &[0, 8], &[]),
        ("a", "F4", &[4], &[3; 2]),
    ]);
    let path = put(directory.path(), "model.safetensors", &file);
    let model = Model::open(&path).unwrap();
    assert_eq!((model.format(), model.total_bytes()), (Format::Safetensors, 18));
    assert_eq!(model.files()[0].len_bytes, file.len() as u64);
    let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names[0], "z");
    assert_eq!(names[3], "a");
    assert_eq!(model.tensors()[0].shape, [2, 3]);
    assert_eq!(model.tensors()[0].dtype, Dtype::BF16);
    assert_eq!(bytes_of(&model, "a"), [3; 2]);
    assert_eq!(bytes_of(&model, "scalar"), [2; 4]);
    assert_eq!((model.architecture(), model.name()), (None, None));
}

#[test]
fn a_header_in_any_order_reads_in_the_order_of_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let header = br#"{"b":{"data_offsets":[1,2],"shape":[1],"dtype":"U8","extra":[{}]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let path =
        put(directory.path(), "m.safetensors", &model_files::safetensors_raw(header, &[7, 8]));
    let model = Model::open(path).unwrap();
    assert_eq!(model.tensors()[0].name, "a");
    assert_eq!(bytes_of(&model, "b"), [8]);
}

#[test]
fn gguf_versions_2_and_3_read_with_shapes_as_numpy_has_them() {
    let directory = tempfile::tempdir().unwrap();
    for version in [2, 3] {
        let file = gguf(
            version,
            &[
                ("general.architecture", Value::text("llama")),
                ("general.name", Value::text("tiny")),
                ("tokenizer.ggml.tokens", Value::Array(8, vec![Value::text("x"); 10_000])),
                ("nested", Value::Array(9, vec![Value::Array(0, vec![Value::U8(1); 3]); 2])),
            ],
            &[
                GgufTensor::new("q", &[32, 3], 3, &[4; 60]),
                GgufTensor::new("scalar", &[], 0, &[5; 4]),
                GgufTensor::new("empty", &[0], 0, &[]),
                GgufTensor::new("k", &[256, 1, 2], 14, &[6; 420]),
            ],
        );
        let model = Model::open(put(directory.path(), "m.gguf", &file)).unwrap();
        assert_eq!((model.format(), model.total_bytes()), (Format::Gguf, 484));
        assert_eq!((model.architecture(), model.name()), (Some("llama"), Some("tiny")));
        assert_eq!(model.tensors()[0].shape, [3, 32]);
        assert_eq!(model.tensors()[0].dtype, Dtype::Q4_1);
        assert!(model.tensors().iter().all(|tensor| tensor.offset_bytes % 32 == 0));
        assert_eq!(bytes_of(&model, "q"), [4; 60]);
        assert_eq!(bytes_of(&model, "k"), [6; 420]);
    }
}

#[test]
fn gguf_alignment_moves_the_data() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = [GgufTensor::floats("a", 3), GgufTensor::floats("b", 3)];
    for alignment in [1, 8, 4096] {
        let file = gguf(3, &[("general.alignment", Value::U32(alignment))], &tensors);
        let model = Model::open(put(directory.path(), "m.gguf", &file)).unwrap();
        assert_eq!(bytes_of(&model, "b"), [1; 12]);
        assert_eq!(model.tensors()[1].offset_bytes % u64::from(alignment), 0);
    }
}

#[test]
fn gguf_tensors_come_in_file_order_and_gaps_are_tolerated() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = [GgufTensor::floats("late", 8).at(96), GgufTensor::floats("early", 8).at(0)];
    let mut file = gguf(3, &[], &tensors);
    file.extend([0; 256]);
    let model = Model::open(put(directory.path(), "m.gguf", &file)).unwrap();
    assert_eq!(model.tensors()[0].name, "early");
}

#[test]
fn content_decides_over_the_extension() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = safetensors(&[("a", "U8", &[1], &[0])]);
    let quantized = gguf(3, &[], &[GgufTensor::floats("a", 1)]);
    for name in ["3f9a0c", "m.gguf", "m.bin"] {
        let model = Model::open(put(directory.path(), name, &tensors)).unwrap();
        assert_eq!(model.format(), Format::Safetensors, "{name}");
    }
    for name in ["3f9a0c", "m.safetensors", "m.bin"] {
        let model = Model::open(put(directory.path(), name, &quantized)).unwrap();
        assert_eq!(model.format(), Format::Gguf, "{name}");
    }
}

#[test]
fn shards_open_by_index_and_by_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    put(directory.path(), one, &safetensors(&[("z", "U8", &[2], &[1, 2])]));
    put(directory.path(), two, &safetensors(&[("a", "U8", &[1], &[3]), ("b", "U8", &[1], &[4])]));
    // A single-file copy next to the shards, as some repositories keep one.
    put(directory.path(), "consolidated.safetensors", b"not read");
    let index = put(
        directory.path(),
        "model.safetensors.index.json",
        &shard_index(&[("a", two), ("b", two), ("z", one)]),
    );
    for path in [index.as_path(), directory.path()] {
        let model = Model::open(path).unwrap();
        assert_eq!((model.files().len(), model.total_bytes()), (2, 4));
        assert!(model.files()[0].path.ends_with(one));
        let places: Vec<_> =
            model.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor.file)).collect();
        assert_eq!(places, [("z", 0), ("a", 1), ("b", 1)]);
        assert_eq!(bytes_of(&model, "b"), [4]);
    }
}

#[test]
fn a_directory_with_one_model_opens() {
    for (name, bytes) in [
        ("model.safetensors", safetensors(&[("a", "U8", &[1], &[0])])),
        ("model.gguf", gguf(3, &[], &[GgufTensor::floats("a", 1)])),
    ] {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), name, &bytes);
        put(directory.path(), "config.json", b"{}");
        std::fs::create_dir(directory.path().join("onnx.safetensors")).unwrap();
        assert_eq!(Model::open(directory.path()).unwrap().tensors().len(), 1);
    }
}

#[cfg(unix)]
#[test]
fn symlinks_into_a_cache_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (directory.path().join("blobs"), directory.path().join("snapshot"));
    std::fs::create_dir(&blobs).unwrap();
    std::fs::create_dir(&snapshot).unwrap();
    put(&blobs, "0f3c", &safetensors(&[("a", "U8", &[1], &[9])]));
    put(&blobs, "77aa", &shard_index(&[("a", "m.safetensors")]));
    std::os::unix::fs::symlink("../blobs/0f3c", snapshot.join("m.safetensors")).unwrap();
    std::os::unix::fs::symlink("../blobs/77aa", snapshot.join("m.safetensors.index.json")).unwrap();
    assert_eq!(bytes_of(&Model::open(&snapshot).unwrap(), "a"), [9]);
    assert_eq!(bytes_of(&Model::open(snapshot.join("m.safetensors")).unwrap(), "a"), [9]);
}

#[test]
fn a_model_of_no_tensors_opens() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "m.safetensors", &safetensors(&[]));
    assert_eq!(Model::open(path).unwrap().total_bytes(), 0);
    let path = put(directory.path(), "m.gguf", &gguf(2, &[], &[]));
    assert_eq!(Model::open(path).unwrap().total_bytes(), 0);
}
