//! Offload settings, whichever system's file they come from.

use crate::base::Result;
use crate::conf::Conf;
use crate::plan::{Budgets, Job, Source};
use crate::weights::Dtype;

use super::components::{Moves, keep_components};
use super::defaults::{a1111_card, sdnext_card};
use super::limit::{Card, VramLimit};
use super::presets::{Mode, ModeKind, Preset};
use super::ram_cache::RamCacheSize;
use super::states::States;
use super::system::System;

/// What a config file, or a system's defaults, say about offload. Values that were not given
/// are `None`, and the mode's own hold.
#[derive(Debug, Clone, PartialEq)]
pub struct OffloadSettings {
    /// Whose keys they were; `None` for this crate's own.
    pub system: Option<System>,
    /// The mode.
    pub mode: Mode,
    /// The limit on device memory, working memory within it.
    pub limit: Option<VramLimit>,
    /// Memory to work in where an operation asks for less, in bytes.
    pub working_bytes: Option<u64>,
    /// Where weights come from.
    pub source: Option<Source>,
    /// How much RAM weights may take.
    pub ram: RamLimit,
    /// How much of it may be pinned, in bytes.
    pub pinned_bytes: Option<u64>,
    /// Whether weights stay in RAM while they are on the device.
    pub keep_ram_copy: bool,
    /// Type and place of weights by state, as DiffSynth has them.
    pub states: Option<States>,
    /// What weights are stored as, where that is narrower than the file's type.
    pub storage_dtype: Option<Dtype>,
    /// That holds for SDXL alone.
    pub storage_if_sdxl: bool,
    /// Components, or classes of them, that leave the device after each of their phases.
    pub always_offload: Option<Vec<String>>,
    /// Components, or classes of them, that stay on the device through the job.
    pub never_offload: Option<Vec<String>>,
    /// Which components make room for others by hand.
    pub moves: Moves,
    /// Units larger than the ring allows are split.
    pub split: bool,
    /// A ring with room for one unit will do.
    pub single_buffer: bool,
    /// A conf string for the allocator, checked.
    pub alloc_conf: Option<String>,
    /// What was changed, ignored or doubtful, in sentences.
    pub warnings: Vec<String>,
}

/// How much RAM weights may take.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum RamLimit {
    /// As much as there is.
    #[default]
    Unlimited,
    /// So many bytes.
    Bytes(u64),
    /// A fraction of the system's RAM.
    Fraction(f64),
    /// By InvokeAI's heuristics.
    Invoke,
}

impl OffloadSettings {
    /// A mode and nothing else.
    #[must_use]
    pub fn of(system: Option<System>, mode: Mode) -> Self {
        Self {
            system,
            mode,
            limit: None,
            working_bytes: None,
            source: None,
            ram: RamLimit::Unlimited,
            pinned_bytes: None,
            keep_ram_copy: true,
            states: None,
            storage_dtype: None,
            storage_if_sdxl: false,
            always_offload: None,
            never_offload: None,
            moves: Moves::default(),
            split: false,
            single_buffer: false,
            alloc_conf: None,
            warnings: Vec::new(),
        }
    }

    /// What the system chooses for a card of so many bytes where nothing is set; of
    /// AUTOMATIC1111, what its manual advises. 0 stands for no card.
    #[must_use]
    pub fn defaults(system: System, card_bytes: u64) -> Self {
        let mode = match system {
            System::A1111 => a1111_card(card_bytes),
            System::Sdnext => sdnext_card(card_bytes).mode,
            System::Invoke => super::names::mode("partial"),
            System::Diffsynth => super::names::mode("vram_limit"),
            System::Diffusers => super::names::mode("none"),
        };
        let mut settings = Self::of(Some(system), mode);
        if system == System::Invoke {
            settings.ram = RamLimit::Invoke;
        }
        settings
    }

    /// The settings once it is known whether the model is SDXL ([`is_sdxl`](super::is_sdxl)).
    #[must_use]
    pub fn for_model(mut self, is_sdxl: bool) -> Self {
        self.mode = self.mode.for_model(is_sdxl);
        if self.storage_if_sdxl && !is_sdxl {
            self.storage_dtype = None;
        }
        self
    }

    /// What they come to on this card. What was given goes over what the mode brings.
    #[must_use]
    pub fn preset(&self, card: &Card) -> Preset {
        let mode = match (self.mode.kind(), self.limit) {
            // Of a limit it also hangs how the mode streams.
            (ModeKind::Limit(_), Some(limit)) => {
                self.mode.clone().with_kind(ModeKind::Limit(limit))
            }
            _ => self.mode.clone(),
        };
        let mut preset = mode.preset(card);
        preset.limit = self.limit.unwrap_or(preset.limit);
        preset.working_bytes = self.working_bytes.unwrap_or(preset.working_bytes);
        preset.rules.source = self.source.unwrap_or(preset.rules.source);
        preset.rules.split |= self.split;
        preset.rules.single_buffer |= self.single_buffer;
        preset
    }

    /// The budgets for a plan on this card, in a system with `ram_bytes` of RAM, where device
    /// memory is taken in pages of `page_bytes`. All in bytes. Where the limit is the
    /// [smallest](VramLimit::Smallest), `vram_bytes` is 0, and
    /// [`smallest`](super::smallest) finds it.
    #[must_use]
    pub fn budgets(&self, card: &Card, ram_bytes: u64, page_bytes: u64) -> Budgets {
        let preset = self.preset(card);
        let (ram_bytes, _) = self.ram_bytes(card, ram_bytes);
        Budgets {
            vram_bytes: preset.limit.bytes(card).unwrap_or(0),
            ram_bytes,
            pinned_bytes: self.pinned_bytes.unwrap_or(ram_bytes).min(ram_bytes),
            working_bytes: preset.working_bytes,
            page_bytes,
        }
    }

