//! `riverbed pack`: buffers with known lifetimes into one span of memory.

mod csv;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use riverbed::base::{FileError, format_bytes, parse_bytes};
use riverbed::pack::{Options, Packing, Verdict, Watch, pack, verify};

use crate::Failure;
use crate::text::{print, print_json};
use csv::Table;
use report::Report;

/// How often the progress is shown.
const LOOK: Duration = Duration::from_millis(100);

/// Pack buffers with known lifetimes into as little memory as possible
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed pack buffers.csv\n  \
    riverbed pack buffers.csv --align 512 --out packed.csv\n  \
    riverbed pack buffers.csv --capacity 1MiB --json\n\n\
    FILE is in MiniMalloc's form. Its first line names the columns: id,lower,upper,size, in any\n\
    order; a buffer is in use from lower up to, not including, upper. With the columns start and\n\
    end instead, end is the last moment of use. --out adds a column: offset.\n\n\
    With --capacity the exit code is 0 when everything fits, and 1 when it was proved that it\n\
    cannot or no way was found within the budget.")]
pub(crate) struct Args {
    /// The buffers, as comma-separated values
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Be content with a packing within this size [default: as low as can be]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    capacity: Option<u64>,
    /// Make offsets multiples of this
    #[arg(long, value_name = "SIZE", default_value = "1", value_parser = parse_align)]
    align: u64,
    /// Threads to use; 0 = as many as the machine has. The packing is the same
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    threads: usize,
    /// Work to spend on searching, in steps; 1e9 are some seconds [default: 2e9]
    #[arg(long, value_name = "STEPS", value_parser = parse_steps)]
    budget: Option<u64>,
    /// End after this many seconds with the best so far
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    time_limit: Option<Duration>,
    /// Write the buffers with their offsets to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_align(text: &str) -> Result<u64, String> {
    parse_bytes(text)?.checked_sub(1).map(|below| below + 1).ok_or_else(|| "1 or more".into())
}

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count <= 1024).ok_or_else(|| "a number from 0 to 1024".into())
}

fn parse_steps(text: &str) -> Result<u64, String> {
    let whole = text.parse::<u64>().ok();
    let allowed = |steps: &f64| (0.0..=1e18).contains(steps);
    let decimal = || text.parse().ok().filter(allowed).map(|steps| steps as u64);
    whole.or_else(decimal).ok_or_else(|| "a number of steps up to 1e18, like 5e9".into())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let allowed = |seconds: &f64| (0.0..=1e9).contains(seconds);
    let seconds: Option<f64> = text.parse().ok().filter(allowed);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds from 0 to 1e9".into())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let table = Table::read(&args.file)?;
    let watch = Arc::new(Watch::new());
    let interrupted = Arc::clone(&watch);
    ctrlc::set_handler(move || interrupted.cancel())
        .map_err(|error| Failure::Failed(format!("cannot watch for Ctrl-C: {error}")))?;
    let started = Instant::now();
    let mut options = Options::default();
    options.capacity_bytes = args.capacity;
    options.align_bytes = args.align;
    options.threads = args.threads;
    options.budget_steps = args.budget.unwrap_or(options.budget_steps);
    options.deadline = args.time_limit.and_then(|limit| started.checked_add(limit));
    options.watch = Some(Arc::clone(&watch));
    let packing = pack_watched(&table, &options, &watch)?;
    let elapsed = started.elapsed();
    // What is handed out was judged by other code than what made it.
    verify(&table.buffers, &packing.offsets, packing.height_bytes)?;
    if let Some(path) = &args.out {
        std::fs::write(path, table.with_offsets(&packing.offsets)).map_err(|error| {
            riverbed::Error::from(FileError::new(path, format!("cannot be written: {error}")))
        })?;
    }
    let report = Report::new(&args.file, &table.buffers, &packing, args.capacity, elapsed);
    if args.json { print_json(&report) } else { print(&report.for_people()) }?;
    if watch.is_cancelled() {
        return Err(Failure::Interrupted("interrupted: this is the best so far".into()));
    }
    judge(&packing, args.capacity)
}

/// Packs, and meanwhile shows how far it is where standard error is a terminal.
fn pack_watched(table: &Table, options: &Options, watch: &Watch) -> Result<Packing, Failure> {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    bar.set_style(style.map_err(|error| Failure::Failed(error.to_string()))?);
    let packing = std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let work = move || {
            // Dropped when done, also by a panic.
            let _done = done;
            pack(&table.buffers, options)
        };
        let worker = std::thread::Builder::new()
            .name("riverbed-packer".into())
            .spawn_scoped(scope, work)
            .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
        while is_done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            bar.set_message(match watch.best_bytes() {
                0 => format!("packing {} buffers", table.buffers.len()),
                best => format!("searching below {}", format_bytes(best)),
            });
            bar.tick();
        }
        let joined = worker.join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(Failure::from)
    });
    bar.finish_and_clear();
    packing
}

fn judge(packing: &Packing, capacity: Option<u64>) -> Result<(), Failure> {
    let Some(capacity) = capacity.filter(|&capacity| packing.height_bytes > capacity) else {
        return Ok(());
    };
    let why = if packing.verdict == Verdict::Impossible {
        format!("proved impossible: no packing is lower than {}", packing.bound_bytes)
    } else {
        "not found within the budget: give more with --budget, or a larger capacity".into()
    };
    let height = packing.height_bytes;
    Err(Failure::Failed(format!("capacity of {capacity}: {why}; the best found needs {height}")))
}
