//! What is asked alike of whatever plans.

use std::path::PathBuf;

use riverbed::base::parse_bytes;
use riverbed::offload::Tables;

// No doc comment: it would stand in place of the command's own.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanningArgs {
    /// Hard limit on device memory, or 'auto': what is free on --device, less a margin of 512 MiB
    /// [default: the mode's, most often auto]
    #[arg(long, value_name = "SIZE|auto", value_parser = parse_vram)]
    pub(crate) vram: Option<Vram>,
    /// Host memory for weights; the rest is read from disk in every pass
    /// [default: what this machine has free, on its own devices; else no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) ram: Option<u64>,
    /// Host memory that may be pinned [default: as --ram]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) pinned: Option<u64>,
    /// Device memory to leave for work (activations), within the limit [default: the mode's, most
    /// often 0]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) working_mem: Option<u64>,
    /// How often a model or shape runs; a job's file says so itself [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) passes: Option<u32>,
    /// Where embedding tables are, whose rows are gathered
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = TablesArg::Device)]
    pub(crate) tables: TablesArg,
    /// Which rules to plan by: auto, or a low-VRAM mode by the name its users know (none, model,
    /// sequential, group, balanced, partial, a1111:medvram, a1111:lowvram, vram_limit, disk)
    /// [default: auto]
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<String>,
    /// A config file of InvokeAI, SD.Next, AUTOMATIC1111 or DiffSynth-Studio, keys and units as
    /// there; options go over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Split units that are larger than half of what the ring can have
    #[arg(long)]
    pub(crate) split: bool,
    /// Be content with a ring of one unit: copies then hardly run beside compute
    #[arg(long)]
    pub(crate) single_buffer: bool,
    /// Units and tensors that stay on the device, by name; may be given several times
    #[arg(long, value_name = "REGEX")]
    pub(crate) always: Vec<String>,
    /// Units and tensors that are streamed in every pass
    #[arg(long, value_name = "REGEX")]
    pub(crate) never: Vec<String>,
    /// Tensors that make a unit of their own; one for each text that is matched
    #[arg(long, value_name = "REGEX")]
    pub(crate) unit: Vec<String>,
    /// Group layers by this tensor name prefix, {i} being the layer's number
    #[arg(long, value_name = "PATTERN")]
    pub(crate) layers: Option<String>,
}

/// A limit on device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vram {
    Bytes(u64),
    Auto,
}

/// As [`Tables`], by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TablesArg {
    /// They stay on the device
    Device,
    /// They stay in host memory, and are no part of the plan
    Host,
    /// They are units like others
    Planned,
}

impl From<TablesArg> for Tables {
    fn from(tables: TablesArg) -> Self {
        match tables {
            TablesArg::Device => Self::Device,
            TablesArg::Host => Self::Host,
            TablesArg::Planned => Self::Planned,
        }
    }
}

fn parse_vram(text: &str) -> Result<Vram, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(Vram::Auto);
    }
    parse_bytes(text).map(Vram::Bytes).map_err(|reason| format!("{reason}; or auto"))
}
