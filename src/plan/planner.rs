//! From job, rates, budgets and rules to a plan.
//!
//! A job is planned as it runs over and over (prompt after prompt, request after request): its
//! last phase is followed by its first. So what a component keeps on the device while others
//! run, its *held* bytes, saves copying when its phase comes round, and costs the others room in
//! every one of their passes. Each phase by itself is solved by [`Units::fit`]; how much is held
//! is searched over, and each try is run on paper.

use super::held::Held;
use super::job::{Job, Keep};
use super::phase::{Fitted, Units};
use super::planned::{PhasePlan, Plan};
use super::profile::{Budgets, DeviceRates};
use super::reasons::reasons;
use super::refusal::{Refusal, WayOut};
use super::rules::{Granularity, Retention, Rules, Source};
use super::tiers::sources;
use crate::base::{align_up, parse_bytes};

/// Decides what lives where. A pure function: the same input gives the same plan.
///
/// # Errors
/// A [`Refusal`] when the job cannot run so: what is missing, and what would do.
///
/// ```
/// use riverbed::plan::{Budgets, Component, DeviceRates, Job, Rules, UnitShape, plan};
///
/// let layers = (0..60).map(|i| UnitShape::new(format!("blocks.{i}"), 679_662_592, 1218.0));
/// let job = Job::of(Component::new("transformer", layers.collect()), 28);
/// let rates = DeviceRates::of_link(25e9, 90e12);
/// let plan = plan(&job, &rates, &Budgets::of_vram(16_000_000_000), &Rules::auto())?;
/// let phase = &plan.phases[0];
/// assert!(phase.seconds_per_pass < 1.032 && phase.seconds_per_pass >= phase.bound_seconds);
/// # Ok::<(), riverbed::Error>(())
/// ```
pub fn plan(
    job: &Job,
    rates: &DeviceRates,
    budgets: &Budgets,
    rules: &Rules,
) -> Result<Plan, Box<Refusal>> {
    check(job, rates, budgets, rules)?;
    let planner = Planner::new(job, rates, budgets, rules);
    match planner.best() {
        Some(plan) => Ok(plan),
        None => Err(Box::new(planner.refuse())),
    }
}

pub(super) struct Planner<'a> {
    pub(super) job: &'a Job,
    pub(super) rates: &'a DeviceRates,
    pub(super) budgets: &'a Budgets,
    pub(super) rules: &'a Rules,
    /// Each component's units as they are streamed.
    pub(super) units: Vec<Units>,
}

impl<'a> Planner<'a> {
    fn new(job: &'a Job, rates: &'a DeviceRates, budgets: &'a Budgets, rules: &'a Rules) -> Self {
        let sources = sources(job, budgets, rules);
        let room_of = |component: usize| {
            let phases = (0..job.phases.len()).filter(|&at| job.phases[at].component == component);
            phases.map(|at| room_bytes(job, budgets, rules, at)).min().unwrap_or(budgets.vram_bytes)
        };
        let units =
            job.components.iter().zip(sources).enumerate().map(|(at, (component, sources))| {
                Units::new(component, rates, rules, room_of(at), sources)
            });
        Self { job, rates, budgets, rules, units: units.collect() }
    }

    /// Device memory for weights in a phase.
    pub(super) fn room(&self, phase: usize) -> u64 {
        room_bytes(self.job, self.budgets, self.rules, phase)
    }

    fn best(&self) -> Option<Plan> {
        let held = Held::search(self)?;
        Some(self.plan(&held))
    }

    fn plan(&self, held: &Held) -> Plan {
        let phases: Vec<PhasePlan> = held
            .phases
            .iter()
            .enumerate()
            .map(|(at, fitted)| self.phase_plan(at, fitted, held))
            .collect();
        let peak_bytes = phases.iter().map(|phase| phase.peak_bytes).max().unwrap_or(0);
        let ram = |source: Source, bytes: u64| if source == Source::Ram { bytes } else { 0 };
        let of_component = |component: usize| {
            let phase = phases.iter().find(|phase| phase.component == component);
            let units = phase.map_or(&[][..], |phase| &phase.plan.units);
            units.iter().map(|unit| ram(unit.source, unit.wire_bytes)).sum::<u64>()
        };
        let mut plan = Plan {
            job: self.job.name.clone(),
            rules: self.rules.clone(),
            rates: self.rates.clone(),
            budgets: *self.budgets,
            peak_bytes,
            ram_bytes: (0..self.job.components.len()).map(of_component).sum(),
            seconds: held.seconds,
            phases,
            reasons: Vec::new(),
        };
        plan.reasons = reasons(&plan);
        plan
    }

