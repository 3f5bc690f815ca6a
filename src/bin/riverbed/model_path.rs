//! Finding a model, a path or the name of one that `scripts/fetch-models` fetched; and saying how
//! its files are read.

use std::path::{Path, PathBuf};

use riverbed::transfer::DiskOptions;

/// `given` if it exists, else the fetched model of that name if there is one, else `given`, so
/// that the error names what the user wrote.
pub(crate) fn resolve(given: &Path) -> PathBuf {
    let fetched = || {
        let by_variable = std::env::var_os("RIVERBED_MODELS").map(PathBuf::from);
        let by_home =
            || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/riverbed/models"));
        let is_name = given.components().count() == 1;
        by_variable.or_else(by_home).filter(|_| is_name).map(|models| models.join(given))
    };
    match fetched() {
        Some(path) if !given.exists() && path.exists() => path,
        _ => given.to_path_buf(),
    }
}

/// Settings of reads from disk, as a value of a command line.
pub(crate) fn parse_disk(text: &str) -> Result<DiskOptions, String> {
    text.parse().map_err(|error: riverbed::Error| error.to_string())
}
