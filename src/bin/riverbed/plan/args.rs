//! What `riverbed plan` is asked.

use std::path::PathBuf;

use riverbed::base::parse_bytes_per_second;
use riverbed::offload::parse_dtype;
use riverbed::weights::Dtype;

use crate::planning::PlanningArgs;

/// Plan what lives where under a VRAM limit, and how long a pass takes; loads nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed plan model.safetensors --vram 8GB --device sim:rtx4090 --tokens 4608\n  \
    riverbed plan flux-dev.json --vram 8GB --link 25GB/s --tflops 90\n  \
    riverbed plan job.json --vram auto --device host --tflops 0.1 --working-mem 2GiB\n  \
    riverbed plan job.json --mode balanced=0.2,0.6 --device sim:rtx4090\n  \
    riverbed plan DIR --vram 6GB --device sim:rtx3060 --dtype fp8 --never '^lm_head' --json\n\n\
    Files of shapes and of jobs: docs/offload.md. The exit code is 1 when nothing fits; the\n\
    message says what would.")]
pub(crate) struct Args {
    /// A model as for 'riverbed inspect', or a .json file of shapes or of a job
    #[arg(value_name = "MODEL|SHAPES|JOB")]
    pub(super) target: PathBuf,
    #[command(flatten)]
    pub(super) planning: PlanningArgs,
    /// The device to plan for: sim:rtx4090 without the card, or one of this machine, whose link
    /// is measured
    #[arg(long, value_name = "DEVICE", required_unless_present = "link")]
    pub(super) device: Option<String>,
    /// Rate from pinned memory to the device (12.5, 25 and 52 GB/s are usual for PCIe 3, 4 and 5)
    #[arg(long, value_name = "RATE", value_parser = parse_bytes_per_second)]
    pub(super) link: Option<u64>,
    /// Sustained compute, in 10^12 operations a second [default: known for sim:rtx3060,
    /// sim:rtx4090 and sim:h100]
    #[arg(long, value_name = "X", value_parser = parse_tflops)]
    pub(super) tflops: Option<f64>,
    /// Rate from disk to host memory, where --ram is less than the weights
    #[arg(long, value_name = "RATE", value_parser = parse_bytes_per_second)]
    pub(super) disk: Option<u64>,
    /// Tokens (rows of activations) in a pass, from which a model's work is counted [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(super) tokens: Option<u64>,
    /// Keep floats at rest in this narrower type: fp8, fp8_e5m2, fp16, bf16
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    pub(super) dtype: Option<Dtype>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

fn parse_tflops(text: &str) -> Result<f64, String> {
    let allowed = |tflops: &f64| (0.001..=1e6).contains(tflops);
    text.parse().ok().filter(allowed).ok_or_else(|| "a number from 0.001 to 1000000".into())
}
