//! What each mode asks of the planner: a few lines a mode.

use crate::base::GIB;
use crate::plan::{Granularity, Retention, Rules, Source};

use super::defaults::sdnext_card;
use super::limit::{Card, VramLimit};
use super::watermarks::Watermarks;

/// InvokeAI's `device_working_mem_gb` where it is not set, in bytes: 3, in units of 2^30.
pub const PARTIAL_WORKING_BYTES: u64 = 3 * GIB;

/// A low-VRAM mode: its name and what stands behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Mode {
    pub(super) name: &'static str,
    pub(super) kind: ModeKind,
}

/// What a mode does, apart from its name.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ModeKind {
    /// The planner's best.
    Auto,
    /// Everything stays.
    Whole,
    /// Components take turns, each whole.
    Components,
    /// Components take turns, each whole, if the model is SDXL; else everything stays.
    ComponentsIfSdxl,
    /// Nothing stays; layers are streamed.
    Layers,
    /// Nothing stays; tensors are streamed.
    Leaves,
    /// Nothing stays; groups of layers, or tensors, are streamed.
    Group(Group),
    /// Components stay while they fit between two marks; `None` takes SD.Next's for the card.
    Balanced(Option<Watermarks>),
    /// As [`Balanced`](Self::Balanced) with the low mark at 0 and SD.Next's high one.
    BalancedFromZero,
    /// What is free, less this many bytes to work in.
    Partial {
        /// In bytes.
        working_bytes: u64,
    },
    /// A limit on device memory.
    Limit(VramLimit),
    /// Weights come from disk in every pass.
    Disk,
}

/// How [`ModeKind::Group`] streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// `None` streams each tensor of its own (`leaf_level`), else so many layers at a time.
    pub blocks: Option<u32>,
    /// Whether copies run beside compute. Off, as in diffusers where no stream is asked for,
    /// each copy is waited for.
    pub stream: bool,
}

impl Default for Group {
    /// Tensors, streamed beside compute.
    fn default() -> Self {
        Self { blocks: None, stream: true }
    }
}

/// What a mode comes to on a card: rules for the planner, and budgets.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// For [`plan`](crate::plan::plan).
    pub rules: Rules,
    /// The limit on device memory.
    pub limit: VramLimit,
    /// Memory to work in, within the limit, in bytes.
    pub working_bytes: u64,
}

impl Mode {
    /// The planner's best within what is free.
    #[must_use]
    pub fn auto() -> Self {
        Self { name: "auto", kind: ModeKind::Auto }
    }

    /// Its name, with the system in front where systems differ (`a1111:medvram`).
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What stands behind the name.
    #[must_use]
    pub fn kind(&self) -> ModeKind {
        self.kind
    }

    /// The mode once it is known whether the model is SDXL, which `a1111:medvram-sdxl` asks
    /// ([`is_sdxl`](super::is_sdxl) can tell). Other modes stay as they are.
    #[must_use]
    pub fn for_model(self, is_sdxl: bool) -> Self {
        let kind = match (self.kind, is_sdxl) {
            (ModeKind::ComponentsIfSdxl, true) => ModeKind::Components,
            (ModeKind::ComponentsIfSdxl, false) => ModeKind::Whole,
            (kind, _) => kind,
        };
        Self { kind, ..self }
    }

    /// What the mode asks for on this card. `a1111:medvram-sdxl` counts as active until
    /// [`for_model`](Self::for_model) says otherwise.
    #[must_use]
    pub fn preset(&self, card: &Card) -> Preset {
        let mut rules = Rules { mode: self.name.into(), ..Rules::auto() };
        let (mut limit, mut working_bytes) = (VramLimit::Measured, 0);
        match self.kind {
            ModeKind::Auto => {}
            ModeKind::Whole => rules.retention = Retention::All,
            ModeKind::Components | ModeKind::ComponentsIfSdxl => {
                rules.granularity = Granularity::Component;
                rules.retention = Retention::OneComponent;
            }
            ModeKind::Layers => streamed(&mut rules, Granularity::Layer, true),
            ModeKind::Leaves => streamed(&mut rules, Granularity::Leaf, true),
            ModeKind::Group(Group { blocks, stream }) => {
                let granularity = blocks.map_or(Granularity::Leaf, Granularity::Group);
                streamed(&mut rules, granularity, stream);
            }
            ModeKind::Balanced(marks) => {
                let marks = marks.unwrap_or_else(|| sdnext_card(card.total_bytes).watermarks);
                rules.retention = marks.retention(card);
            }
            ModeKind::BalancedFromZero => {
                let high = sdnext_card(card.total_bytes).watermarks.high;
                rules.retention =
                    Watermarks { high, ..Watermarks::of_fractions(0.0, 1.0) }.retention(card);
            }
            ModeKind::Partial { working_bytes: bytes } => {
                limit = VramLimit::Bytes(card.free_bytes);
                working_bytes = bytes;
            }
            ModeKind::Limit(VramLimit::Smallest) => {
                streamed(&mut rules, Granularity::Leaf, true);
                limit = VramLimit::Smallest;
            }
            ModeKind::Limit(given) => limit = given,
            ModeKind::Disk => rules.source = Source::Disk,
        }
        Preset { rules, limit, working_bytes }
    }
}

