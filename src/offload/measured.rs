//! What passes cost in fact, beside what the plan counted with.

use crate::plan::{DeviceRates, Job, Plan};
use crate::prefetch::PassReport;

/// A plan is corrected when what was measured is off by more than this part of it.
const MARGIN: f64 = 0.25;
/// And was in so many passes one after the other.
const PASSES: u32 = 3;
/// Less than this says nothing of the link's rate.
const LEAST_BYTES: u64 = 1 << 20;

/// What the last passes cost.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Bytes copied and nanoseconds of copying by the end of the last pass.
    copied: (u64, u64),
    /// Bytes a second over the link, in the last pass that copied enough to tell.
    link: Option<f64>,
    /// Seconds of compute by unit of the phase, in the last pass that was timed.
    compute: Vec<f64>,
    /// Passes in a row that were off.
    off: u32,
}

impl Measured {
    /// The ring was made anew, or another phase was entered.
    pub(super) fn restart(&mut self) {
        *self = Self { copied: self.copied, link: self.link, ..Self::default() };
    }

    /// Takes in a pass over the units of a plan's phase, so many, by whose numbers the report goes.
    pub(super) fn note(
        &mut self,
        report: &PassReport,
        units: usize,
        (plan, phase): (&Plan, usize),
    ) {
        let stats = &report.stats;
        if stats.arrived_bytes < self.copied.0 {
            // Another ring, with counters of its own.
            self.copied = (0, 0);
        }
        let bytes = stats.arrived_bytes.saturating_sub(self.copied.0);
        let ns = stats.copy_busy_ns.saturating_sub(self.copied.1);
        self.copied = (stats.arrived_bytes, stats.copy_busy_ns);
        if bytes >= LEAST_BYTES && ns > 0 {
            self.link = Some(bytes as f64 / (ns as f64 / 1e9));
        }
        let Some(stalls) = &report.stalls else { return };
        self.compute = vec![0.0; units];
        for part in &stalls.units {
            if let Some(seconds) = self.compute.get_mut(part.unit) {
                *seconds += part.compute_ns as f64 / 1e9;
            }
        }
        let planned = plan.phases[phase].compute_seconds;
        let of_compute = is_off(self.compute.iter().sum(), planned);
        let of_link = self.link.is_some_and(|link| is_off(link, plan.rates.link_bytes_per_second));
        self.off = if of_compute || of_link { self.off + 1 } else { 0 };
    }

    /// The job and rates as measured, if the plan has been off for long enough. Asking begins the
    /// count anew.
    pub(super) fn correction(
        &mut self,
        job: &Job,
        plan: &Plan,
        phase: usize,
    ) -> Option<(Job, DeviceRates)> {
        if self.off < PASSES {
            return None;
        }
        self.off = 0;
        let (mut job, mut rates) = (job.clone(), plan.rates.clone());
        if let Some(link) = self.link {
            rates.link_bytes_per_second = link;
            rates.name = format!("{} as measured", rates.name.trim_end_matches(" as measured"));
        }
        let phase = &plan.phases[phase];
        let component = job.components.get_mut(phase.component)?;
        if self.compute.iter().sum::<f64>() > 0.0 {
            component.units.iter_mut().for_each(|unit| unit.gflop = 0.0);
            for (planned, seconds) in phase.plan.units.iter().zip(&self.compute) {
                let described = component.units.get_mut(planned.made_of.units.clone())?;
                let count = described.len().max(1) as f64;
                let work = (seconds / count - rates.launch_seconds).max(0.0);
                let gflop = work * rates.flop_per_second / 1e9;
                described.iter_mut().for_each(|unit| unit.gflop += gflop);
            }
        }
        Some((job, rates))
    }

    /// Bytes a second over the link, as measured last.
    pub(super) fn link(&self) -> Option<f64> {
        self.link
    }

    /// Seconds of compute by unit, as measured last.
    pub(super) fn compute(&self) -> &[f64] {
        &self.compute
    }
}

fn is_off(measured: f64, planned: f64) -> bool {
    (measured - planned).abs() > MARGIN * planned
}
