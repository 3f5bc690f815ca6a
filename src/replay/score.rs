//! What a replay is judged by, as one flat record.

use std::collections::BTreeMap;

use super::trace::Trace;

/// The figures of one trace under one setup. Sizes in bytes, times in nanoseconds unless the
/// name says otherwise; what was not measured is `None` and left out of the JSON form.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Score {
    /// Of this form: 1.
    pub version: u32,
    /// Who was measured: always `riverbed`.
    pub peer: &'static str,
    /// The conf, or the policy's name where nothing is set.
    pub config: String,
    /// The policy.
    pub policy: String,
    /// The device's name.
    pub device: String,
    /// The trace's name.
    pub trace: String,
    /// Operations.
    pub ops: u64,
    /// Allocations among them.
    pub allocs: u64,
    /// Streams.
    pub streams: u64,
    /// The most blocks live at once.
    pub slots: u64,
    /// The most requested bytes live at once.
    pub peak_live: u64,
    /// The same with each request rounded up to 512.
    pub peak_live_512: u64,
    /// The sum of all requests.
    pub allocated_bytes: u64,
    /// The limit on reserved bytes that was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// The trace completed.
    pub ok: bool,
    /// Where and why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What the reader left out or read in its own way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The first replay, which fills the cache.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<Fresh>,
    /// Later replays.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub warm: Option<Warm>,
    /// Single calls.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub calls: Option<CallTimes>,
    /// How little memory is enough.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Replays that nearly repeat.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub perturbed: Option<Perturbed>,
    /// Operations a second over all threads, by `ops_per_s_Nt`.
    #[serde(flatten)]
    pub ops_per_s: BTreeMap<String, Option<f64>>,
}

/// The first replay. Counts are exact and repeat.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Fresh {
    /// Thread time over operations.
    pub fresh_ns_per_op: f64,
    /// The most held from the device.
    pub peak_reserved: u64,
    /// The same over `peak_live`.
    pub reserved_over_live: f64,
    /// Driver calls that took memory: `alloc` and `create_page`.
    pub device_allocs: u64,
    /// Driver calls that gave it back: `free` and `destroy_page`.
    pub device_frees: u64,
    /// Bytes moved from one address to another. No policy of this version moves any.
    pub remapped_bytes: u64,
    /// Uses of blocks on other streams than their own, each with one event.
    pub cross_stream_waits: u64,
    /// Driver calls by name.
    pub driver_calls: BTreeMap<&'static str, u64>,
    /// What they would take on the simulated device, in microseconds, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_time_us: Option<BTreeMap<&'static str, f64>>,
}

/// Replays over a warm cache, after one that is not counted.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Warm {
    /// How many.
    pub warm_replays: u32,
    /// Thread time over operations, the median.
    pub ns_per_op: f64,
    /// The least.
    pub ns_per_op_min: f64,
    /// The most held from the device; never too low.
    pub warm_peak_reserved: u64,
    /// Driver calls that took memory, for each replay.
    pub warm_device_allocs_per_replay: f64,
    /// Driver calls by name, over all replays.
    pub warm_driver_calls: BTreeMap<&'static str, u64>,
}

/// Single calls: the least of the replays for each, without the time stamps' own cost.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names say it: of which call, which quantile")]
pub struct CallTimes {
    pub alloc_ns_mean: f64,
    pub alloc_ns_p50: f64,
    pub alloc_ns_p99: f64,
    pub alloc_ns_p999: f64,
    pub free_ns_mean: f64,
    pub free_ns_p50: f64,
    pub free_ns_p99: f64,
    pub free_ns_p999: f64,
}

/// How little memory is enough for a fresh replay.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Capacity {
    /// Does it complete within so many times `peak_live`?
    pub fits: BTreeMap<&'static str, bool>,
    /// The least that is enough, over `peak_live`, in steps of 0.005; 0 if not even 4 is.
    pub min_capacity_over_live: f64,
    /// Thread time over operations there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_op_at_min_capacity: Option<f64>,
}

/// Replays of which each has some other sizes, after two plain ones: the one that held most for
/// what it had live.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Perturbed {
    /// How many.
    pub perturbed_replays: u32,
    /// The most requested bytes live at once so far, in plain replays too.
    pub perturbed_peak_live: u64,
    /// The most held from the device.
    pub perturbed_peak_reserved: u64,
    /// The same over what was live.
    pub perturbed_over_live: f64,
    /// Thread time over operations, the median of all.
    pub perturbed_ns_per_op: f64,
    /// Driver calls by name, over all of them.
    pub perturbed_driver_calls: BTreeMap<&'static str, u64>,
}

impl Score {
    /// What the trace alone says.
    pub(super) fn of(trace: &Trace) -> Self {
        Self {
            version: 1,
            peer: "riverbed",
            trace: trace.name().into(),
            ops: trace.ops().len() as u64,
            allocs: trace.allocs(),
            streams: u64::from(trace.streams()),
            slots: trace.slots() as u64,
            peak_live: trace.peak_live_bytes(),
            peak_live_512: trace.peak_live_rounded_bytes(),
            allocated_bytes: trace.allocated_bytes(),
            notes: trace.notes().to_vec(),
            ..Self::default()
        }
    }
}