    /// How much RAM weights may take, in bytes, of a system with `ram_bytes`; by InvokeAI's
    /// heuristics also how that came about, which has a line for the log.
    #[must_use]
    pub fn ram_bytes(&self, card: &Card, ram_bytes: u64) -> (u64, Option<RamCacheSize>) {
        match self.ram {
            RamLimit::Unlimited => (u64::MAX, None),
            RamLimit::Bytes(bytes) => (bytes, None),
            // Casts from f64 saturate.
            RamLimit::Fraction(fraction) => ((ram_bytes as f64 * fraction) as u64, None),
            RamLimit::Invoke => {
                let working = self.preset(card).working_bytes;
                let cap = match self.limit {
                    Some(VramLimit::Bytes(bytes)) => Some(bytes),
                    _ => None,
                };
                let vram = (card.total_bytes > 0).then_some(card.total_bytes);
                let size = RamCacheSize::heuristic(ram_bytes, vram, working, cap);
                (size.bytes, Some(size))
            }
        }
    }

    /// Marks the job's components that always or never leave the device, and those that make
    /// room by hand. SD.Next's lists for the card hold where neither list was given. Gives what
    /// was named but is not in the job, in sentences.
    pub fn apply_to(&self, job: &mut Job, card: &Card) -> Vec<String> {
        let by_card = self.system == Some(System::Sdnext)
            && self.always_offload.is_none()
            && self.never_offload.is_none();
        let mut remarks = if by_card {
            let card = sdnext_card(card.total_bytes);
            keep_components(job, card.always, card.never);
            Vec::new()
        } else {
            let names = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
            keep_components(job, &names(&self.always_offload), &names(&self.never_offload))
        };
        remarks.extend(self.moves.apply_to(job));
        remarks
    }

    /// The conf for the allocator, empty where none was given.
    ///
    /// # Errors
    /// As reading a conf string.
    pub fn conf(&self) -> Result<Conf> {
        self.alloc_conf.as_deref().unwrap_or_default().parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::GIB;

    #[test]
    fn what_was_given_goes_over_what_the_mode_brings() {
        let mut settings = OffloadSettings::of(None, Mode::parse("partial").unwrap());
        let card = Card::of(12 * GIB);
        assert_eq!(settings.preset(&card).working_bytes, 3 * GIB);
        settings.working_bytes = Some(GIB);
        settings.limit = Some(VramLimit::Bytes(5 * GIB));
        settings.split = true;
        let preset = settings.preset(&card);
        assert_eq!((preset.working_bytes, preset.rules.split), (GIB, true));
        assert_eq!(preset.limit.bytes(&card), Some(5 * GIB));
    }

    #[test]
    fn defaults_are_those_of_the_system_for_the_card() {
        let settings = OffloadSettings::defaults(System::Sdnext, 12 * GIB);
        assert_eq!(settings.mode.name(), "balanced");
        let settings = OffloadSettings::defaults(System::A1111, 4 * GIB);
        assert_eq!(settings.mode.name(), "a1111:lowvram");
        let settings = OffloadSettings::defaults(System::Invoke, 12 * GIB);
        let card = Card::of(12 * GIB);
        assert_eq!(settings.ram_bytes(&card, 64 * GIB).0, 9 * GIB);
        assert_eq!(settings.preset(&card).working_bytes, 3 * GIB);
    }

    #[test]
    fn budgets_are_what_the_settings_come_to() {
        let mut settings = OffloadSettings::of(None, Mode::parse("partial=2").unwrap());
        settings.ram = RamLimit::Bytes(20 * GIB);
        settings.pinned_bytes = Some(30 * GIB);
        let card = Card { total_bytes: 12 * GIB, free_bytes: 11 * GIB };
        let budgets = settings.budgets(&card, 64 * GIB, 2 << 20);
        assert_eq!((budgets.vram_bytes, budgets.working_bytes), (11 * GIB, 2 * GIB));
        assert_eq!((budgets.ram_bytes, budgets.pinned_bytes), (20 * GIB, 20 * GIB));
        settings.limit = Some(VramLimit::Smallest);
        assert_eq!(settings.budgets(&card, 64 * GIB, 1).vram_bytes, 0);
    }

    #[test]
    fn a_limit_given_over_one_of_zero_is_planned_as_any_limit() {
        let mut settings = OffloadSettings::of(None, Mode::parse("vram_limit=0").unwrap());
        settings.limit = Some(VramLimit::Bytes(8 * GIB));
        let card = Card::of(12 * GIB);
        let expected = Mode::parse("vram_limit=8").unwrap().preset(&card);
        assert_eq!(settings.preset(&card), expected);
    }

    #[test]
    fn ram_may_be_bytes_or_a_fraction() {
        let mut settings = OffloadSettings::of(None, Mode::auto());
        let card = Card::of(8 * GIB);
        assert_eq!(settings.ram_bytes(&card, 10 * GIB).0, u64::MAX);
        settings.ram = RamLimit::Fraction(0.5);
        assert_eq!(settings.ram_bytes(&card, 10 * GIB).0, 5 * GIB);
        settings.ram = RamLimit::Bytes(7);
        assert_eq!(settings.ram_bytes(&card, 10 * GIB), (7, None));
    }
}