/// Nothing stays. Two units are in flight, or one where each copy is waited for.
fn streamed(rules: &mut Rules, granularity: Granularity, beside_compute: bool) {
    rules.granularity = granularity;
    rules.retention = Retention::None;
    rules.partial_units = false;
    rules.prefetch = beside_compute;
    rules.single_buffer = !beside_compute;
    rules.ring_units = Some(if beside_compute { 2 } else { 1 });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(name: &str) -> Rules {
        Mode::parse(name).unwrap().preset(&Card::of(10 * GIB)).rules
    }

    #[test]
    fn none_keeps_everything() {
        assert_eq!(rules("none").retention, Retention::All);
    }

    #[test]
    fn model_and_medvram_move_whole_components_in_turn() {
        for name in ["model", "a1111:medvram", "medvram-sdxl"] {
            let rules = rules(name);
            assert_eq!(rules.granularity, Granularity::Component, "{name}");
            assert_eq!(rules.retention, Retention::OneComponent, "{name}");
        }
    }

    #[test]
    fn sequential_keeps_nothing_and_has_two_leaves_in_flight() {
        for name in ["sequential", "sdnext:lowvram", "vram_limit=0"] {
            let rules = rules(name);
            assert_eq!((rules.granularity, rules.ring_units), (Granularity::Leaf, Some(2)));
            assert_eq!((rules.retention, rules.prefetch), (Retention::None, true), "{name}");
        }
    }

    #[test]
    fn lowvram_streams_blocks_and_keeps_nothing() {
        let rules = rules("a1111:lowvram");
        assert_eq!((rules.granularity, rules.ring_units), (Granularity::Layer, Some(2)));
        assert_eq!(rules.retention, Retention::None);
    }

    #[test]
    fn group_is_by_leaf_or_by_blocks_and_streams_unless_told_not_to() {
        assert_eq!(rules("group").granularity, Granularity::Leaf);
        let blocking = rules("group=4,no-stream");
        assert_eq!(blocking.granularity, Granularity::Group(4));
        assert_eq!((blocking.prefetch, blocking.ring_units), (false, Some(1)));
    }

    #[test]
    fn balanced_takes_the_marks_given_or_those_of_the_card() {
        let marks = |low, high| Watermarks::of_fractions(low, high).retention(&Card::of(10 * GIB));
        assert_eq!(rules("balanced").retention, marks(0.0, 0.6));
        assert_eq!(rules("balanced=0.3,0.9").retention, marks(0.3, 0.9));
        let of_24 = Mode::parse("sdnext:medvram").unwrap().preset(&Card::of(24 * GIB)).rules;
        let expected = Watermarks::of_fractions(0.0, 0.8).retention(&Card::of(24 * GIB));
        assert_eq!(of_24.retention, expected);
    }

    #[test]
    fn partial_is_what_is_free_less_working_memory() {
        let card = Card { total_bytes: 12 * GIB, free_bytes: 10 * GIB };
        let preset = Mode::parse("partial").unwrap().preset(&card);
        assert_eq!(preset.limit.bytes(&card), Some(10 * GIB));
        assert_eq!(preset.working_bytes, 3 * GIB);
        let preset = Mode::parse("invoke:partial=4.5").unwrap().preset(&card);
        assert_eq!(preset.working_bytes, 9 * GIB / 2);
    }

    #[test]
    fn vram_limit_is_a_cap_in_gib_and_zero_is_the_smallest_plan() {
        let card = Card::of(16 * GIB);
        let limit = |name| Mode::parse(name).unwrap().preset(&card).limit;
        assert_eq!(limit("diffsynth:vram_limit=10"), VramLimit::Bytes(10 * GIB));
        assert_eq!(limit("vram_limit=0"), VramLimit::Smallest);
        assert_eq!(limit("vram_limit=none"), VramLimit::Measured);
        assert_eq!(limit("vram_limit"), VramLimit::Measured);
    }

    #[test]
    fn disk_reads_weights_in_every_pass() {
        assert_eq!(rules("disk").source, Source::Disk);
        assert_eq!(rules("auto"), Rules::auto());
    }

    #[test]
    fn medvram_sdxl_waits_for_the_model() {
        let mode = Mode::parse("a1111:medvram-sdxl").unwrap();
        let on = |sdxl| mode.clone().for_model(sdxl).kind();
        assert_eq!((on(true), on(false)), (ModeKind::Components, ModeKind::Whole));
    }
}
