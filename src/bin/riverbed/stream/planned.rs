//! From the command line to a plan, and from the plan to a job on the device.

use riverbed::base::{MIB, align_up};
use riverbed::conf::{Conf, Pytorch};
use riverbed::device::Device;
use riverbed::offload::{ComponentWeights, DescribeOptions, OffloadOptions, Offloaded};
use riverbed::plan::{Job, Plan, plan};
use riverbed::prefetch::PrefetchOptions;

use super::Args;
use super::rates::{self, Checksums, Room};
use crate::Failure;
use crate::planning::{Target, Vram, bounds, describe, for_models, refusal_text, settings_of};

/// The least that is left to work in: the checksums' own memory.
const WORKING_BYTES: u64 = 2 * MIB;

/// A plan of a job's weights.
pub(super) struct Planned {
    pub(super) plan: Plan,
    /// As described, before the mode made other units of its units.
    pub(super) job: Job,
    pub(super) weights: Vec<ComponentWeights>,
    /// What was assumed, in sentences.
    pub(super) notes: Vec<String>,
    conf: Conf,
}

pub(super) fn of(device: &Device, args: &Args) -> Result<Planned, Failure> {
    let planning = &args.planning;
    let settings = settings_of(planning)?;
    let mut options = DescribeOptions::default();
    options.tables = planning.tables.into();
    let described = describe(planning, &args.target, options)?;
    let weights = ComponentWeights::of_job(&described)?;
    let settings = for_models(settings, &described.backings);
    let (mut job, mut notes) = (described.job, described.notes);
    notes.extend(settings.warnings.iter().cloned());
    if let Some(dtype) = settings.storage_dtype {
        notes.push(format!("weights stay as they are in their files, not {}", dtype.name()));
    }
    let conf = conf(settings.alloc_conf.as_deref(), args)?;
    let effective = conf.over_env(Pytorch::Ignore)?;
    let target = target(device, args, &effective, &mut notes)?;
    let sums = Checksums::measure(device, &effective)?;
    let units =
        |weights: &ComponentWeights| weights.units.iter().map(|u| u.tensors.len()).collect();
    let tensors: Vec<Vec<usize>> = weights.iter().map(units).collect();
    sums.put_into(&mut job, &tensors, args.layer_ms / 1e3);
    let working = working_bytes(&weights, device.info().granularity_bytes);
    for phase in &mut job.phases {
        phase.working_bytes = phase.working_bytes.max(working);
    }
    let (mut preset, mut budgets) = bounds(planning, &settings, &target, &mut job, &mut notes)?;
    preset.rules.prefetch &= args.prefetch != Some(0);
    budgets.vram_bytes = budgets.vram_bytes.min(effective.limit_bytes.unwrap_or(u64::MAX));
    if planning.ram.is_none() && settings.pinned_bytes.is_none() {
        // The pool's own choice then.
        budgets.pinned_bytes = u64::MAX;
    }
    let plan = plan(&job, &target.rates, &budgets, &preset.rules)
        .map_err(|refusal| Failure::Failed(refusal_text(&refusal)))?;
    Ok(Planned { plan, job, weights, notes, conf })
}

/// What a config file says of the allocator, and over it what the command line does.
fn conf(of_file: Option<&str>, args: &Args) -> Result<Conf, Failure> {
    let mut conf = Conf::default();
    for text in of_file.into_iter().chain(args.conf.as_deref()) {
        conf.merge(&text.parse()?)?;
    }
    Ok(conf)
}

/// What checksums take of the device's memory.
fn working_bytes(weights: &[ComponentWeights], page_bytes: u64) -> u64 {
    let tensors: u64 = weights.iter().map(|one| one.model.tensors().len() as u64).sum();
    align_up(8 * tensors, page_bytes).unwrap_or(u64::MAX).max(WORKING_BYTES)
}

/// The device with its rates, measured within the limits as far as they are known.
fn target(
    device: &Device,
    args: &Args,
    conf: &Conf,
    notes: &mut Vec<String>,
) -> Result<Target, Failure> {
    let memory = device.memory()?;
    let vram = match args.planning.vram {
        Some(Vram::Bytes(bytes)) => bytes,
        Some(Vram::Auto) | None => u64::MAX,
    };
    let planning = &args.planning;
    let pinned = [planning.ram, planning.pinned, conf.pinned_limit_bytes].into_iter().flatten();
    let room = Room {
        device_bytes: vram.min(conf.limit_bytes.unwrap_or(u64::MAX)).min(memory.free_bytes),
        pinned_bytes: pinned.min().unwrap_or(u64::MAX),
    };
    let rates = rates::link(device, args.link, &room, notes)?;
    Ok(Target {
        rates,
        device: Some(device.info().clone()),
        memory: Some(memory),
        // Reads are as fast as they are; the plan counts none.
        disk_is_known: true,
    })
}

impl Planned {
    /// Loads what the plan's first phase keeps.
    pub(super) fn load(&self, device: &Device, args: &Args) -> Result<Offloaded, Failure> {
        let mut options = OffloadOptions::default();
        options.prefetch.depth = args.prefetch.unwrap_or(PrefetchOptions::AS_FAR_AS_ROOM);
        options.prefetch.timing = true;
        options.loader.disk = args.disk.unwrap_or_default();
        options.conf = self.conf.clone();
        Ok(self.plan.load(device, &self.weights, options)?)
    }

    /// Seconds to add to each unit of a phase, so that together they are `layer_seconds` for each
    /// unit described.
    pub(super) fn added_seconds(&self, phase: usize, layer_seconds: f64) -> Vec<f64> {
        let Some(phase) = self.plan.phases.get(phase) else { return Vec::new() };
        let described = &self.job.components[phase.component].units;
        let units = phase.plan.units.iter().map(|unit| {
            let of = described.get(unit.made_of.units.clone()).unwrap_or_default();
            let bytes: u64 = of.iter().map(|unit| unit.bytes).sum();
            let share = if bytes > 0 { unit.bytes as f64 / bytes as f64 } else { 1.0 };
            layer_seconds * of.len() as f64 * share
        });
        units.collect()
    }
}
