//! What the planner counts with: the rates of a device and the budgets.

use serde::{Deserialize, Deserializer, Serialize};

/// What a device does a second, and what a call costs. Inputs of the planner: measured, from a
/// profile, or given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceRates {
    /// Whose they are, for people (`sim:rtx4090`, `link 25 GB/s, 90 TFLOP/s`).
    pub name: String,
    /// Bytes a second from pinned memory to the device.
    pub link_bytes_per_second: f64,
    /// Sustained floating-point operations a second.
    pub flop_per_second: f64,
    /// Bytes a second from disk to pinned memory; of no effect while everything is in RAM.
    #[serde(deserialize_with = "rate_or_none")]
    pub disk_bytes_per_second: f64,
    /// Seconds each copy costs beside its bytes.
    pub copy_seconds: f64,
    /// Seconds each unit's compute costs beside its work.
    pub launch_seconds: f64,
}

/// JSON has no number without end and writes `null` for it.
fn rate_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

impl DeviceRates {
    /// Rates of a link and of compute alone: no cost of calls, everything in RAM.
    #[must_use]
    pub fn of_link(link_bytes_per_second: f64, flop_per_second: f64) -> Self {
        Self {
            name: format!(
                "link {:.1} GB/s, {:.1} TFLOP/s",
                link_bytes_per_second / 1e9,
                flop_per_second / 1e12
            ),
            link_bytes_per_second,
            flop_per_second,
            disk_bytes_per_second: f64::INFINITY,
            copy_seconds: 0.0,
            launch_seconds: 0.0,
        }
    }

    /// Seconds of one unit's compute.
    #[must_use]
    pub fn compute_seconds(&self, gflop: f64) -> f64 {
        gflop * 1e9 / self.flop_per_second + self.launch_seconds
    }
}

/// What a plan may take. In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// The hard limit on device memory: weights, ring and what is worked in.
    pub vram_bytes: u64,
    /// Host memory for weights, pinned or not; what does not fit is read from disk.
    pub ram_bytes: u64,
    /// Host memory that may be pinned, of `ram_bytes`.
    pub pinned_bytes: u64,
    /// Memory to work in, over what phases ask for: the larger counts.
    pub working_bytes: u64,
    /// Device memory is taken in pages of this many bytes.
    pub page_bytes: u64,
}

impl Budgets {
    /// A limit on device memory and nothing else: host memory without end, bytes not rounded.
    #[must_use]
    pub fn of_vram(vram_bytes: u64) -> Self {
        let (ram_bytes, pinned_bytes) = (u64::MAX, u64::MAX);
        Self { vram_bytes, ram_bytes, pinned_bytes, working_bytes: 0, page_bytes: 1 }
    }
}
