//! Why a plan is as it is, in sentences.

use super::planned::{PhasePlan, Plan};
use super::rules::Source;
use crate::base::format_bytes;

/// What somebody who reads a plan would ask, answered.
pub(super) fn reasons(plan: &Plan) -> Vec<String> {
    let mut reasons: Vec<String> = plan.phases.iter().map(where_it_is).collect();
    if let Some(phase) = plan.main_phase() {
        reasons.push(what_binds(plan, phase));
    }
    reasons
}

fn where_it_is(phase: &PhasePlan) -> String {
    let plan = &phase.plan;
    let (whole, part) = plan.units.iter().fold((0, 0), |(whole, part), unit| {
        let stays = unit.resident_bytes > 0;
        let all = unit.resident_bytes == unit.bytes;
        (whole + usize::from(all), part + usize::from(stays && !all))
    });
    let units = plan.units.len();
    if whole == units {
        return format!(
            "{}: all of '{}' stays on the device ({})",
            phase.name,
            plan.name,
            format_bytes(plan.resident_bytes)
        );
    }
    let from_disk = plan.units.iter().filter(|unit| unit.source == Source::Disk).count();
    let mut text = format!(
        "{}: of {units} units of '{}' {whole} stay whole and {part} in part ({}); {} cross the \
         link in each pass, through a ring of {}",
        phase.name,
        plan.name,
        format_bytes(plan.resident_bytes),
        format_bytes(plan.streamed_bytes),
        format_bytes(plan.ring_bytes),
    );
    if from_disk > 0 {
        text.push_str(&format!("; {from_disk} come from disk"));
    }
    text
}

fn what_binds(plan: &Plan, phase: &PhasePlan) -> String {
    let PhasePlan { seconds_per_pass, compute_seconds, bound_seconds, .. } = phase;
    let link = phase.plan.streamed_bytes as f64 / plan.rates.link_bytes_per_second;
    if phase.link_bound {
        format!(
            "{}: link bound: a pass takes {seconds_per_pass:.3} s, its copies alone {link:.3} s, \
             its compute {compute_seconds:.3} s; no order of copies hides what exceeds compute: a \
             higher limit, narrower weights or more work a pass would help (no plan goes below \
             {bound_seconds:.3} s)",
            phase.name
        )
    } else if phase.stall_seconds > compute_seconds * 1e-3 {
        format!(
            "{}: a pass takes {seconds_per_pass:.3} s: {compute_seconds:.3} s of compute could hide \
             all copies ({link:.3} s), if the ring held more of them ahead; a higher limit would help",
            phase.name
        )
    } else {
        format!(
            "{}: compute bound: {compute_seconds:.3} s of compute hide all copies ({link:.3} s)",
            phase.name
        )
    }
}
