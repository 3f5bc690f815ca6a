//! What components keep on the device while other components run.

use super::job::Keep;
use super::phase::Fitted;
use super::planner::Planner;
use super::rules::{Granularity, Retention};
use super::simulate::{PhaseRoom, Run, Use, simulate};

/// Passes of a phase that are run on paper; more are alike, and counted.
const PASSES_RUN: u32 = 24;
/// Shares of a component that are tried as held, in eighths.
const EIGHTHS: u64 = 8;
/// Rounds over the components.
const ROUNDS: usize = 3;

/// Bytes each component holds through the job, and what comes of it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    bytes: Vec<u64>,
    /// Each phase's component in the room it has.
    pub(super) phases: Vec<Fitted>,
    /// Seconds of each phase, and of the job.
    pub(super) phase_seconds: Vec<f64>,
    pub(super) seconds: f64,
}

impl Held {
    /// Bytes that components other than this one hold.
    pub(super) fn beside(&self, component: usize) -> u64 {
        beside(&self.bytes, component)
    }

    /// The best that is found; `None` if the job does not run at all.
    pub(super) fn search(planner: &Planner<'_>) -> Option<Self> {
        let count = planner.units.len();
        let page = planner.budgets.page_bytes;
        let whole =
            |component: usize| planner.units[component].needs(planner.rules, page).whole_bytes;
        let all: Vec<u64> = (0..count).map(whole).collect();
        let always: Vec<u64> =
            (0..count).map(|at| if planner.stays_through(at) { all[at] } else { 0 }).collect();
        match planner.rules.retention {
            Retention::None => return Self::of(planner, vec![0; count]),
            Retention::OneComponent | Retention::All => return Self::of(planner, always),
            Retention::Watermarks { low_bytes, .. } => {
                return Self::of(planner, up_to(low_bytes, planner, &all, always));
            }
            Retention::Planned => {}
        }
        // Everything, if it fits; else from nothing on.
        let never = |at: usize| planner.job.components[at].keep == Keep::Never;
        let most: Vec<u64> = (0..count).map(|at| if never(at) { 0 } else { all[at] }).collect();
        let everything = Self::of(planner, most.clone());
        let streams = |held: &Self| held.phases.iter().any(|fitted| fitted.plan.ring_bytes > 0);
        if everything.as_ref().is_some_and(|held| !streams(held)) {
            return everything;
        }
        let mut best = Self::of(planner, always.clone())?;
        if count > 1 {
            for _ in 0..ROUNDS {
                let before = best.seconds;
                for component in (0..count).filter(|&at| always[at] == 0 && most[at] > 0) {
                    best.try_shares(planner, component, most[component]);
                }
                if best.seconds >= before * (1.0 - 1e-6) {
                    break;
                }
            }
        }
        Some(best)
    }

    /// Tries more and less of one component.
    fn try_shares(&mut self, planner: &Planner<'_>, component: usize, most: u64) {
        let page = planner.budgets.page_bytes.max(1);
        for eighths in 0..=EIGHTHS {
            let mut bytes = self.bytes.clone();
            bytes[component] = (most / EIGHTHS * eighths) / page * page;
            if eighths == EIGHTHS {
                bytes[component] = most;
            }
            if bytes == self.bytes {
                continue;
            }
            let shorter = |tried: &Self| tried.seconds < self.seconds * (1.0 - 1e-9);
            if let Some(tried) = Self::of(planner, bytes).filter(shorter) {
                *self = tried;
            }
        }
    }

    /// What comes of holding so much; `None` if a phase then has too little room.
    fn of(planner: &Planner<'_>, bytes: Vec<u64>) -> Option<Self> {
        let fit = |phase: usize| {
            let component = planner.job.phases[phase].component;
            let room = planner.room(phase).checked_sub(beside(&bytes, component))?;
            let fitted =
                planner.units[component].fit(planner.rules, room, planner.budgets.page_bytes)?;
            let whole = planner.rules.granularity == Granularity::Component
                || planner.rules.retention == Retention::All;
            (!whole || fitted.plan.ring_bytes == 0).then_some(fitted)
        };
        let phases = (0..planner.job.phases.len()).map(fit).collect::<Option<Vec<_>>>()?;
        let mut held = Self { bytes, phases, phase_seconds: Vec::new(), seconds: 0.0 };
        held.run(planner)?;
        Some(held)
    }

