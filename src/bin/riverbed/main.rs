//! The `riverbed` command line: one file a subcommand.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

mod bench;
mod conf;
mod devices;
mod doctor;
mod expected;
mod inspect;
mod interrupt;
mod load;
mod model_path;
mod pack;
mod plan;
mod planning;
mod replay;
mod selftest;
mod stream;
mod text;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// How long the end waits for devices to take back what was given up, where work in flight still
/// stands in the way; and after Ctrl-C.
const SETTLE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(1)];

/// The version and what it was built for.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("RIVERBED_TARGET"), ")");

/// The memory under GPU streams: devices, alloc-confs, replayed traces, packing, and models
/// loaded, or streamed through a hard VRAM limit.
#[derive(Debug, Parser)]
#[command(name = "riverbed", version = VERSION, arg_required_else_help = true)]
#[command(after_help = "Sizes are bytes or have a unit: GB is 10^9, GiB is 2^30.\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n\
    RIVERBED_LOG=debug (or any tracing filter) shows what happens underneath.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Args),
    Devices(devices::Args),
    Doctor(doctor::Args),
    Conf(conf::Args),
    Inspect(inspect::Args),
    Load(load::Args),
    Pack(pack::Args),
    Plan(plan::Args),
    Replay(replay::Args),
    Selftest(selftest::Args),
    Stream(stream::Args),
}

/// Why a command ends without being done.
enum Failure {
    /// What was asked could not be done.
    Failed(String),
    /// What was asked makes no sense.
    Usage(String),
    /// Ctrl-C.
    Interrupted(String),
}

impl From<riverbed::Error> for Failure {
    fn from(error: riverbed::Error) -> Self {
        match error {
            riverbed::Error::InvalidArgument { .. } | riverbed::Error::Conf { .. } => {
                Self::Usage(error.to_string())
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let default = match command {
        // One check lets a host function panic, and that is no news.
        Command::Selftest(_) => "warn,riverbed::host_function=off",
        // What is warned of stands in the report.
        Command::Doctor(_) => "error",
        _ => "warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("RIVERBED_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match command {
        Command::Bench(args) => bench::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Conf(args) => conf::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Stream(args) => stream::run(&args),
    };
    let interrupted = matches!(outcome, Err(Failure::Interrupted(_)));
    if !riverbed::device::settle(SETTLE[usize::from(interrupted)]) {
        tracing::debug!("the process ends with work in flight");
    }
    let (code, message) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => (1, message),
        Err(Failure::Usage(message)) => (2, message),
        Err(Failure::Interrupted(message)) => (130, message),
    };
    // `eprintln!` would panic where nobody reads any more.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(code)
}
