//! One job over several devices: each has a range of each component's units, under a limit and with
//! rates of its own, and a plan of its own for them.
//!
//! Units run in order, so a range that is contiguous is handed on once. Each component is divided
//! so that the slowest device's part of a pass is least: what passes take that follow one another
//! through all devices, and what decides how far copies hide.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::job::{Component, Job, Phase};
use super::planner::plan;
use super::profile::{Budgets, DeviceRates};
use super::refusal::Refusal;
use super::rules::Rules;
use super::split::split;
use super::{PhasePlan, Plan};

/// A device as the planner sees it. Budgets of host memory are this device's share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanDevice {
    /// How fast it is.
    pub rates: DeviceRates,
    /// What it may take.
    pub budgets: Budgets,
}

/// One device's part of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DevicePart {
    /// Its units of each component, by index.
    pub units: Vec<Range<usize>>,
    /// The job's phases that its plan has, by index: those it has units for.
    pub phases: Vec<usize>,
    /// What lives where on it. None where it has no unit.
    pub plan: Option<Plan>,
}

/// A job over several devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DevicesPlan {
    /// The devices' parts, in the order they were given.
    pub parts: Vec<DevicePart>,
}

impl DevicesPlan {
    /// Which device runs a unit of a component, and its number among that device's.
    #[must_use]
    pub fn device_of(&self, component: usize, unit: usize) -> Option<(usize, usize)> {
        let of = |part: &DevicePart| {
            let range = part.units.get(component)?;
            range.contains(&unit).then(|| unit - range.start)
        };
        self.parts.iter().enumerate().find_map(|(at, part)| Some((at, of(part)?)))
    }

    /// A phase's plans, by device.
    pub fn phase(&self, phase: usize) -> impl Iterator<Item = (usize, &PhasePlan)> {
        self.parts.iter().enumerate().filter_map(move |(at, part)| {
            let of_part = part.phases.iter().position(|&of| of == phase)?;
            Some((at, part.plan.as_ref()?.phases.get(of_part)?))
        })
    }

    /// Seconds between passes of a phase that follow one another through the devices: what the
    /// slowest takes.
    #[must_use]
    pub fn seconds_per_pass(&self, phase: usize) -> f64 {
        self.phase(phase).map(|(_, plan)| plan.seconds_per_pass).fold(0.0, f64::max)
    }

    /// Seconds from the start of one pass to its end, in which one device waits for the other:
    /// at most this.
    #[must_use]
    pub fn seconds_through(&self, phase: usize) -> f64 {
        self.phase(phase).map(|(_, plan)| plan.seconds_per_pass).sum()
    }
}

/// Divides a job over devices, in the order they are given, and plans each part. A pure function.
///
/// # Errors
/// A [`Refusal`] when there are no devices or no division fits: of the device that has the most
/// room.
pub fn plan_devices(
    job: &Job,
    devices: &[PlanDevice],
    rules: &Rules,
) -> Result<DevicesPlan, Box<Refusal>> {
    let mut parts: Vec<DevicePart> = devices.iter().map(|_| DevicePart::none()).collect();
    for (at, component) in job.components.iter().enumerate() {
        let phases: Vec<&Phase> = job.phases.iter().filter(|phase| phase.component == at).collect();
        let ranges = divide(component, &phases, devices, rules)
            .ok_or_else(|| refuse(component, &phases, devices, rules))?;
        parts.iter_mut().zip(ranges).for_each(|(part, range)| part.units.push(range));
    }
    for (part, device) in parts.iter_mut().zip(devices) {
        let (of_part, phases) = part_of(job, &part.units);
        if !phases.is_empty() {
            part.plan = Some(plan(&of_part, &device.rates, &device.budgets, rules)?);
        }
        part.phases = phases;
    }
    Ok(DevicesPlan { parts })
}

impl DevicePart {
    fn none() -> Self {
        Self { units: Vec::new(), phases: Vec::new(), plan: None }
    }
}

/// The ranges of a component's units.
fn divide(
    component: &Component,
    phases: &[&Phase],
    devices: &[PlanDevice],
    rules: &Rules,
) -> Option<Vec<Range<usize>>> {
    let sums = Sums::new(component);
    let guess = |device: usize, range: Range<usize>| sums.bound(&devices[device], range);
    let cost = |device: usize, range: Range<usize>| {
        let PlanDevice { rates, budgets } = &devices[device];
        let planned = plan(&alone(component, range, phases), rates, budgets, rules);
        planned.ok().map_or(f64::INFINITY, |plan| longest(&plan))
    };
    split(component.units.len(), devices.len(), guess, cost)
}

