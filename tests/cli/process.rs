//! Running the binary in a place of its own.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The binary, with a private working and temporary directory and no settings from outside.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("cwd")).unwrap();
        std::fs::create_dir(place.path().join("tmp")).unwrap();
        std::fs::create_dir(place.path().join("home")).unwrap();
        Self(place)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_riverbed"));
        let place = self.0.path();
        command.args(arguments).current_dir(place.join("cwd")).stdin(Stdio::null());
        command.env("TMPDIR", place.join("tmp")).env("HOME", place.join("home"));
        for (name, _) in std::env::vars() {
            if name.starts_with("RIVERBED") || name.starts_with("PYTORCH") {
                command.env_remove(name);
            }
        }
        command
    }

    pub(crate) fn cwd(&self) -> std::path::PathBuf {
        self.0.path().join("cwd")
    }

    /// Whatever the binary left behind.
    pub(crate) fn leftovers(&self) -> Vec<std::path::PathBuf> {
        let list = |path: std::path::PathBuf| std::fs::read_dir(path).unwrap();
        ["cwd", "tmp", "home"]
            .iter()
            .flat_map(|name| list(self.0.path().join(name)))
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

pub(crate) fn run(arguments: &[&str]) -> Run {
    Place::new().command(arguments).output().unwrap().into()
}

/// Runs what must succeed, and gives its output.
#[track_caller]
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let run = run(arguments);
    assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.err);
    run.out
}

/// Runs what must print one JSON object, and gives it.
#[track_caller]
pub(crate) fn json(arguments: &[&str]) -> Value {
    let out = succeed(arguments);
    assert_eq!(out.lines().count(), 1, "one object on one line: {out}");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["version"], 1, "{out}");
    value
}

/// Runs what must end with `code`, a message on stderr with `words`, and nothing on stdout.
#[track_caller]
pub(crate) fn fail(arguments: &[&str], code: i32, words: &[&str]) -> Run {
    let run = run(arguments);
    assert_eq!(run.code, Some(code), "{arguments:?}: {}", run.err);
    assert_eq!(run.out, "", "{arguments:?}");
    assert!(!run.err.contains("panicked"), "{}", run.err);
    super::streaming::assert_says(&run.err, words);
    run
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
