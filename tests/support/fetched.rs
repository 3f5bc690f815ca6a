//! Real models, fetched when they are not there. Included by path.
#![allow(unreachable_pub)] // Each test binary has it at its root.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;

use riverbed::weights::Model;

/// One fetch at a time.
static FETCHING: Mutex<()> = Mutex::new(());

/// The directory of a fetched model; fetches it first if need be.
pub fn fetched(name: &str) -> PathBuf {
    let models = std::env::var_os("RIVERBED_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME or RIVERBED_MODELS is set");
        Path::new(&home).join(".cache/riverbed/models")
    });
    let path = models.join(name);
    let _one = FETCHING.lock();
    if Model::open(&path).is_err() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-models");
        let status = Command::new(&script).arg(name).status();
        let done = status.as_ref().is_ok_and(ExitStatus::success);
        assert!(
            done,
            "{name} is not in {} and {} fails: {status:?}",
            models.display(),
            script.display()
        );
    }
    path
}
