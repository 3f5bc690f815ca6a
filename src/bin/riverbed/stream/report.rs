//! What a run says of itself: one JSON object, or a table for people.

use riverbed::base::format_bytes;
use riverbed::device::Device;
use riverbed::offload::StreamedModel;
use riverbed::transfer::DiskReport;

use super::job::{Outcome, Pass};
use super::stalls::Stalls;
use crate::text::table;

/// A run's figures. Sizes in bytes; times are sums over all passes; `steady` is every pass
/// after the first.
#[derive(Debug, serde::Serialize)]
pub(super) struct Report {
    version: u32,
    model: String,
    format: String,
    device: String,
    model_bytes: u64,
    layers: usize,
    passes: usize,
    prefetch_depth_units: usize,
    limit_bytes: u64,
    peak_reserved_bytes: u64,
    resident_bytes: u64,
    ring_bytes: u64,
    pinned_peak_bytes: u64,
    pinned_budget_bytes: u64,
    pinned_budget_reason: String,
    bytes_moved: u64,
    bytes_verified: u64,
    mismatches: usize,
    seconds_per_pass: Vec<f64>,
    compute_seconds: f64,
    copy_seconds: f64,
    stall_seconds: f64,
    link_bytes_per_second: f64,
    waited_for: &'static str,
    disk: DiskReport,
    stalls: Stalls,
    host_waits_steady: u64,
    device_allocs_steady: u64,
    demand_loads: u64,
    compute_seconds_per_pass: Vec<f64>,
    stall_seconds_per_pass: Vec<f64>,
    bytes_moved_per_pass: Vec<u64>,
}

impl Report {
    pub(super) fn new(device: &Device, streamed: &StreamedModel, outcome: &Outcome) -> Self {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let passes = &outcome.passes;
        let steady = passes.get(1..).unwrap_or_default();
        let compute: Vec<f64> = passes.iter().map(|pass| seconds(pass.stalls.compute_ns)).collect();
        let stall = |pass: &Pass| seconds(pass.stalls.causes.total_ns());
        let stall: Vec<f64> = passes.iter().map(stall).collect();
        let stalls = Stalls::of(streamed, passes.iter().map(|pass| &pass.stalls));
        let copy_seconds = seconds(outcome.prefetch.copy_busy_ns);
        let wall: f64 = passes.iter().map(|pass| pass.seconds).sum();
        let pinned = streamed.pinned();
        Self {
            version: 1,
            model: streamed.model().path().display().to_string(),
            format: streamed.model().format().to_string(),
            device: device.info().name.clone(),
            model_bytes: streamed.model().total_bytes(),
            layers: streamed.units().len(),
            passes: passes.len(),
            prefetch_depth_units: streamed.prefetcher().depth(),
            limit_bytes: streamed.allocator().limit_bytes().unwrap_or(u64::MAX),
            peak_reserved_bytes: streamed.allocator().stats().reserved_bytes.all.peak,
            resident_bytes: streamed.placement().resident_bytes,
            ring_bytes: streamed.placement().ring_bytes,
            pinned_peak_bytes: pinned.stats().reserved_peak_bytes,
            pinned_budget_bytes: pinned.budget().bytes,
            pinned_budget_reason: pinned.budget().reason.clone(),
            bytes_moved: outcome.prefetch.bytes_moved,
            bytes_verified: outcome.bytes_verified,
            mismatches: outcome.mismatches.len(),
            seconds_per_pass: passes.iter().map(|pass| pass.seconds).collect(),
            compute_seconds: compute.iter().sum(),
            copy_seconds,
            stall_seconds: stall.iter().sum(),
            link_bytes_per_second: rate(outcome.prefetch.bytes_moved, copy_seconds),
            disk: streamed.prefetcher().disk(),
            waited_for: stalls.waited_for(wall),
            stalls,
            host_waits_steady: outcome.prefetch.host_waits
                + steady.iter().map(|pass| pass.host_waits).sum::<u64>(),
            device_allocs_steady: steady.iter().map(|pass| pass.device_allocs).sum(),
            demand_loads: outcome.prefetch.demand_loads,
            compute_seconds_per_pass: compute,
            stall_seconds_per_pass: stall,
            bytes_moved_per_pass: passes.iter().map(|pass| pass.bytes_moved).collect(),
        }
    }

    pub(super) fn for_people(&self) -> String {
        let of =
            |part: u64, whole: u64| format!("{} of {}", format_bytes(part), format_bytes(whole));
        let wall: f64 = self.seconds_per_pass.iter().sum();
        let mut steady = self.seconds_per_pass[self.passes.min(2) - 1..].to_vec();
        steady.sort_by(f64::total_cmp);
        let median = steady[steady.len() / 2];
        let verdict = match (self.mismatches, self.bytes_verified) {
            (0, 0) => "not asked for",
            (0, _) => "all bytes verified",
            _ => "MISMATCHES",
        };
        let rows = [
            (
                "model",
                format!("{} ({}), {}", self.model, self.format, format_bytes(self.model_bytes)),
            ),
            ("device", self.device.clone()),
            ("streamed units", format!("{}, {} ahead", self.layers, self.prefetch_depth_units)),
            ("VRAM peak", of(self.peak_reserved_bytes, self.limit_bytes)),
            (
                "  of it",
                format!(
                    "{} resident, {} ring",
                    format_bytes(self.resident_bytes),
                    format_bytes(self.ring_bytes)
                ),
            ),
            (
                "pinned peak",
                format!(
                    "{} ({})",
                    of(self.pinned_peak_bytes, self.pinned_budget_bytes),
                    self.pinned_budget_reason
                ),
            ),
            (
                "moved",
                format!(
                    "{} in {} pass(es), link at {:.2} GB/s, {:.2} GB/s over all",
                    format_bytes(self.bytes_moved),
                    self.passes,
                    self.link_bytes_per_second / 1e9,
                    rate(self.bytes_moved, wall) / 1e9
                ),
            ),
            ("verified", format!("{}: {verdict}", format_bytes(self.bytes_verified))),
            (
                "seconds a pass",
                format!("{median:.4} steady median, {:.4} first", self.seconds_per_pass[0]),
            ),
            (
                "compute / copies / stall",
                format!(
                    "{:.4} / {:.4} / {:.4} s",
                    self.compute_seconds, self.copy_seconds, self.stall_seconds
                ),
            ),
            ("waited for", self.waited_for.into()),
            ("read by", self.disk.to_string()),
            ("  of it", self.stalls.for_people()),
            (
                "in steady passes",
                format!(
                    "{} host wait(s), {} device allocation(s)",
                    self.host_waits_steady, self.device_allocs_steady
                ),
            ),
        ];
        let rows = rows.map(|(name, value)| vec![name.to_string(), value]);
        table(&rows, &[])
    }
}

fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 }
}
