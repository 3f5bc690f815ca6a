//! What a plan may take: what was given, and what is free where nothing was.

use riverbed::Error;
use riverbed::base::{MIB, format_bytes};
use riverbed::device::MemoryInfo;
use riverbed::pinned::HostMemory;
use riverbed::plan::{Budgets, Job};

use super::args::{Args, Vram};
use super::rates::Target;
use crate::Failure;

/// The least that `--vram auto` leaves free: what a desktop's compositor and a browser take and
/// give back between two frames, and what a driver takes for its own when kernels are first used.
const LEAST_MARGIN_BYTES: u64 = 512 * MIB;
/// Of the whole card, on large ones, where others take more too: one in so many bytes.
const MARGIN_SHARE: u64 = 20;

pub(super) fn of(
    args: &Args,
    target: &Target,
    job: &Job,
    notes: &mut Vec<String>,
) -> Result<Budgets, Failure> {
    let vram_bytes = match (args.vram, target.memory) {
        (Vram::Auto, None) => {
            let expected = "auto asks a device what is free: name it with --device";
            return Err(Error::invalid("--vram", "auto", expected).into());
        }
        (Vram::Auto, Some(memory)) => auto_limit(memory, notes),
        (Vram::Bytes(bytes), memory) => {
            let total = memory.map_or(u64::MAX, |memory| memory.total_bytes);
            if bytes > total {
                let expected = format!("the device has {}", format_bytes(total));
                return Err(Error::invalid("--vram", format_bytes(bytes), expected).into());
            }
            bytes
        }
    };
    let ram_bytes = ram(args, target, notes);
    let mut budgets = Budgets::of_vram(vram_bytes);
    budgets.ram_bytes = ram_bytes;
    budgets.pinned_bytes = args.pinned.unwrap_or(ram_bytes).min(ram_bytes);
    budgets.working_bytes = args.working_mem;
    budgets.page_bytes = target.device.as_ref().map_or(1, |device| device.granularity_bytes);
    let weights = job.components.iter().map(|component| component.bytes());
    let weights = weights.fold(0, u64::saturating_add);
    if ram_bytes < weights && args.disk.is_none() {
        let expected = format!(
            "the weights are {}: say how fast the rest is read with --disk, like --disk 3GB/s",
            format_bytes(weights)
        );
        return Err(Error::invalid("--ram", format_bytes(ram_bytes), expected).into());
    }
    Ok(budgets)
}

/// What is free less a margin.
fn auto_limit(memory: MemoryInfo, notes: &mut Vec<String>) -> u64 {
    let margin = (memory.total_bytes / MARGIN_SHARE).max(LEAST_MARGIN_BYTES);
    let limit = memory.free_bytes.saturating_sub(margin);
    notes.push(format!(
        "the limit is {}: {} are free, less a margin of {} for what others take meanwhile",
        format_bytes(limit),
        format_bytes(memory.free_bytes),
        format_bytes(margin)
    ));
    limit
}

/// Without a limit on host memory, this machine's counts where this machine's device is used.
fn ram(args: &Args, target: &Target, notes: &mut Vec<String>) -> u64 {
    let is_here = target.device.as_ref().is_some_and(|device| !device.simulated);
    let free = || {
        let memory = HostMemory::read();
        let group = memory.group.as_ref().map(|group| group.free_bytes());
        memory.available_bytes.into_iter().chain(group).min()
    };
    match args.ram {
        Some(bytes) => bytes,
        None => match is_here.then(free).flatten() {
            Some(bytes) => {
                notes.push(format!("host memory: {} are free here", format_bytes(bytes)));
                bytes
            }
            None => u64::MAX,
        },
    }
}
