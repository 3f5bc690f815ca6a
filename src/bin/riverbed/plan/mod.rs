//! `riverbed plan`: what would live where, how long a pass would take, and why. Nothing is
//! loaded.

mod args;
mod json;
mod picture;
mod rates;
mod table;
mod timeline;

use riverbed::modes::OffloadSettings;
use riverbed::offload::{Backing, DescribeOptions, DescribedJob, Tables};
use riverbed::plan::{Budgets, Job, Plan, WayOut, plan};

use crate::Failure;
use crate::planning::{self, TablesArg, bounds, card, for_models, refusal_text, settings_of};
use crate::text::{print, print_json};

pub(crate) use args::Args;

/// What "1 GB more" is, in bytes.
const MORE_BYTES: u64 = 1_000_000_000;

/// A plan with what is told beside it.
struct Outcome {
    job: Job,
    plan: Plan,
    /// The same with [`MORE_BYTES`] more device memory.
    with_more: Option<Plan>,
    /// What was assumed, in sentences.
    notes: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let planning = &args.planning;
    let mut settings = settings_of(planning)?;
    let tables = planning.tables.into();
    let dtype = settings.storage_dtype;
    let mut described = describe(args, &settings, tables)?;
    settings = for_models(settings, &described.backings);
    if args.dtype.is_none() && settings.storage_dtype != dtype {
        described = describe(args, &settings, tables)?;
    }
    let DescribedJob { mut job, mut notes, backings, .. } = described;
    notes.extend(settings.warnings.iter().cloned());
    notes.extend(notes_on_options(args, &backings));
    let target = rates::target(args)?;
    let (preset, budgets) = bounds(planning, &settings, &target, &mut job, &mut notes)?;
    let plan_in = |job: &Job, budgets: &Budgets| plan(job, &target.rates, budgets, &preset.rules);
    match plan_in(&job, &budgets) {
        Ok(planned) => {
            let vram_bytes = budgets.vram_bytes.saturating_add(MORE_BYTES);
            let with_more = plan_in(&job, &Budgets { vram_bytes, ..budgets }).ok();
            let outcome = Outcome { job, plan: planned, with_more, notes };
            if args.json {
                print_json(&json::Planned::new(&outcome))
            } else {
                print(&table::for_people(&outcome))
            }
        }
        Err(mut refusal) => {
            // Embedding tables that stay take room that a pass hardly needs.
            if planning.tables != TablesArg::Host && backings.iter().any(is_model) {
                let mut job = describe(args, &settings, Tables::Host)?.job;
                settings.apply_to(&mut job, &card(planning, &target));
                let planned = plan_in(&job, &budgets).ok();
                refusal.ways_out.extend(planned.as_ref().and_then(tables_on_host));
            }
            if args.json {
                print_json(&json::Refused::new(&refusal, &notes))?;
            }
            Err(Failure::Failed(refusal_text(&refusal)))
        }
    }
}

/// What a refused job would take with its tables in host memory.
fn tables_on_host(planned: &Plan) -> Option<WayOut> {
    let seconds_per_pass = planned.main_phase()?.seconds_per_pass;
    Some(WayOut { change: "--tables host".into(), seconds_per_pass })
}

fn describe(
    args: &Args,
    settings: &OffloadSettings,
    tables: Tables,
) -> Result<DescribedJob, Failure> {
    let mut options = DescribeOptions::default();
    options.tokens = args.tokens.unwrap_or(options.tokens);
    options.dtype = args.dtype.or(settings.storage_dtype);
    options.tables = tables;
    planning::describe(&args.planning, &args.target, options)
}

fn is_model(backing: &Backing) -> bool {
    matches!(backing, Backing::Model { .. })
}

/// What is assumed where an option is not given, and which are of no use here.
fn notes_on_options(args: &Args, backings: &[Backing]) -> Vec<String> {
    let models = backings.iter().any(is_model);
    if models && args.tokens.is_none() {
        let note = "work is counted for 1 token a pass where nothing else is said: --tokens N for \
                    more";
        return vec![note.into()];
    }
    let of_models = [
        ("--tokens", args.tokens.is_some()),
        ("--layers", args.planning.layers.is_some()),
        ("--tables", args.planning.tables != TablesArg::Device),
    ];
    let unused = of_models.into_iter().filter(|&(_, given)| given && !models);
    unused
        .map(|(option, _)| format!("{option} has no effect: there is no model, only shapes"))
        .collect()
}
