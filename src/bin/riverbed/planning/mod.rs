//! From what is asked to what the planner takes: a job, rules and budgets. For the commands that
//! plan, whether they load anything or not.

mod args;
mod budgets;
mod settings;

use std::path::Path;

use riverbed::device::{DeviceInfo, MemoryInfo};
use riverbed::modes::{OffloadSettings, Preset};
use riverbed::offload::{DescribeOptions, DescribedJob, Overrides};
use riverbed::plan::{Budgets, DeviceRates, Job, Refusal};

use crate::Failure;
use crate::model_path::resolve;
use crate::text::short_seconds;

use budgets::Given;

pub(crate) use args::{PlanningArgs, TablesArg, Vram};
pub(crate) use settings::{card, for_models, of as settings_of};

/// What is planned for.
pub(crate) struct Target {
    pub(crate) rates: DeviceRates,
    /// The device, where one was named.
    pub(crate) device: Option<DeviceInfo>,
    /// Its memory now.
    pub(crate) memory: Option<MemoryInfo>,
    /// Whether it is known how fast weights are read from disk, or does not matter.
    pub(crate) disk_is_known: bool,
}

/// Describes what `target` names: what the arguments say goes over `options`.
pub(crate) fn describe(
    args: &PlanningArgs,
    target: &Path,
    mut options: DescribeOptions,
) -> Result<DescribedJob, Failure> {
    fn texts(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }
    options.overrides =
        Overrides::new(&texts(&args.always), &texts(&args.never), &texts(&args.unit))?;
    let path = resolve(target);
    Ok(DescribedJob::open(path, args.layers.as_deref(), args.passes, &options)?)
}

/// Rules and budgets for `job`, with the settings put into it. Notes say what was measured or
/// chosen.
pub(crate) fn bounds(
    args: &PlanningArgs,
    settings: &OffloadSettings,
    target: &Target,
    job: &mut Job,
    notes: &mut Vec<String>,
) -> Result<(Preset, Budgets), Failure> {
    let card = card(args, target);
    notes.extend(settings.apply_to(job, &card));
    let preset = settings::preset(args, settings, &card);
    let given = Given { args, settings, preset: &preset, card, target };
    let budgets = given.budgets(job, notes)?;
    Ok((preset, budgets))
}

/// What a refusal says on standard error.
pub(crate) fn refusal_text(refusal: &Refusal) -> String {
    let mut text = format!(
        "{}: {}: {} are needed, the limit is {}",
        refusal.mode,
        refusal.reason,
        riverbed::base::format_bytes(refusal.needed_bytes),
        riverbed::base::format_bytes(refusal.limit_bytes)
    );
    for way in &refusal.ways_out {
        text += &format!("\n  {}: {} a pass", way.change, short_seconds(way.seconds_per_pass));
    }
    text
}
