//! Shard indexes that lie, and directories that hold no one model.

use std::path::Path;

use crate::model_files::{GgufTensor, gguf, safetensors, shard_index};
use crate::{assert_says, open_bounded};

const INDEX: &str = "model.safetensors.index.json";

fn refused(directory: &Path, name: &str) -> String {
    let error = open_bounded(&directory.join(name), 1 << 16, name).expect_err("accepted");
    error.to_string()
}

/// A directory with shards `1` (tensor a) and `2` (tensor b), and this index.
fn sharded(index: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let put =
        |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    put("1.safetensors", &safetensors(&[("a", "U8", &[1], &[0])]));
    put("2.safetensors", &safetensors(&[("b", "U8", &[1], &[0])]));
    put(INDEX, index);
    refused(directory.path(), INDEX)
}

#[test]
fn shard_names_that_leave_the_directory_are_refused() {
    for name in [
        "../1.safetensors",
        "/etc/passwd",
        "sub/1.safetensors",
        "..",
        ".",
        "",
        "./1.safetensors",
        "a\\\\b",
        "1.safetensors/",
    ] {
        let text = sharded(&shard_index(&[("a", name), ("b", "2.safetensors")]));
        assert_says(&text, &["is not a plain file name"]);
    }
    let text = sharded(&shard_index(&[("a", "1\\u0000.safetensors")]));
    assert_says(&text, &["is not a plain file name"]);
}

#[test]
fn a_missing_shard_is_named() {
    let text = sharded(&shard_index(&[("a", "1.safetensors"), ("b", "3.safetensors")]));
    assert_says(&text, &[INDEX, "shard '3.safetensors' is missing"]);
}

#[test]
fn a_listed_tensor_that_its_shard_lacks_is_named() {
    let text = sharded(&shard_index(&[("a", "1.safetensors"), ("c", "1.safetensors")]));
    assert_says(&text, &["tensor 'c' is listed for shard '1.safetensors' and is not in it"]);
}

#[test]
fn a_tensor_that_the_index_does_not_list_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let shard = safetensors(&[("a", "U8", &[1], &[0]), ("x", "U8", &[1], &[0])]);
    std::fs::write(directory.path().join("1.safetensors"), shard).unwrap();
    std::fs::write(directory.path().join(INDEX), shard_index(&[("a", "1.safetensors")])).unwrap();
    let text = refused(directory.path(), "");
    assert_says(&text, &["tensor 'x' is in shard '1.safetensors' and not listed"]);
}

#[test]
fn a_tensor_listed_twice_is_refused() {
    let text = sharded(&shard_index(&[("a", "1.safetensors"), ("a", "2.safetensors")]));
    assert_says(&text, &["duplicate tensor name 'a'"]);
}

#[test]
fn an_index_of_the_wrong_form_is_refused() {
    assert_says(&sharded(b"{}"), &["malformed", "weight_map"]);
    assert_says(&sharded(b"{\"weight_map\":{\"a\":7}}"), &["malformed", "string"]);
    assert_says(&sharded(b"{\"weight_map\":{}}"), &["lists no tensors"]);
    assert_says(&sharded(b""), &["malformed"]);
    assert_says(&sharded(b"{\"weight_map\":\n{\"\xff\":1}}"), &["byte 17", "not UTF-8"]);
    assert_says(&sharded("{\"a\":".repeat(20_000).as_bytes()), &["malformed"]);
}

#[test]
fn a_malformed_shard_is_named_and_not_its_index() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("1.safetensors"), b"GGUF....{").unwrap();
    std::fs::write(directory.path().join(INDEX), shard_index(&[("a", "1.safetensors")])).unwrap();
    assert_says(&refused(directory.path(), ""), &["1.safetensors", "header"]);
}

#[test]
fn directories_without_one_model_say_what_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let put =
        |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    put("config.json", b"{}");
    put("._model.safetensors", b"");
    assert_says(
        &refused(directory.path(), ""),
        &["no model", "*.safetensors.index.json", "*.safetensors", "*.gguf"],
    );
    put("a.safetensors", &safetensors(&[]));
    put("b.safetensors", &safetensors(&[]));
    let text = refused(directory.path(), "");
    assert_says(&text, &["2 safetensors files", "a.safetensors, b.safetensors", "name one"]);
    put("c.gguf", &gguf(3, &[], &[GgufTensor::floats("t", 1)]));
    assert_says(&refused(directory.path(), ""), &["more than one model", "c.gguf"]);
}

#[test]
fn paths_that_are_no_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_says(&refused(directory.path(), "none.gguf"), &["none.gguf", "cannot be found"]);
    #[cfg(unix)]
    assert_says(&refused(Path::new("/dev"), "null"), &["/dev/null", "not a regular file"]);
}