    fn phase_plan(&self, at: usize, fitted: &Fitted, held: &Held) -> PhasePlan {
        let phase = &self.job.phases[at];
        let held_bytes = held.beside(phase.component);
        let working_bytes = working_bytes(self.job, self.budgets, at);
        let pages = |bytes| align_up(bytes, self.budgets.page_bytes).unwrap_or(u64::MAX);
        let resident = pages(fitted.plan.resident_bytes);
        let bound_seconds = self.units[phase.component].bound(self.budgets.vram_bytes);
        // The same sums in another order may differ in their last digit.
        let seconds_per_pass = fitted.pass_seconds.max(bound_seconds);
        PhasePlan {
            name: phase.name.clone(),
            component: phase.component,
            passes: phase.passes,
            plan: fitted.plan.clone(),
            held_bytes,
            working_bytes,
            peak_bytes: resident + fitted.plan.ring_bytes + held_bytes + working_bytes,
            seconds_per_pass,
            bound_seconds,
            compute_seconds: fitted.compute_seconds,
            stall_seconds: seconds_per_pass - fitted.compute_seconds,
            link_bound: fitted.copy_seconds() > fitted.compute_seconds,
            seconds: held.phase_seconds[at],
        }
    }

    /// What is missing in the first phase that has too little room, and what would do.
    fn refuse(&self) -> Refusal {
        let held_always = |other: usize| {
            let units = self
                .units
                .iter()
                .enumerate()
                .filter(|&(at, _)| at != other && self.stays_through(at));
            units
                .map(|(_, units)| units.needs(self.rules, self.budgets.page_bytes).whole_bytes)
                .fold(0, u64::saturating_add)
        };
        let needed = |at: usize| {
            let component = self.job.phases[at].component;
            let needs = self.units[component].needs(self.rules, self.budgets.page_bytes);
            let whole = self.rules.granularity == Granularity::Component
                || self.rules.retention == Retention::All;
            let own =
                if whole { needs.whole_bytes } else { needs.whole_bytes.min(needs.least_bytes) };
            own.saturating_add(working_bytes(self.job, self.budgets, at))
                .saturating_add(held_always(component))
        };
        let phases = 0..self.job.phases.len();
        let worst = phases.max_by_key(|&at| needed(at)).unwrap_or(0);
        let phase = &self.job.phases[worst];
        let needs = self.units[phase.component].needs(self.rules, self.budgets.page_bytes);
        let name = &self.job.components[phase.component].name;
        let mut refusal = Refusal {
            mode: self.rules.mode.clone(),
            reason: if self.rules.retention == Retention::All {
                "all weights are to stay on the device, and they do not fit".into()
            } else if self.rules.granularity == Granularity::Component {
                format!("'{name}' is to be on the device whole, and does not fit")
            } else {
                let slots = if self.rules.single_buffer { "one" } else { "two" };
                format!(
                    "'{name}' has a unit of {} and a ring holds {slots} of the largest, beside \
                     what has to stay and what is worked in",
                    crate::base::format_bytes(needs.largest_bytes)
                )
            },
            limit_bytes: self.budgets.vram_bytes,
            needed_bytes: needed(worst),
            ways_out: Vec::new(),
        };
        refusal.ways_out = self.ways_out(refusal.needed_bytes);
        refusal
    }

    /// What else would run, each with what a pass then takes.
    fn ways_out(&self, needed_bytes: u64) -> Vec<WayOut> {
        let mut ways = Vec::new();
        let mut offer = |change: String, rules: &Rules, budgets: &Budgets| {
            let planner = Planner::new(self.job, self.rates, budgets, rules);
            let plan = planner.best();
            let main = plan.as_ref().and_then(Plan::main_phase);
            if let Some(seconds_per_pass) = main.map(|phase| phase.seconds_per_pass) {
                ways.push(WayOut { change, seconds_per_pass });
            }
        };
        let streams = self.rules.granularity != Granularity::Component
            && self.rules.retention != Retention::All;
        if streams && !self.rules.split {
            offer("--split".into(), &Rules { split: true, ..self.rules.clone() }, self.budgets);
        }
        if streams && !self.rules.single_buffer {
            let rules = Rules { single_buffer: true, ..self.rules.clone() };
            offer("--single-buffer".into(), &rules, self.budgets);
        }
        if !streams {
            let auto = Rules { mode: "auto".into(), ..Rules::auto() };
            offer("--mode auto".into(), &auto, self.budgets);
        }
        let (text, vram_bytes) = limit_of(needed_bytes);
        let budgets = Budgets { vram_bytes, ..*self.budgets };
        offer(format!("--vram {text}"), self.rules, &budgets);
        ways
    }

