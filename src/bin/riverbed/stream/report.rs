//! What a run says of itself, in figures.

use std::collections::BTreeSet;
use std::path::Path;

use riverbed::device::Device;
use riverbed::offload::{OffloadStats, Offloaded};
use riverbed::plan::PhasePlan;
use riverbed::transfer::DiskReport;

use super::passes::{Outcome, Pass};
use super::planned::Planned;
use super::stalls::Stalls;
use crate::Failure;

/// A run's figures. Sizes in bytes; times are sums over all passes; `steady` is every pass
/// but the first of each phase; what is planned for a pass is of the main phase, the longest.
#[derive(Debug, serde::Serialize)]
pub(super) struct Report {
    version: u32,
    pub(super) model: String,
    pub(super) format: String,
    pub(super) device: String,
    pub(super) mode: String,
    pub(super) model_bytes: u64,
    pub(super) layers: usize,
    pub(super) passes: usize,
    pub(super) prefetch_depth_units: usize,
    pub(super) limit_bytes: u64,
    pub(super) peak_reserved_bytes: u64,
    pub(super) planned_peak_bytes: u64,
    pub(super) resident_bytes: u64,
    pub(super) ring_bytes: u64,
    pub(super) pinned_peak_bytes: u64,
    pub(super) pinned_budget_bytes: u64,
    pub(super) pinned_budget_reason: String,
    pub(super) bytes_moved: u64,
    pub(super) bytes_verified: u64,
    pub(super) mismatches: usize,
    pub(super) seconds_per_pass: Vec<f64>,
    pub(super) planned_seconds_per_pass: f64,
    pub(super) compute_seconds: f64,
    pub(super) copy_seconds: f64,
    pub(super) stall_seconds: f64,
    pub(super) link_bytes_per_second: f64,
    pub(super) planned_for: String,
    pub(super) waited_for: &'static str,
    pub(super) disk: DiskReport,
    pub(super) stalls: Stalls,
    pub(super) host_waits_steady: u64,
    pub(super) device_allocs_steady: u64,
    pub(super) demand_loads: u64,
    compute_seconds_per_pass: Vec<f64>,
    stall_seconds_per_pass: Vec<f64>,
    bytes_moved_per_pass: Vec<u64>,
    pub(super) phases: Vec<Phase>,
    /// Steps down for want of memory and up again, counted.
    pub(super) ladder: OffloadStats,
    pub(super) reasons: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// A phase, planned and run.
#[derive(Debug, serde::Serialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) component: String,
    pub(super) passes: usize,
    pub(super) planned_seconds_per_pass: f64,
    /// Median of the steady passes, or of the only one.
    pub(super) seconds_per_pass: f64,
    pub(super) first_pass_seconds: f64,
    pub(super) planned_resident_bytes: u64,
    pub(super) planned_ring_bytes: u64,
    pub(super) planned_streamed_bytes: u64,
}

