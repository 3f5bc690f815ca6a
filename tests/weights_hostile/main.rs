//! Model files as hostile input: cut at every byte, mutated ten thousand times, and one named
//! case for every lie a header can tell. Nothing may panic, hang, or allocate what a header
//! made up.

#[path = "../support/allocations.rs"]
mod allocations;
mod cuts;
mod gguf_refusals;
#[path = "../support/model_files.rs"]
mod model_files;
mod mutations;
mod safetensors_refusals;
mod shard_refusals;

use std::path::Path;
use std::time::{Duration, Instant};

use riverbed::weights::{Grouping, Model, UnitLayout};
use riverbed::{Error, Result};

/// What one open may allocate in all, by the size of what it reads.
fn allowed_bytes(file_bytes: u64) -> u64 {
    64 * file_bytes + (1 << 20)
}

/// Opens, and holds the open to its bounds of memory and time; a model that comes back must
/// agree with itself and its files.
fn open_bounded(path: &Path, file_bytes: u64, case: &str) -> Result<Model> {
    let (before, started) = (allocations::allocated_bytes(), Instant::now());
    let result = Model::open(path);
    let spent = allocations::allocated_bytes() - before;
    assert!(
        spent <= allowed_bytes(file_bytes),
        "{case}: {spent} bytes allocated for a file of {file_bytes}"
    );
    assert!(started.elapsed() < Duration::from_secs(20), "{case}: hangs");
    match &result {
        Ok(model) => check_consistent(model, case),
        Err(error) => {
            assert!(matches!(error, Error::File(_)), "{case}: {error}");
            assert!(error.to_string().len() < 4096, "{case}: an endless error text");
        }
    }
    result
}

/// Every promise `Model`, `Grouping` and `UnitLayout` make about what they return.
fn check_consistent(model: &Model, case: &str) {
    let (mut total, mut last) = (0, (0, 0));
    let mut names: Vec<&str> = Vec::new();
    for tensor in model.tensors() {
        let end = tensor.offset_bytes + tensor.len_bytes;
        assert!(end <= model.files()[tensor.file].len_bytes, "{case}: out of its file: {tensor:?}");
        assert_eq!(
            tensor.dtype.bytes_for(tensor.shape.iter().product()),
            Some(tensor.len_bytes),
            "{case}: {tensor:?}"
        );
        if tensor.len_bytes > 0 {
            assert!((tensor.file, tensor.offset_bytes) >= last, "{case}: overlap: {tensor:?}");
            last = (tensor.file, end);
        }
        total += tensor.len_bytes;
        names.push(&tensor.name);
    }
    assert_eq!(total, model.total_bytes(), "{case}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), model.tensors().len(), "{case}: duplicate names");
    let Ok(grouping) = Grouping::by_preset(model) else { return };
    let mut grouped: Vec<usize> = Vec::new();
    for unit in grouping.units() {
        let layout = UnitLayout::new(model, unit).unwrap();
        for read in layout.reads() {
            let file = &model.files()[read.file];
            assert!(read.file_offset_bytes + read.len_bytes <= file.len_bytes, "{case}");
            assert!(read.dst_offset_bytes + read.len_bytes <= layout.len_bytes, "{case}");
        }
        grouped.extend(&unit.tensors);
    }
    grouped.sort_unstable();
    assert_eq!(
        grouped,
        (0..model.tensors().len()).collect::<Vec<_>>(),
        "{case}: not one unit each"
    );
}

/// Writes `bytes` as a file of this name, opens it, and returns the error's text.
#[track_caller]
fn refusal(name: &str, bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    match open_bounded(&path, bytes.len() as u64, name) {
        Ok(model) => panic!("accepted: {:?}", model.tensors()),
        Err(error) => error.to_string(),
    }
}

/// Asserts that a text has all of these words.
#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}
