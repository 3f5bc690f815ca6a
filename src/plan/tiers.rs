//! Which units come from RAM and which from disk, when RAM does not hold all.

use super::job::Job;
use super::profile::Budgets;
use super::rules::{Rules, Source};

/// The source of each unit of each component. Phases that run more often have RAM first; within
/// a component the units from disk are spread evenly, so that the slower reads are hidden by as
/// much compute as can be.
pub(super) fn sources(job: &Job, budgets: &Budgets, rules: &Rules) -> Vec<Vec<Source>> {
    let passes = |component: usize| -> u64 {
        let phases = job.phases.iter().filter(|phase| phase.component == component);
        phases.map(|phase| u64::from(phase.passes)).sum()
    };
    let mut by_passes: Vec<usize> = (0..job.components.len()).collect();
    by_passes.sort_by_key(|&component| (std::cmp::Reverse(passes(component)), component));
    let mut left = if rules.source == Source::Disk { 0 } else { budgets.ram_bytes };
    let mut all: Vec<Vec<Source>> = vec![Vec::new(); job.components.len()];
    for component in by_passes {
        let units = &job.components[component].units;
        let bytes: u64 = units.iter().map(|unit| unit.wire_bytes).fold(0, u64::saturating_add);
        let fits = left.min(bytes);
        let share = if bytes == 0 { 1.0 } else { fits as f64 / bytes as f64 };
        // Of the bytes so far, that share is in RAM, and never more than fits.
        let (mut so_far, mut in_ram) = (0.0, 0u64);
        all[component] = units
            .iter()
            .map(|unit| {
                so_far += unit.wire_bytes as f64;
                let fits = in_ram.saturating_add(unit.wire_bytes) <= fits;
                if fits && (in_ram + unit.wire_bytes) as f64 <= so_far * share + 0.5 {
                    in_ram += unit.wire_bytes;
                    Source::Ram
                } else {
                    Source::Disk
                }
            })
            .collect();
        left = left.saturating_sub(in_ram);
    }
    all
}
