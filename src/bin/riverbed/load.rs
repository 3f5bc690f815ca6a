//! `riverbed load`: a whole model to a device, as fast as the slowest of disk, memory and link.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use riverbed::base::{Error, format_bytes, parse_bytes};
use riverbed::conf::Conf;
use riverbed::device::{Device, Priority, Stream};
use riverbed::offload::{LoadOptions, LoadedModel};
use riverbed::transfer::{DiskOptions, DiskReport, Transfer};
use riverbed::weights::Model;

use crate::Failure;
use crate::expected::Expected;
use crate::interrupt::catch_interrupts;
use crate::model_path::{parse_disk, resolve};
use crate::text::{print, print_json, table};

/// Load a whole model to a device, at the rate of the slowest of disk, memory and link
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed load model.safetensors\n  \
    riverbed load DIR --device cuda:0 --verify\n  \
    riverbed load model.gguf --device host:vram=16GiB,h2d=25GB/s --json\n  \
    riverbed load model.gguf --disk threads,direct=off,depth=4\n\n\
    A model that does not fit is streamed: 'riverbed stream --help'.")]
pub(crate) struct Args {
    /// A .safetensors or .gguf file, a .safetensors.index.json, a directory with one of these,
    /// or the name of a fetched model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The device to load to
    #[arg(long, value_name = "DEVICE", default_value = "host")]
    device: String,
    /// Hard limit on device memory [default: all of the device]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    vram: Option<u64>,
    /// Hard limit on pinned host memory [default: half of the memory that is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    ram: Option<u64>,
    /// How files are read, in settings separated by commas: io_uring or threads, direct=on|off,
    /// depth=1 to 256, read=64KiB to 16MiB [default: what a probe of the files finds]
    #[arg(long, value_name = "SETTINGS", value_parser = parse_disk)]
    disk: Option<DiskOptions>,
    /// Compare a checksum of every tensor on the device with one of the file, afterwards
    #[arg(long)]
    verify: bool,
    /// Alloc-conf string; counts over RIVERBED_ALLOC_CONF
    #[arg(long, value_name = "STR")]
    conf: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of it. Sizes in bytes, rates in bytes a second.
#[derive(Debug, serde::Serialize)]
struct Report {
    version: u32,
    model: String,
    format: String,
    device: String,
    model_bytes: u64,
    tensors: usize,
    limit_bytes: u64,
    reserved_bytes: u64,
    pinned_peak_bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
    link_busy_seconds: f64,
    link_bytes_per_second: f64,
    waited_for: &'static str,
    disk: DiskReport,
    /// None if that was not asked for.
    bytes_verified: Option<u64>,
    mismatches: usize,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let interrupted = catch_interrupts(Arc::new(AtomicBool::new(false)))?;
    let device = Device::open(&args.device)?;
    if device.info().simulated {
        return Err(Error::Unsupported {
            what: "loading".into(),
            by: format!("device '{}', which holds no bytes", device.info().name),
            way_out: "use 'host'".into(),
        }
        .into());
    }
    let mut options = LoadOptions::default();
    if let Some(text) = &args.conf {
        options.conf.merge(&text.parse::<Conf>()?)?;
    }
    if let Some(bytes) = args.ram {
        options.conf = options.conf.with_pinned_limit_bytes(bytes)?;
    }
    options.limit_bytes = args.vram;
    options.loader.disk = args.disk.unwrap_or_default();
    let model = Arc::new(Model::open(resolve(&args.model))?);
    let bar = progress_bar();
    let loaded = LoadedModel::load(&device, Arc::clone(&model), options, |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.arrived_bytes);
        !interrupted.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    let loaded = match loaded {
        Err(Error::Cancelled) if interrupted.load(Ordering::Relaxed) => {
            return Err(Failure::Interrupted("interrupted while loading".into()));
        }
        other => other?,
    };
    let wrong = args.verify.then(|| verify(&device, &loaded, &interrupted)).transpose()?;
    let report = report(&device, &loaded, wrong.as_ref());
    if args.json {
        print_json(&report)?;
    } else {
        print(&report.for_people())?;
    }
    match wrong.as_ref().and_then(|wrong| wrong.first()) {
        None => Ok(()),
        Some(tensor) => Err(Failure::Failed(format!(
            "{} checksum(s) differ from the file, the first is of '{tensor}'",
            report.mismatches
        ))),
    }
}

/// The names of the tensors whose checksum on the device is not that of the file.
fn verify(
    device: &Device,
    loaded: &LoadedModel,
    interrupted: &AtomicBool,
) -> Result<Vec<String>, Failure> {
    let model = loaded.model();
    let expected = Expected::start(model)?;
    let stream = Stream::new(device, Priority::Normal)?;
    let sums = riverbed::pool::Allocator::builder(device)
        .build()?
        .alloc::<u64>(model.tensors().len(), &stream)?;
    sums.fill(0xff, &stream)?;
    for (slot, tensor) in model.tensors().iter().enumerate() {
        loaded.tensors().checksum(&tensor.name, 0..tensor.len_bytes, &sums, slot, &stream)?;
    }
    while !expected.is_done() {
        if interrupted.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted("interrupted while verifying".into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let found = Transfer::new(device)?.read(&sums, loaded.pinned())?;
    let pairs = expected.finish()?.into_iter().zip(found).zip(model.tensors());
    let wrong = pairs.filter(|((expected, found), _)| expected != found);
    Ok(wrong.map(|(_, tensor)| tensor.name.clone()).collect())
}

fn report(device: &Device, loaded: &LoadedModel, wrong: Option<&Vec<String>>) -> Report {
    let (model, pinned) = (loaded.model(), loaded.pinned().stats());
    let (seconds, link) = (loaded.elapsed().as_secs_f64(), loaded.link_busy().as_secs_f64());
    let rate =
        |seconds: f64| if seconds > 0.0 { model.total_bytes() as f64 / seconds } else { 0.0 };
    Report {
        version: 1,
        model: model.path().display().to_string(),
        format: model.format().to_string(),
        device: device.info().name.clone(),
        model_bytes: model.total_bytes(),
        tensors: model.tensors().len(),
        limit_bytes: loaded.allocator().limit_bytes().unwrap_or(u64::MAX),
        reserved_bytes: loaded.allocator().stats().reserved_bytes.all.peak,
        pinned_peak_bytes: pinned.reserved_peak_bytes,
        seconds,
        bytes_per_second: rate(seconds),
        link_busy_seconds: link,
        link_bytes_per_second: rate(link),
        // Copies that fill nine tenths of the time leave little for anything else to cost.
        waited_for: if link >= 0.9 * seconds { "the link" } else { "the disk" },
        disk: loaded.disk().clone(),
        bytes_verified: wrong.map(|wrong| {
            let right = model.tensors().iter().filter(|tensor| !wrong.contains(&tensor.name));
            right.map(|tensor| tensor.len_bytes).sum()
        }),
        mismatches: wrong.map_or(0, Vec::len),
    }
}

impl Report {
    fn for_people(&self) -> String {
        let rate = |rate: f64| format!("{}/s", format_bytes(rate as u64));
        let mut rows = vec![
            (
                "model",
                format!("{} ({}), {}", self.model, self.format, format_bytes(self.model_bytes)),
            ),
            ("device", self.device.clone()),
            (
                "VRAM",
                format!(
                    "{} of {}",
                    format_bytes(self.reserved_bytes),
                    format_bytes(self.limit_bytes)
                ),
            ),
            ("pinned peak", format_bytes(self.pinned_peak_bytes)),
            ("loaded in", format!("{:.3} s, {}", self.seconds, rate(self.bytes_per_second))),
            (
                "link",
                format!(
                    "busy for {:.3} s, {}",
                    self.link_busy_seconds,
                    rate(self.link_bytes_per_second)
                ),
            ),
            ("waited for", self.waited_for.into()),
            ("read by", self.disk.to_string()),
        ];
        if let Some(bytes) = self.bytes_verified {
            let verdict = match self.mismatches {
                0 => format!("{}, all of it", format_bytes(bytes)),
                wrong => format!("{wrong} TENSORS DIFFER"),
            };
            rows.push(("verified", verdict));
        }
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.into(), value]).collect();
        table(&rows, &[])
    }
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template(
        "loading {wide_bar} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
    );
    let bar = ProgressBar::new(0);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
