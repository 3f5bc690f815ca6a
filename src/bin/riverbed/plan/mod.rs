//! `riverbed plan`: what would live where, how long a pass would take, and why. Nothing is
//! loaded.

mod args;
mod budgets;
mod json;
mod picture;
mod rates;
mod rules;
mod table;
mod timeline;

use riverbed::offload::{Backing, DescribeOptions, DescribedJob, Overrides};
use riverbed::plan::{Job, Plan, Refusal, plan};

use crate::Failure;
use crate::model_path::resolve;
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
    let described = describe(args)?;
    let DescribedJob { job, mut notes, backings, .. } = described;
    notes.extend(note_on_tokens(args, &backings));
    let target = rates::target(args)?;
    let budgets = budgets::of(args, &target, &job, &mut notes)?;
    let rules = rules::of(args)?;
    let plan_with = |more: u64| {
        let mut budgets = budgets;
        budgets.vram_bytes = budgets.vram_bytes.saturating_add(more);
        plan(&job, &target.rates, &budgets, &rules)
    };
    match plan_with(0) {
        Ok(plan) => {
            let with_more = plan_with(MORE_BYTES).ok();
            let outcome = Outcome { job, plan, with_more, notes };
            if args.json {
                print_json(&json::Planned::new(&outcome))
            } else {
                print(&table::for_people(&outcome))
            }
        }
        Err(refusal) => refuse(args, &refusal, &notes),
    }
}

fn describe(args: &Args) -> Result<DescribedJob, Failure> {
    fn texts(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }
    let mut options = DescribeOptions::default();
    options.tokens = args.tokens.unwrap_or(options.tokens);
    options.dtype = args.dtype;
    options.tables = args.tables.into();
    options.overrides =
        Overrides::new(&texts(&args.always), &texts(&args.never), &texts(&args.unit))?;
    let path = resolve(&args.target);
    Ok(DescribedJob::open(path, args.layers.as_deref(), args.passes, &options)?)
}

/// Without a number of tokens a model is counted as one that makes text, token by token.
fn note_on_tokens(args: &Args, backings: &[Backing]) -> Option<String> {
    let is_model = |backing: &Backing| matches!(backing, Backing::Model { .. });
    let assumed = args.tokens.is_none() && backings.iter().any(is_model);
    assumed.then(|| {
        "work is counted for 1 token a pass where nothing else is said: --tokens N for more".into()
    })
}

fn refuse(args: &Args, refusal: &Refusal, notes: &[String]) -> Result<(), Failure> {
    if args.json {
        print_json(&json::Refused::new(refusal, notes))?;
    }
    Err(Failure::Failed(table::refusal(refusal)))
}