impl Report {
    pub(super) fn new(
        target: &Path,
        device: &Device,
        planned: &Planned,
        (offloaded, outcome): (&Offloaded, &Outcome),
    ) -> Result<Self, Failure> {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let (plan, weights) = (&planned.plan, &planned.weights);
        let passes: Vec<&Pass> = outcome.phases.iter().flatten().collect();
        let steady = outcome.phases.iter().flat_map(|passes| passes.get(1..).unwrap_or_default());
        let compute: Vec<f64> = passes.iter().map(|pass| seconds(pass.stalls.compute_ns)).collect();
        let stall = |pass: &&Pass| seconds(pass.stalls.causes.total_ns());
        let stall: Vec<f64> = passes.iter().map(stall).collect();
        let stalls = Stalls::of(plan, outcome);
        let copy_seconds = seconds(outcome.prefetch.copy_busy_ns);
        let wall: f64 = passes.iter().map(|pass| pass.seconds).sum();
        let prefetcher = offloaded.prefetcher()?;
        let (pinned, ladder) = (offloaded.pinned(), offloaded.stats());
        let main = plan.main_phase();
        let formats = weights.iter().map(|one| one.model.format().to_string());
        let units = main.map_or(0, |phase| phase.plan.units.len());
        Ok(Self {
            version: 1,
            model: target.display().to_string(),
            format: formats.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", "),
            device: device.info().name.clone(),
            mode: plan.rules.mode.clone(),
            model_bytes: weights.iter().map(|one| one.model.total_bytes()).sum(),
            layers: stalls.layers(),
            passes: passes.len(),
            prefetch_depth_units: prefetcher.depth().min(units),
            limit_bytes: offloaded.allocator().limit_bytes().unwrap_or(u64::MAX),
            peak_reserved_bytes: offloaded.allocator().stats().reserved_bytes.all.peak,
            planned_peak_bytes: plan.peak_bytes,
            resident_bytes: ladder.resident_bytes,
            ring_bytes: ladder.ring_bytes,
            pinned_peak_bytes: pinned.stats().reserved_peak_bytes,
            pinned_budget_bytes: pinned.budget().bytes,
            pinned_budget_reason: pinned.budget().reason.clone(),
            bytes_moved: outcome.prefetch.bytes_moved,
            bytes_verified: outcome.bytes_verified,
            mismatches: outcome.mismatches.len(),
            seconds_per_pass: passes.iter().map(|pass| pass.seconds).collect(),
            planned_seconds_per_pass: main.map_or(0.0, |phase| phase.seconds_per_pass),
            compute_seconds: compute.iter().sum(),
            copy_seconds,
            stall_seconds: stall.iter().sum(),
            link_bytes_per_second: rate(outcome.prefetch.arrived_bytes, copy_seconds),
            planned_for: plan.rates.name.clone(),
            disk: prefetcher.disk(),
            waited_for: stalls.waited_for(wall),
            stalls,
            host_waits_steady: outcome.prefetch.host_waits
                + steady.clone().map(|pass| pass.host_waits).sum::<u64>(),
            device_allocs_steady: steady.map(|pass| pass.device_allocs).sum(),
            demand_loads: outcome.prefetch.demand_loads,
            compute_seconds_per_pass: compute,
            stall_seconds_per_pass: stall,
            bytes_moved_per_pass: passes.iter().map(|pass| pass.bytes_moved).collect(),
            phases: plan.phases.iter().zip(&outcome.phases).map(Phase::of).collect(),
            ladder,
            reasons: plan.reasons.clone(),
            notes: planned.notes.clone(),
        })
    }

    /// Bytes a second over all passes, whatever they waited for.
    pub(super) fn overall_rate(&self) -> f64 {
        rate(self.bytes_moved, self.seconds_per_pass.iter().sum())
    }

    /// The phase that takes longest.
    pub(super) fn main_phase(&self) -> Option<&Phase> {
        let planned = |phase: &&Phase| phase.planned_seconds_per_pass * phase.passes as f64;
        self.phases.iter().max_by(|a, b| planned(a).total_cmp(&planned(b)))
    }
}

impl Phase {
    fn of((plan, passes): (&PhasePlan, &Vec<Pass>)) -> Self {
        let mut steady: Vec<f64> = passes.iter().map(|pass| pass.seconds).collect();
        let first = steady.first().copied().unwrap_or(0.0);
        if steady.len() > 1 {
            steady.remove(0);
        }
        steady.sort_by(f64::total_cmp);
        Self {
            name: plan.name.clone(),
            component: plan.plan.name.clone(),
            passes: passes.len(),
            planned_seconds_per_pass: plan.seconds_per_pass,
            seconds_per_pass: steady.get(steady.len() / 2).copied().unwrap_or(first),
            first_pass_seconds: first,
            planned_resident_bytes: plan.plan.resident_bytes,
            planned_ring_bytes: plan.plan.ring_bytes,
            planned_streamed_bytes: plan.plan.streamed_bytes,
        }
    }
}

fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 }
}
