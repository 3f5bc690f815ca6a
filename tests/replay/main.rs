//! Traces: how files are read, what hostile ones do, how a replay goes and what it measures.

#[path = "../support/mod.rs"]
mod support;

mod builder;
mod engine;
mod hostile;
mod logs;
mod recorded;
mod snapshots;

use std::path::{Path, PathBuf};

use riverbed::Error;
use riverbed::replay::{OpKind, Trace, read};

/// A file of a test's own.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Reads `bytes` as a file called `name`.
    fn read(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<Trace>, Error> {
        read(&self.write(name, bytes), None)
    }

    /// What is said of `bytes`, which must be refused as a file.
    #[track_caller]
    fn refusal(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        match self.read(name, bytes) {
            Err(error @ Error::File(_)) => {
                let text = error.to_string();
                assert!(text.contains(name), "{text}");
                text
            }
            other => panic!("a refusal of the file was expected, not {other:?}"),
        }
    }
}

/// A file under `tests/data/replay`.
fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/replay").join(name)
}

/// A trace of one file.
#[track_caller]
fn only(traces: Result<Vec<Trace>, Error>) -> Trace {
    let mut traces = traces.unwrap();
    assert_eq!(traces.len(), 1);
    traces.remove(0)
}

/// Operations in short: `+bytes@stream`, `-bytes@stream`, `~` where freed on another stream.
fn short(trace: &Trace) -> Vec<String> {
    let sign = |kind| match kind {
        OpKind::Alloc => '+',
        OpKind::Free => '-',
        OpKind::FreeElsewhere => '~',
    };
    trace.ops().iter().map(|op| format!("{}{}@{}", sign(op.kind), op.bytes, op.stream)).collect()
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}
