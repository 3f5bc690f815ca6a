//! The plan as one JSON object.

use riverbed::plan::{PhasePlan, Refusal, UnitPlan};

use super::Outcome;

/// A plan. Sizes in bytes; what is not of the whole job is of its main phase, the longest.
#[derive(serde::Serialize)]
pub(super) struct Planned<'a> {
    version: u32,
    feasible: bool,
    job: &'a str,
    mode: &'a str,
    device: &'a str,
    link_bytes_per_second: f64,
    flop_per_second: f64,
    seconds_per_pass: f64,
    bound_seconds: f64,
    compute_seconds: f64,
    stall_seconds: f64,
    link_bound: bool,
    weights_bytes: u64,
    resident_bytes: u64,
    ring_bytes: u64,
    streamed_bytes: u64,
    peak_bytes: u64,
    limit_bytes: u64,
    ram_bytes: u64,
    /// Of the whole job.
    seconds: f64,
    /// A pass of the main phase with 1 GB more.
    seconds_per_pass_with_1gb_more: Option<f64>,
    reason: String,
    reasons: &'a [String],
    notes: &'a [String],
    units: Vec<Unit<'a>>,
    phases: Vec<Phase<'a>>,
}

#[derive(serde::Serialize)]
struct Unit<'a> {
    name: &'a str,
    bytes: u64,
    resident_bytes: u64,
    wire_bytes: u64,
    compute_seconds: f64,
    source: riverbed::plan::Source,
}

#[derive(serde::Serialize)]
struct Phase<'a> {
    name: &'a str,
    component: &'a str,
    passes: u32,
    seconds_per_pass: f64,
    bound_seconds: f64,
    compute_seconds: f64,
    stall_seconds: f64,
    link_bound: bool,
    resident_bytes: u64,
    ring_bytes: u64,
    streamed_bytes: u64,
    held_bytes: u64,
    working_bytes: u64,
    peak_bytes: u64,
    seconds: f64,
}

impl<'a> Planned<'a> {
    pub(super) fn new(outcome: &'a Outcome) -> Self {
        let Outcome { job, plan, with_more, notes } = outcome;
        let main = plan.main_phase();
        let figure = |figure: fn(&PhasePlan) -> f64| main.map_or(0.0, figure);
        let bytes = |bytes: fn(&PhasePlan) -> u64| main.map_or(0, bytes);
        Self {
            version: 1,
            feasible: true,
            job: &plan.job,
            mode: &plan.rules.mode,
            device: &plan.rates.name,
            link_bytes_per_second: plan.rates.link_bytes_per_second,
            flop_per_second: plan.rates.flop_per_second,
            seconds_per_pass: figure(|phase| phase.seconds_per_pass),
            bound_seconds: figure(|phase| phase.bound_seconds),
            compute_seconds: figure(|phase| phase.compute_seconds),
            stall_seconds: figure(|phase| phase.stall_seconds),
            link_bound: main.is_some_and(|phase| phase.link_bound),
            weights_bytes: job.components.iter().map(|component| component.bytes()).sum(),
            resident_bytes: bytes(|phase| phase.plan.resident_bytes),
            ring_bytes: bytes(|phase| phase.plan.ring_bytes),
            streamed_bytes: bytes(|phase| phase.plan.streamed_bytes),
            peak_bytes: plan.peak_bytes,
            limit_bytes: plan.budgets.vram_bytes,
            ram_bytes: plan.ram_bytes,
            seconds: plan.seconds,
            seconds_per_pass_with_1gb_more: super::table::with_more(main, with_more.as_ref()),
            reason: plan.reasons.join("; "),
            reasons: &plan.reasons,
            notes,
            units: main.map_or_else(Vec::new, |phase| phase.plan.units.iter().map(unit).collect()),
            phases: plan.phases.iter().map(phase).collect(),
        }
    }
}

fn unit(unit: &UnitPlan) -> Unit<'_> {
    Unit {
        name: &unit.name,
        bytes: unit.bytes,
        resident_bytes: unit.resident_bytes,
        wire_bytes: unit.wire_bytes,
        compute_seconds: unit.compute_seconds,
        source: unit.source,
    }
}

fn phase(phase: &PhasePlan) -> Phase<'_> {
    Phase {
        name: &phase.name,
        component: &phase.plan.name,
        passes: phase.passes,
        seconds_per_pass: phase.seconds_per_pass,
        bound_seconds: phase.bound_seconds,
        compute_seconds: phase.compute_seconds,
        stall_seconds: phase.stall_seconds,
        link_bound: phase.link_bound,
        resident_bytes: phase.plan.resident_bytes,
        ring_bytes: phase.plan.ring_bytes,
        streamed_bytes: phase.plan.streamed_bytes,
        held_bytes: phase.held_bytes,
        working_bytes: phase.working_bytes,
        peak_bytes: phase.peak_bytes,
        seconds: phase.seconds,
    }
}

/// Why there is no plan.
#[derive(serde::Serialize)]
pub(super) struct Refused<'a> {
    version: u32,
    feasible: bool,
    mode: &'a str,
    reason: &'a str,
    needed_bytes: u64,
    limit_bytes: u64,
    suggestion: String,
    ways_out: &'a [riverbed::plan::WayOut],
    notes: &'a [String],
}

impl<'a> Refused<'a> {
    pub(super) fn new(refusal: &'a Refusal, notes: &'a [String]) -> Self {
        Self {
            version: 1,
            feasible: false,
            mode: &refusal.mode,
            reason: &refusal.reason,
            needed_bytes: refusal.needed_bytes,
            limit_bytes: refusal.limit_bytes,
            suggestion: refusal.suggestion(),
            ways_out: &refusal.ways_out,
            notes,
        }
    }
}
