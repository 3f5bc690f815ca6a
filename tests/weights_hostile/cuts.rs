//! Files cut at every byte.

use riverbed::weights::Model;

use crate::model_files::{GgufTensor, Value, gguf, safetensors, shard_index};
use crate::open_bounded;

/// Cuts `whole` at every byte: an error, or the reading of the whole. Returns how many cuts
/// were read.
fn cut_everywhere(name: &str, whole: &[u8], directory: &std::path::Path) -> usize {
    let path = directory.join(name);
    std::fs::write(&path, whole).unwrap();
    let complete = Model::open(&path).unwrap();
    let mut read = 0;
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let case = format!("{name} cut at {len}");
        // The shards next to an index are part of what is read.
        if let Ok(model) = open_bounded(&path, whole.len() as u64, &case) {
            assert_eq!(model.tensors(), complete.tensors(), "{case}");
            read += 1;
        }
    }
    read
}

fn small_safetensors() -> Vec<u8> {
    safetensors(&[
        ("model.layers.0.a", "F32", &[2, 2], &[1; 16]),
        ("model.layers.1.a", "BF16", &[3], &[2; 6]),
        ("empty", "F32", &[0, 5], &[]),
        ("scale", "F8_E4M3", &[], &[3]),
    ])
}

#[test]
fn a_safetensors_file_cut_anywhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(cut_everywhere("m.safetensors", &small_safetensors(), directory.path()), 0);
    // Without a telling name, as in a cache of files named by their hash.
    assert_eq!(cut_everywhere("0f3c9a", &small_safetensors(), directory.path()), 0);
}

#[test]
fn a_gguf_file_cut_anywhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for version in [2, 3] {
        let tokens = vec![Value::text("a"), Value::text("bc"), Value::text("")];
        let whole = gguf(
            version,
            &[
                ("general.architecture", Value::text("llama")),
                ("general.alignment", Value::U32(64)),
                ("tokenizer.ggml.tokens", Value::Array(8, tokens)),
                ("tokenizer.ggml.scores", Value::Array(6, vec![Value::F32(1.0); 3])),
                ("llama.context_length", Value::U64(8192)),
            ],
            &[
                GgufTensor::new("blk.0.q", &[32, 2], 3, &[7; 40]),
                GgufTensor::floats("norm", 3),
                GgufTensor::new("blk.1.q", &[32], 8, &[7; 34]),
            ],
        );
        assert_eq!(cut_everywhere("m.gguf", &whole, directory.path()), 0);
    }
}

#[test]
fn a_shard_index_cut_anywhere_is_refused_up_to_its_last_brace() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.safetensors"), small_safetensors()).unwrap();
    let index = shard_index(&[
        ("model.layers.0.a", "a.safetensors"),
        ("model.layers.1.a", "a.safetensors"),
        ("empty", "a.safetensors"),
        ("scale", "a.safetensors"),
    ]);
    // Only the line break behind the last brace is no part of the index.
    assert_eq!(cut_everywhere("m.safetensors.index.json", &index, directory.path()), 1);
}
