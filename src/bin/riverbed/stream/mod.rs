//! `riverbed stream`: a model or a job through a VRAM limit by a plan, every byte of every pass
//! verified.

mod meter;
mod parts;
mod passes;
mod planned;
mod rates;
mod report;
mod stalls;
mod table;
mod tally;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use riverbed::base::{Error, parse_bytes_per_second};
use riverbed::device::Device;
use riverbed::transfer::DiskOptions;

use crate::Failure;
use crate::interrupt::catch_interrupts;
use crate::model_path::parse_disk;
use crate::planning::PlanningArgs;
use crate::text::{print, print_json};

/// Stream a model's layers through a VRAM limit and verify every byte of every pass
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed stream model.safetensors --vram 64MiB\n  \
    riverbed stream model.gguf --vram 40MiB --passes 3 --json\n  \
    riverbed stream model.gguf --vram 40MiB --mode group=4,no-stream\n  \
    riverbed stream job.json --vram 8GB --mode a1111:medvram --working-mem 512MiB\n  \
    riverbed stream DIR --config invokeai.yaml\n  \
    riverbed stream DIR --vram 8GB --device host:h2d=12GB/s --layer-ms 5 --prefetch 0\n  \
    riverbed stream DIR --vram 8GB --ram 1GB --disk io_uring,direct=on,depth=32\n\n\
    What is done is what 'riverbed plan' would say; a pass computes checksums, and what\n\
    --layer-ms adds. Files of jobs, and how to choose a mode: docs/offload.md.\n\
    Keys of --conf: 'riverbed conf'. Devices and their settings: 'riverbed devices';\n\
    host:vram=8GiB,h2d=12GB/s,d2h=12GB/s,copy_engines=2 shapes the host device.")]
pub(crate) struct Args {
    /// A .safetensors or .gguf file, a .safetensors.index.json, a directory with one of these,
    /// the name of a fetched model, or a .json file of a job over such
    #[arg(value_name = "MODEL|JOB")]
    target: PathBuf,
    #[command(flatten)]
    planning: PlanningArgs,
    /// The device to run on
    #[arg(long, value_name = "DEVICE", default_value = "host")]
    device: String,
    /// Rate from pinned memory to the device [default: measured before anything is loaded, where
    /// the limits leave 16 MiB of either memory for that]
    #[arg(long, value_name = "RATE", value_parser = parse_bytes_per_second)]
    link: Option<u64>,
    /// Units to load ahead, as far as the limit has room for them; 0 = off
    /// [default: as many as there is room for]
    #[arg(long, value_name = "DEPTH", value_parser = parse_depth)]
    prefetch: Option<usize>,
    /// Compute time to add to each layer and what stands beside them, in milliseconds
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = parse_ms)]
    layer_ms: f64,
    /// How files are read, in settings separated by commas: io_uring or threads, direct=on|off,
    /// depth=1 to 256, read=64KiB to 16MiB [default: what a probe of the files finds]
    #[arg(long, value_name = "SETTINGS", value_parser = parse_disk)]
    disk: Option<DiskOptions>,
    /// Leave the comparison with the file out, which reads all of it once more
    #[arg(long)]
    no_verify: bool,
    /// Alloc-conf string; counts over RIVERBED_ALLOC_CONF
    #[arg(long, value_name = "STR")]
    conf: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_depth(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&depth| depth <= 1024).ok_or_else(|| "a number from 0 to 1024".into())
}

fn parse_ms(text: &str) -> Result<f64, String> {
    let allowed = |ms: &f64| (0.0..=3_600_000.0).contains(ms);
    text.parse().ok().filter(allowed).ok_or_else(|| "milliseconds from 0 to 3600000".into())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let loading = Arc::new(AtomicBool::new(true));
    let interrupted = catch_interrupts(Arc::clone(&loading))?;
    let device = Device::open(&args.device)?;
    if device.info().simulated {
        return Err(Error::Unsupported {
            what: "streaming, which verifies every byte,".into(),
            by: format!("device '{}', which holds none", device.info().name),
            way_out: "use 'host', or 'riverbed plan'".into(),
        }
        .into());
    }
    let planned = planned::of(&device, args)?;
    let offloaded = planned.load(&device, args)?;
    loading.store(false, Ordering::Relaxed);
    let settings = passes::Settings {
        layer_seconds: args.layer_ms / 1e3,
        interrupted,
        verifies: !args.no_verify,
    };
    let outcome = passes::run(&device, &planned, &offloaded, &settings)?;
    let report = report::Report::new(&args.target, &device, &planned, (&offloaded, &outcome))?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&table::for_people(&report))?;
    }
    match outcome.mismatches.first() {
        None => Ok(()),
        Some(tensor) => Err(Failure::Failed(format!(
            "{} checksum(s) differ from the file, the first is of '{tensor}'",
            outcome.mismatches.len()
        ))),
    }
}