/// Seconds of a pass of the slowest phase.
fn longest(plan: &Plan) -> f64 {
    plan.phases.iter().map(|phase| phase.seconds_per_pass).fold(0.0, f64::max)
}

/// A part of a component, with nothing beside it.
fn alone(component: &Component, range: Range<usize>, phases: &[&Phase]) -> Job {
    let mut job = Job::new(component.name.clone());
    let at = job.component(cut(component, range));
    for phase in phases {
        job.phase(phase.name.clone(), at, phase.passes, phase.working_bytes);
    }
    if phases.is_empty() {
        job.phase("pass", at, 1, 0);
    }
    job
}

fn cut(component: &Component, range: Range<usize>) -> Component {
    let units = component.units.get(range).unwrap_or_default().to_vec();
    Component { units, ..component.clone() }
}

/// The part of a job that has these units: components and phases without any are left out. And
/// which phases it has.
fn part_of(job: &Job, units: &[Range<usize>]) -> (Job, Vec<usize>) {
    let mut of_part = Job::new(job.name.clone());
    let places: Vec<Option<usize>> = (job.components.iter().zip(units))
        .map(|(component, range)| {
            (!range.is_empty()).then(|| of_part.component(cut(component, range.clone())))
        })
        .collect();
    let mut phases = Vec::new();
    for (at, phase) in job.phases.iter().enumerate() {
        if let Some(Some(component)) = places.get(phase.component).copied() {
            of_part.phase(phase.name.clone(), component, phase.passes, phase.working_bytes);
            phases.push(at);
        }
    }
    (of_part, phases)
}

/// Why no division fits: the smallest part a device could have, its largest unit, or all that one
/// device would have to, is refused.
fn refuse(
    component: &Component,
    phases: &[&Phase],
    devices: &[PlanDevice],
    rules: &Rules,
) -> Box<Refusal> {
    let roomiest = devices.iter().max_by_key(|device| device.budgets.vram_bytes);
    let Some(PlanDevice { rates, budgets }) = roomiest else {
        return Box::new(Refusal {
            mode: rules.mode.clone(),
            reason: "there is no device".into(),
            limit_bytes: 0,
            needed_bytes: component.largest_unit_bytes(),
            ways_out: Vec::new(),
        });
    };
    let units = 0..component.units.len();
    let all = alone(component, units.clone(), phases);
    let singles = units.map(|unit| alone(component, unit..unit + 1, phases));
    let refused = |job: &Job| plan(job, rates, budgets, rules).err();
    std::iter::once(all).chain(singles).find_map(|job| refused(&job)).unwrap_or_else(|| {
        Box::new(Refusal {
            mode: rules.mode.clone(),
            reason: format!("no division of {} over the devices fits", component.name),
            limit_bytes: budgets.vram_bytes,
            needed_bytes: component.bytes(),
            ways_out: Vec::new(),
        })
    })
}

/// Sums over a component's first units, so that those of a range are a difference.
struct Sums {
    gflop: Vec<f64>,
    bytes: Vec<f64>,
    /// Of the units' bytes, how many cross the link, at least.
    wire_share: f64,
}

impl Sums {
    fn new(component: &Component) -> Self {
        let running = |of: &dyn Fn(usize) -> f64| {
            let mut sum = 0.0;
            let sums = (0..component.units.len()).map(|at| {
                sum += of(at);
                sum
            });
            std::iter::once(0.0).chain(sums).collect::<Vec<_>>()
        };
        let units = &component.units;
        let shares = units.iter().filter(|unit| unit.bytes > 0);
        let shares = shares.map(|unit| unit.wire_bytes as f64 / unit.bytes as f64);
        Self {
            gflop: running(&|at| units[at].gflop),
            bytes: running(&|at| units[at].bytes as f64),
            wire_share: shares.fold(1.0, f64::min),
        }
    }

    /// What no plan for a range is below.
    fn bound(&self, device: &PlanDevice, range: Range<usize>) -> f64 {
        let sum = |of: &[f64]| match (of.get(range.start), of.get(range.end)) {
            (Some(start), Some(end)) => end - start,
            _ => 0.0,
        };
        let PlanDevice { rates, budgets } = device;
        let launches = rates.launch_seconds * range.len() as f64;
        let compute = sum(&self.gflop) * 1e9 / rates.flop_per_second + launches;
        let excess_bytes = (sum(&self.bytes) - budgets.vram_bytes as f64).max(0.0);
        compute.max(excess_bytes * self.wire_share / rates.link_bytes_per_second)
    }
}
