//! What a plan may take: what was given, and what is free where nothing was.

use riverbed::Error;
use riverbed::base::format_bytes;
use riverbed::modes::{Card, MARGIN_BYTES, OffloadSettings, Preset, RamLimit, VramLimit, smallest};
use riverbed::pinned::HostMemory;
use riverbed::plan::{Budgets, Job, Source};

use super::{PlanningArgs, Target};
use crate::Failure;

/// What the budgets come from.
pub(super) struct Given<'a> {
    pub(super) args: &'a PlanningArgs,
    pub(super) settings: &'a OffloadSettings,
    pub(super) preset: &'a Preset,
    pub(super) card: Card,
    pub(super) target: &'a Target,
}

impl Given<'_> {
    /// Budgets for `job`; notes say what was measured or chosen.
    pub(super) fn budgets(&self, job: &Job, notes: &mut Vec<String>) -> Result<Budgets, Failure> {
        let mut budgets = Budgets::of_vram(0);
        budgets.ram_bytes = self.ram(notes);
        let pinned = self.settings.pinned_bytes.unwrap_or(u64::MAX);
        budgets.pinned_bytes = pinned.min(budgets.ram_bytes);
        budgets.working_bytes = self.preset.working_bytes;
        let device = self.target.device.as_ref();
        budgets.page_bytes = device.map_or(1, |device| device.granularity_bytes);
        self.need_disk(job, budgets.ram_bytes)?;
        budgets.vram_bytes = self.vram(job, &budgets, notes)?;
        Ok(budgets)
    }

    fn vram(&self, job: &Job, budgets: &Budgets, notes: &mut Vec<String>) -> Result<u64, Failure> {
        let shown = format_bytes;
        match (self.preset.limit, self.target.memory) {
            (VramLimit::Bytes(bytes), Some(memory)) if bytes > memory.total_bytes => {
                let expected = format!("the device has {}", shown(memory.total_bytes));
                Err(Error::invalid("--vram", shown(bytes), expected).into())
            }
            (VramLimit::Bytes(bytes), _) => Ok(bytes),
            (VramLimit::Smallest, _) => {
                let rules = &self.preset.rules;
                let (bytes, _) = smallest(job, &self.target.rates, budgets, rules)?;
                notes.push(format!("the limit is the least that will do: {}", shown(bytes)));
                Ok(bytes)
            }
            (VramLimit::Measured, None) => {
                let expected = "auto asks a device what is free: name it with --device, or say \
                                --vram 8GB";
                Err(Error::invalid("--vram", "auto", expected).into())
            }
            (VramLimit::Measured, Some(_)) => {
                let limit = self.card.free_bytes.saturating_sub(MARGIN_BYTES);
                notes.push(format!(
                    "the limit is {}: {} are free, less a margin of {} for the driver and for others",
                    shown(limit),
                    shown(self.card.free_bytes),
                    shown(MARGIN_BYTES)
                ));
                Ok(limit)
            }
        }
    }

    /// Without a limit on host memory, this machine's counts where this machine's device is used.
    fn ram(&self, notes: &mut Vec<String>) -> u64 {
        if let Some(bytes) = self.args.ram {
            return bytes;
        }
        let memory = HostMemory::read();
        if self.settings.ram != RamLimit::Unlimited {
            let total = memory.total_bytes.unwrap_or(u64::MAX);
            let (bytes, heuristic) = self.settings.ram_bytes(&self.card, total);
            notes.extend(heuristic.map(|size| size.to_string()));
            return bytes;
        }
        let is_here = self.target.device.as_ref().is_some_and(|device| !device.simulated);
        let group = memory.group.as_ref().map(|group| group.free_bytes());
        let free = memory.available_bytes.into_iter().chain(group).min();
        match free.filter(|_| is_here) {
            Some(bytes) => {
                notes.push(format!("host memory: {} are free here", format_bytes(bytes)));
                bytes
            }
            None => u64::MAX,
        }
    }

    /// Refuses to guess how fast weights are read that are not in host memory.
    fn need_disk(&self, job: &Job, ram_bytes: u64) -> Result<(), Failure> {
        let weights = job.components.iter().map(|component| component.bytes());
        let weights = weights.fold(0, u64::saturating_add);
        let from_disk = self.preset.rules.source == Source::Disk;
        if self.target.disk_is_known || (ram_bytes >= weights && !from_disk) {
            return Ok(());
        }
        let how_fast = "say how fast they are read with --disk, like --disk 3GB/s";
        if from_disk {
            let mode = &self.preset.rules.mode;
            return Err(Error::invalid(
                "--mode",
                mode,
                format!("weights come from disk: {how_fast}"),
            )
            .into());
        }
        let expected = format!(
            "the weights are {}, and some come from disk: {how_fast}",
            format_bytes(weights)
        );
        Err(Error::invalid("--ram", format_bytes(ram_bytes), expected).into())
    }
}