    /// The share of a phase's residents that were held since before it and are held after.
    fn share_held(&self, planner: &Planner<'_>, phase: usize) -> f64 {
        let component = planner.job.phases[phase].component;
        let resident = self.phases[phase].plan.resident_bytes;
        // Nothing else wants the room of an only component.
        let alone = planner.job.phases.iter().all(|other| other.component == component);
        let released = planner.job.components[component].keep == Keep::Never;
        if released {
            return 0.0;
        }
        if alone || resident == 0 {
            return 1.0;
        }
        (self.bytes[component] as f64 / resident as f64).min(1.0)
    }

    /// Runs the job twice on paper: the second time is how it goes on.
    fn run(&mut self, planner: &Planner<'_>) -> Option<()> {
        let job = planner.job;
        let (mut uses, mut rooms) = (Vec::new(), Vec::new());
        for round in 0..2 {
            for phase in 0..job.phases.len() {
                let number = round * job.phases.len() + phase;
                self.add_phase(planner, phase, number, &mut uses);
                let own =
                    self.phases[phase].plan.resident_bytes as f64 * self.share_held(planner, phase);
                let room =
                    planner.room(phase).saturating_sub(self.beside(job.phases[phase].component));
                rooms.push(PhaseRoom {
                    bytes: (room as f64 - own).max(self.phases[phase].plan.ring_bytes as f64),
                    prefetch: planner.rules.prefetch,
                });
            }
        }
        let run = simulate(&uses, &rooms)?;
        self.phase_seconds = self.seconds_of(planner, &uses, &run);
        self.seconds = self.phase_seconds.iter().sum();
        Some(())
    }

    /// The uses of one phase: in the first pass what stays comes too, in the last it goes.
    fn add_phase(&self, planner: &Planner<'_>, phase: usize, number: usize, uses: &mut Vec<Use>) {
        let Fitted { plan, link_seconds, .. } = &self.phases[phase];
        let passes = planner.job.phases[phase].passes.min(PASSES_RUN);
        let comes = 1.0 - self.share_held(planner, phase);
        for pass in 0..passes {
            for (unit, [own, all]) in plan.units.iter().zip(link_seconds) {
                let stays = unit.resident_bytes as f64 * comes;
                let streamed = (unit.bytes - unit.resident_bytes) as f64;
                let with = |now: bool| streamed + if now { stays } else { 0.0 };
                let first = pass == 0;
                let loading = if unit.bytes > 0 { all * stays / unit.bytes as f64 } else { 0.0 };
                uses.push(Use {
                    phase: number,
                    bytes: with(first),
                    link_seconds: own + if first { loading } else { 0.0 },
                    freed: with(pass + 1 == passes),
                    compute_seconds: unit.compute_seconds,
                });
            }
        }
    }

    /// Seconds of each phase in the second round, with the passes that were not run.
    fn seconds_of(&self, planner: &Planner<'_>, uses: &[Use], run: &Run) -> Vec<f64> {
        let phases = planner.job.phases.len();
        let mut last = vec![0.0; 2 * phases];
        for (one, end) in uses.iter().zip(&run.ends) {
            last[one.phase] = *end;
        }
        let seconds = |phase: usize| {
            let number = phases + phase;
            let more = planner.job.phases[phase].passes.saturating_sub(PASSES_RUN);
            last[number] - last[number - 1] + f64::from(more) * self.phases[phase].pass_seconds
        };
        (0..phases).map(seconds).collect()
    }
}

fn beside(bytes: &[u64], component: usize) -> u64 {
    let others = bytes.iter().enumerate().filter(|&(at, _)| at != component);
    others.map(|(_, bytes)| *bytes).fold(0, u64::saturating_add)
}

/// Components in the order of their phases, held while together they take no more than this.
fn up_to(low_bytes: u64, planner: &Planner<'_>, all: &[u64], mut held: Vec<u64>) -> Vec<u64> {
    let mut together: u64 = held.iter().copied().fold(0, u64::saturating_add);
    for phase in &planner.job.phases {
        let component = phase.component;
        let leaves = planner.job.components[component].keep == Keep::Never;
        if held[component] == 0 && !leaves && together.saturating_add(all[component]) <= low_bytes {
            held[component] = all[component];
            together = together.saturating_add(all[component]);
        }
    }
    held
}
