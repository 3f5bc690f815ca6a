//! `riverbed bench`: what this machine can do, and how near Riverbed comes to it.

mod bare;
mod copy;
mod flux;
mod io;
mod pass;
mod raw;
mod rounds;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use riverbed::base::parse_bytes;

use self::flux::{Generated, Shape};
use crate::Failure;
use crate::interrupt::catch_interrupts;

/// Measure files, copies and streamed passes beside the limits of this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed bench io model.safetensors\n  \
    riverbed bench io --generate 6GB --dir /data --device cuda:0 --json\n  \
    riverbed bench copy --device cuda:0 --bytes 1GB\n  \
    riverbed bench pass --generate 2GB --link 2GB/s\n\n\
    Subjects take turns, round after round; figures are medians, 'spread' is the slowest over\n\
    the quickest. A generated model has the shape of FLUX.1 and is removed afterwards.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Io(io::Args),
    Copy(copy::Args),
    Pass(pass::Args),
}

/// What every bench takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// How often each subject is measured
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where a bench's model comes from.
#[derive(Debug, clap::Args)]
struct Source {
    /// Generate a model of about this size
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    generate: Option<u64>,
    /// Directory for the generated model [default: the temporary directory]
    #[arg(long, value_name = "DIR", requires = "generate")]
    dir: Option<PathBuf>,
}

impl Source {
    fn write(&self, shape: Shape, default_bytes: u64) -> Result<Generated, Failure> {
        let directory = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let bar = spinner();
        bar.set_message("writing a model");
        let written = Generated::write(&directory, shape, self.generate.unwrap_or(default_bytes));
        bar.finish_and_clear();
        written
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupted = catch_interrupts(Arc::new(AtomicBool::new(false)))?;
    match &args.what {
        What::Io(args) => io::run(args, &interrupted),
        What::Copy(args) => copy::run(args, &interrupted),
        What::Pass(args) => pass::run(args, &interrupted),
    }
}

/// The end of a bench that Ctrl-C ends.
fn check(interrupted: &AtomicBool) -> Result<(), Failure> {
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted("interrupted while measuring".into()));
    }
    Ok(())
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
