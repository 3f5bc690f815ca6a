//! The caching policy against PyTorch 2.15.0's own allocator, figure by figure. How the figures
//! were taken: `docs/golden.md`.

#[path = "../support/mod.rs"]
mod support;

mod programs;
mod traces;

use std::path::{Path, PathBuf};

/// A file under `tests/data/`.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}
