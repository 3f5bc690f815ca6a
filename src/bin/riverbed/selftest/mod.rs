//! `riverbed selftest`: whether a device keeps its contract, and how fast it is.

mod profile;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use riverbed::Error;
use riverbed::device::Device;
use riverbed::selftest::{self, Options, Watch};

use crate::Failure;
use crate::interrupt::catch_interrupts;
use crate::text::{print, print_json};
use profile::ProfileFile;

/// Check that a device keeps its contract, and measure it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed selftest --device host --quick\n  \
    riverbed selftest --device sim:rtx4090 --json\n  \
    riverbed selftest --device sim:h100 --save-profile my-card.json\n  \
    riverbed plan MODEL --vram 8GB --tflops 90 --device sim:profile=my-card.json\n\n\
    Some seconds with --quick, else up to some minutes. A check that needs what the device has\n\
    not is skipped, and says so. A device that others use too is not filled.\n\
    The exit code is 1 when a check fails or a measurement cannot be taken; a bar that is missed\n\
    is reported and no failure.")]
pub(crate) struct Args {
    /// The device to check
    #[arg(long, value_name = "DEVICE", default_value = "host")]
    device: String,
    /// Fewer sizes and repeats
    #[arg(long)]
    quick: bool,
    /// Write what was measured as a profile of the simulator
    #[arg(long, value_name = "FILE")]
    save_profile: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupted = catch_interrupts(Arc::new(AtomicBool::new(false)))?;
    let device = Device::open(&args.device)?;
    let profile = args.save_profile.as_deref().map(ProfileFile::create).transpose()?;
    let looker = Looker { bar: progress_bar(), interrupted };
    let outcome = selftest::run(&device, Options::new(args.quick), &looker);
    looker.bar.finish_and_clear();
    let report = match outcome {
        Err(Error::Cancelled) => return Err(Failure::Interrupted("interrupted".into())),
        outcome => outcome?,
    };
    if args.json {
        print_json(&report)?;
    } else {
        print(&table::for_people(&report))?;
    }
    if report.failed > 0 {
        return Err(Failure::Failed(format!("{} check(s) failed", report.failed)));
    }
    match profile {
        Some(file) => file.write(&report.profile()?),
        None => Ok(()),
    }
}

struct Looker {
    bar: ProgressBar,
    interrupted: Arc<AtomicBool>,
}

impl Watch for Looker {
    fn begins(&self, what: &str, step: usize, steps: usize) {
        self.bar.set_length(steps as u64);
        self.bar.set_position(step as u64);
        self.bar.set_message(what.replace('_', " "));
    }

    fn stop(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// On stderr, and nothing where that is no terminal.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}");
    let bar = ProgressBar::new(0);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
