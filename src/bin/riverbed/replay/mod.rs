//! `riverbed replay`: recorded allocations against a policy and conf, measured.

mod capacity;
mod compare;
mod perturb;
mod progress;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use riverbed::conf::Conf;
use riverbed::replay::{DEVICE, Perturb, Plan, Route, Score, Setup, Stop, Trace, read, score};

use self::capacity::CapacityLimit;
use self::progress::Progress;
use crate::Failure;
use crate::interrupt::catch_interrupts;
use crate::text::{print, print_json};

/// Replay recorded allocations against a policy and conf: memory held, driver calls, time
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed replay trace.csv.gz\n  \
    riverbed replay snapshot.pickle --conf 'max_split_size_mb:128' --capacity 24GB\n  \
    riverbed replay trace.csv.gz --capacity 1.05x       # of the peak of live bytes\n  \
    riverbed replay --compare trace.csv.gz              # which conf suits it best\n  \
    riverbed replay --json traces/*.csv.gz              # one line of JSON a trace\n\n\
    A trace is RMM's log (RMM_LOG_FILE, CSV) or a PyTorch snapshot\n\
    (torch.cuda.memory._dump_snapshot, pickle or JSON), plain or gzip. Keys of --conf:\n\
    'riverbed conf'. What is measured and how: docs/replay.md.")]
pub(crate) struct Args {
    /// RMM logs or PyTorch memory snapshots
    #[arg(value_name = "TRACE", required = true)]
    traces: Vec<PathBuf>,
    /// Alloc-conf string; counts over RIVERBED_ALLOC_CONF
    #[arg(long, value_name = "STR")]
    conf: Option<String>,
    /// The policy; the same as policy:P in the conf
    #[arg(long, value_name = "P")]
    policy: Option<String>,
    /// The device to replay on
    #[arg(long, value_name = "DEVICE", default_value = DEVICE)]
    device: String,
    /// Hard limit on reserved memory: a size, or a multiple of the peak of live bytes (1.02x)
    #[arg(long, value_name = "SIZE|F", value_parser = capacity::parse)]
    capacity: Option<CapacityLimit>,
    /// Also measure this many threads, each replaying the trace on a stream of its own
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    /// Warm replays
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// How much to measure [default: warm; all with --json]
    #[arg(long, value_name = "WHAT")]
    measure: Option<Measure>,
    /// Also measure replays of which each has this share of its sizes changed: SHARE[,SEED], like
    /// 5% or 0.05,7
    #[arg(long, value_name = "SHARE", value_parser = perturb::parse)]
    perturb: Option<Perturb>,
    /// Rank policies and confs on the trace
    #[arg(long, conflicts_with_all = ["measure", "threads", "perturb"])]
    compare: bool,
    /// Of a snapshot with events of several devices, replay this one only
    #[arg(long, value_name = "N")]
    device_index: Option<usize>,
    /// Call the allocator by bare addresses in place of stream handles
    #[arg(long)]
    raw: bool,
    /// Print one JSON object a trace, each on a line
    #[arg(long)]
    json: bool,
}

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Measure {
    /// A fresh replay: exact counts, soon done
    Fresh,
    /// Warm replays too: time over a filled cache
    Warm,
    /// Also single calls, the least memory that is enough, one and two threads
    All,
}

fn parse_threads(text: &str) -> Result<usize, String> {
    let allowed = |threads: &usize| (1..=256).contains(threads);
    text.parse().ok().filter(allowed).ok_or_else(|| "a number from 1 to 256".into())
}

impl Args {
    fn conf(&self) -> Result<Conf, Failure> {
        let mut conf = Conf::default();
        if let Some(text) = &self.conf {
            conf.merge(&text.parse()?)?;
        }
        if let Some(policy) = &self.policy {
            conf = conf.with_policy(policy)?;
        }
        Ok(conf)
    }

    fn setup(&self, trace: &Trace) -> Result<Setup, Failure> {
        let capacity_bytes = self.capacity.map(|capacity| capacity.bytes(trace.peak_live_bytes()));
        let route = if self.raw { Route::Raw } else { Route::Stream };
        Ok(Setup { conf: self.conf()?, capacity_bytes, route, ..Setup::new(&self.device) })
    }

    fn plan(&self) -> Plan {
        let default = if self.json { Measure::All } else { Measure::Warm };
        let measure = self.measure.unwrap_or(default);
        let all = measure == Measure::All;
        let mut threads = if all { vec![1, 2] } else { Vec::new() };
        threads.extend(self.threads.filter(|count| !threads.contains(count)));
        let repeat = if measure == Measure::Fresh { 0 } else { self.repeat };
        Plan { repeat, per_call: all, capacity: all, perturb: self.perturb, threads }
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let loading = Arc::new(AtomicBool::new(true));
    let interrupted = catch_interrupts(Arc::clone(&loading))?;
    args.conf()?;
    let mut traces = Vec::new();
    for path in &args.traces {
        traces.extend(read(path, args.device_index)?);
    }
    loading.store(false, Ordering::Relaxed);
    if args.compare {
        return compare::run(args, &traces, &interrupted);
    }
    let plan = args.plan();
    let mut scores = Vec::new();
    for trace in &traces {
        let setup = args.setup(trace)?;
        let progress = Progress::new(trace, plan.ops_expected(trace), &interrupted);
        let score = score(trace, &setup, &plan, &progress);
        progress.finish();
        let score = score.map_err(|stop| failure(stop, trace, scores.len()))?;
        if args.json {
            print_json(&score)?;
        }
        scores.push(score);
    }
    if !args.json {
        print(&tables::scores(&scores))?;
    }
    all_completed(&scores)
}

/// Fails with the first replay that did not complete.
fn all_completed(scores: &[Score]) -> Result<(), Failure> {
    let mut failed =
        scores.iter().filter_map(|score| Some((&score.trace, score.failure.as_ref()?)));
    let Some((trace, first)) = failed.next() else { return Ok(()) };
    let more = match failed.count() {
        0 => String::new(),
        more => format!(" (and {more} more trace(s) failed)"),
    };
    Err(Failure::Failed(format!("{trace}: {first}{more}")))
}

/// Why nothing could be measured.
fn failure(stop: Stop, trace: &Trace, done: usize) -> Failure {
    match stop {
        Stop::Interrupted => Failure::Interrupted(format!("interrupted after {done} trace(s)")),
        Stop::Setup(error) => (*error).into(),
        other => Failure::Failed(format!("{}: {other}", trace.name())),
    }
}
