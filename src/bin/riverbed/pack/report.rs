//! What `riverbed pack` prints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use riverbed::base::format_bytes;
use riverbed::pack::{Buffer, Packing, Verdict};

/// A packing's figures; with `--json`, as they are.
#[derive(Debug, serde::Serialize)]
pub(super) struct Report {
    version: u32,
    path: PathBuf,
    buffers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    height_bytes: u64,
    bound_bytes: u64,
    gap_percent: f64,
    verdict: &'static str,
    steps: u64,
    elapsed_ms: f64,
}

impl Report {
    pub(super) fn new(
        path: &Path,
        buffers: &[Buffer],
        packing: &Packing,
        capacity_bytes: Option<u64>,
        elapsed: Duration,
    ) -> Self {
        Self {
            version: 1,
            path: path.to_path_buf(),
            buffers: buffers.len(),
            capacity_bytes,
            height_bytes: packing.height_bytes,
            bound_bytes: packing.bound_bytes,
            gap_percent: packing.gap_ratio() * 100.0,
            verdict: match packing.verdict {
                Verdict::Optimal => "optimal",
                Verdict::Fits => "fits",
                Verdict::Impossible => "impossible",
                _ => "best_found",
            },
            steps: packing.steps,
            elapsed_ms: elapsed.as_secs_f64() * 1e3,
        }
    }

    pub(super) fn for_people(&self) -> String {
        let size = |bytes: u64| format!("{bytes} ({})", format_bytes(bytes));
        let verdict = match self.verdict {
            "optimal" => "optimal: no packing is lower",
            "fits" => "within the capacity",
            "impossible" => "the capacity is proved too small",
            _ => "the best found; a lower one may exist",
        };
        format!(
            "{}: {} buffers\nheight  {}\nbound   {}\ngap     {:.4} %, {verdict}\ntime    {:.1} ms, \
             {} steps of search\n",
            self.path.display(),
            self.buffers,
            size(self.height_bytes),
            size(self.bound_bytes),
            self.gap_percent,
            self.elapsed_ms,
            self.steps,
        )
    }
}
