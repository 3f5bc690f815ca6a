//! `riverbed conf`: what an alloc-conf string means.

use riverbed::conf::{Conf, OptionReport, Pytorch, Status};

use crate::Failure;
use crate::text::{print, print_json, table};

/// Explain an alloc-conf string: what is in effect, and what each key does
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed conf 'max_split_size_mb:64,garbage_collection_threshold:0.8'\n  \
    riverbed conf --json 'expandable_segments:True'\n  \
    riverbed conf --process-pool 'limit_mb:8192'      # for process_pool::install\n  \
    riverbed conf --pytorch-env      # what the PyTorch variables set here would mean\n  \
    riverbed conf                    # RIVERBED_ALLOC_CONF and the defaults")]
pub(crate) struct Args {
    /// The string, as PyTorch's PYTORCH_CUDA_ALLOC_CONF takes it. It counts over RIVERBED_ALLOC_CONF
    #[arg(value_name = "STRING")]
    conf: Option<String>,
    /// Where RIVERBED_ALLOC_CONF is not set, read PyTorch's variables too
    #[arg(long)]
    pytorch_env: bool,
    /// Tell what it means for the pool of the whole process, where the driver places
    #[arg(long)]
    process_pool: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report {
    version: u32,
    conf: String,
    policy: String,
    process_pool: bool,
    options: Vec<OptionReport>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let pytorch = if args.pytorch_env { Pytorch::Honour } else { Pytorch::Ignore };
    let given = args.conf.as_deref().unwrap_or_default();
    let given = given.parse::<Conf>()?;
    let process_pool = args.process_pool;
    let conf = if process_pool { given.for_process_pool()? } else { given }.over_env(pytorch)?;
    let options = if process_pool { conf.explain_for_process_pool() } else { conf.explain() };
    if args.json {
        let (policy, conf) = (conf.policy().to_string(), conf.to_string());
        return print_json(&Report { version: 1, conf, policy, process_pool, options });
    }
    print(&for_people(&conf, &options, process_pool))
}

fn for_people(conf: &Conf, options: &[OptionReport], process_pool: bool) -> String {
    let mut rows = vec![["KEY", "VALUE", "FROM", "WHAT IT DOES"].map(String::from).to_vec()];
    for option in options {
        let what = match option.unread && process_pool {
            true => format!("{} [no effect on the process pool]", option.help),
            false => effect(option, conf.policy()),
        };
        rows.push(vec![option.key.into(), option.value.clone(), option.source.to_string(), what]);
    }
    format!("policy {}; set: {}\n\n{}", conf.policy(), shown(conf), table(&rows, &[]))
}

/// What a key does, and what keeps it from having an effect.
pub(crate) fn effect(option: &OptionReport, policy: &str) -> String {
    let note = match option.status {
        Status::NotYet(why) => format!(" [no effect yet: {why}]"),
        Status::ByDesign(why) => format!(" [{why}]"),
        _ if option.unread => format!(" [no effect under policy {policy}]"),
        _ => String::new(),
    };
    format!("{}{note}", option.help)
}

fn shown(conf: &Conf) -> String {
    let text = conf.to_string();
    if text.is_empty() { "nothing, all defaults".into() } else { text }
}