    /// Whether a component stays on the device through the job, whatever it costs.
    pub(super) fn stays_through(&self, component: usize) -> bool {
        self.rules.retention == Retention::All
            || (self.job.components[component].keep == Keep::Always
                && self.rules.retention != Retention::None)
    }
}

/// A limit of at least so many bytes as people write one: `1.360GB`, and below that the bytes.
fn limit_of(bytes: u64) -> (String, u64) {
    let text = match bytes {
        0..1_000_000_000 => bytes.to_string(),
        _ => {
            let thousandths = bytes.div_ceil(1_000_000);
            format!("{}.{:03}GB", thousandths / 1000, thousandths % 1000)
        }
    };
    match parse_bytes(&text) {
        Ok(limit) if limit >= bytes => (text, limit),
        _ => (bytes.to_string(), bytes),
    }
}

/// Memory to work in during a phase, in pages.
fn working_bytes(job: &Job, budgets: &Budgets, phase: usize) -> u64 {
    let bytes = job.phases[phase].working_bytes.max(budgets.working_bytes);
    align_up(bytes, budgets.page_bytes).unwrap_or(u64::MAX)
}

fn room_bytes(job: &Job, budgets: &Budgets, rules: &Rules, phase: usize) -> u64 {
    let room = budgets.vram_bytes.saturating_sub(working_bytes(job, budgets, phase));
    let room = match rules.retention {
        Retention::Watermarks { high_bytes, .. } => room.min(high_bytes),
        _ => room,
    };
    room / budgets.page_bytes.max(1) * budgets.page_bytes.max(1)
}

/// Whether the input makes sense.
fn check(
    job: &Job,
    rates: &DeviceRates,
    budgets: &Budgets,
    rules: &Rules,
) -> Result<(), Box<Refusal>> {
    let positive = |rate: f64| rate > 0.0 && !rate.is_nan();
    let counts = |seconds: f64| seconds >= 0.0 && seconds.is_finite();
    let unit_is_wrong = |unit: &super::job::UnitShape| {
        let parts = match &unit.grains {
            super::job::Grains::Parts(parts) => {
                parts.iter().fold(0u64, |sum, &part| sum.saturating_add(part)) != unit.bytes
            }
            _ => false,
        };
        parts || !counts(unit.gflop) || unit.bytes > 1 << 50
    };
    let units = || job.components.iter().flat_map(|component| &component.units);
    let problem = if job.phases.is_empty() {
        Some("the job has no phase".to_owned())
    } else if let Some(phase) =
        job.phases.iter().find(|phase| phase.component >= job.components.len())
    {
        Some(format!("phase '{}' names a component the job does not have", phase.name))
    } else if let Some(phase) = job.phases.iter().find(|phase| phase.passes == 0) {
        Some(format!("phase '{}' has no pass", phase.name))
    } else if !positive(rates.link_bytes_per_second)
        || !rates.link_bytes_per_second.is_finite()
        || !positive(rates.flop_per_second)
        || !positive(rates.disk_bytes_per_second)
        || !counts(rates.copy_seconds)
        || !counts(rates.launch_seconds)
    {
        Some(format!("the rates of '{}' are not all above 0", rates.name))
    } else if budgets.page_bytes == 0 {
        Some("pages have no bytes".to_owned())
    } else if rules.granularity == Granularity::Group(0) || rules.ring_units == Some(0) {
        Some("a group, or a ring, of no unit".to_owned())
    } else {
        units()
            .find(|unit| unit_is_wrong(unit))
            .map(|unit| format!("the bytes, parts or work of unit '{}' make no sense", unit.name))
    };
    let refuse = |reason| {
        let (limit_bytes, needed_bytes) = (budgets.vram_bytes, budgets.vram_bytes);
        let mode = rules.mode.clone();
        Box::new(Refusal { mode, reason, limit_bytes, needed_bytes, ways_out: Vec::new() })
    };
    problem.map_or(Ok(()), |reason| Err(refuse(reason)))
}
