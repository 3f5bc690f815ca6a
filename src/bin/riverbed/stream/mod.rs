//! `riverbed stream`: a model's layers through a VRAM limit, every byte of every pass verified.

mod job;
mod meter;
mod parts;
mod report;
mod stalls;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use riverbed::base::{Error, parse_bytes};
use riverbed::conf::Conf;
use riverbed::device::Device;
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::prefetch::PrefetchOptions;
use riverbed::transfer::DiskOptions;
use riverbed::weights::{Grouping, Model};

use crate::Failure;
use crate::interrupt::catch_interrupts;
use crate::model_path::{parse_disk, resolve};
use crate::text::{print, print_json};

/// Stream a model's layers through a VRAM limit and verify every byte of every pass
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed stream model.safetensors --vram 64MiB\n  \
    riverbed stream model.gguf --vram 40MiB --passes 3 --json\n  \
    riverbed stream DIR --vram 8GB --device host:h2d=12GB/s --layer-ms 5 --prefetch 0\n  \
    riverbed stream DIR --vram 8GB --ram 1GB --disk io_uring,direct=on,depth=32\n\n\
    Keys of --conf: 'riverbed conf'. Devices and their settings: 'riverbed devices';\n\
    host:vram=8GiB,h2d=12GB/s,d2h=12GB/s,copy_engines=2 shapes the host device.")]
pub(crate) struct Args {
    /// A .safetensors or .gguf file, a .safetensors.index.json, a directory with one of these,
    /// or the name of a fetched model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Hard limit on device memory
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    vram: u64,
    /// The device to run on
    #[arg(long, value_name = "DEVICE", default_value = "host")]
    device: String,
    /// How often to run through the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    passes: u32,
    /// Units to load ahead, as far as the limit has room for them; 0 = off
    /// [default: as many as there is room for]
    #[arg(long, value_name = "DEPTH", value_parser = parse_depth)]
    prefetch: Option<usize>,
    /// Compute time to add to each layer, in milliseconds
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = parse_ms)]
    layer_ms: f64,
    /// Hard limit on pinned host memory; weights that fit stay there after their first read
    /// [default: half of the memory that is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    ram: Option<u64>,
    /// Group layers by this tensor name prefix, {i} being the layer's number
    #[arg(long, value_name = "PATTERN")]
    layers: Option<String>,
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
            way_out: "use 'host'".into(),
        }
        .into());
    }
    // Loading puts this over RIVERBED_ALLOC_CONF.
    let mut conf = Conf::default();
    if let Some(text) = &args.conf {
        conf.merge(&text.parse()?)?;
    }
    if let Some(bytes) = args.ram {
        conf = conf.with_pinned_limit_bytes(bytes)?;
    }
    let model = Arc::new(Model::open(resolve(&args.model))?);
    let grouping = match &args.layers {
        Some(pattern) => Grouping::by_pattern(&model, pattern)?,
        None => Grouping::by_preset(&model)?,
    };
    let mut options = StreamOptions::new(args.vram);
    options.conf = conf;
    options.prefetch.depth = args.prefetch.unwrap_or(PrefetchOptions::AS_FAR_AS_ROOM);
    options.prefetch.timing = true;
    options.loader.disk = args.disk.unwrap_or_default();
    let streamed = StreamedModel::load(&device, Arc::clone(&model), &grouping, options)?;
    loading.store(false, Ordering::Relaxed);
    let settings = job::Settings {
        passes: args.passes,
        layer_ns: (args.layer_ms * 1e6) as u64,
        interrupted,
        verifies: !args.no_verify,
    };
    let outcome = job::run(&device, &streamed, &settings)?;
    let report = report::Report::new(&device, &streamed, &outcome);
    if args.json {
        print_json(&report)?;
    } else {
        print(&report.for_people())?;
    }
    match outcome.mismatches.first() {
        None => Ok(()),
        Some(tensor) => Err(Failure::Failed(format!(
            "{} checksum(s) differ from the file, the first is of '{tensor}'",
            outcome.mismatches.len()
        ))),
    }
}
