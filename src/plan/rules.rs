//! What a mode allows and demands; everything else is the planner's to decide.

use serde::{Deserialize, Serialize};

/// What is streamed as one piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// The units as described: layers.
    #[default]
    Layer,
    /// So many units following one another.
    Group(u32),
    /// Each part of a unit (a tensor) of its own.
    Leaf,
    /// The whole component: it is on the device, or it is not.
    Component,
}

/// What may stay on the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// What the planner finds best within the limit, in each phase, over all components.
    #[default]
    Planned,
    /// What the planner finds best of the component in use; other components leave.
    OneComponent,
    /// Everything, always.
    All,
    /// Nothing: every pass streams all of its units.
    None,
    /// All of the component in use; other components stay while together they take no more than
    /// `low_bytes`. A component larger than `high_bytes` is streamed in part, within them.
    Watermarks {
        /// Up to here nothing is made to leave.
        low_bytes: u64,
        /// The most the weights may take.
        high_bytes: u64,
    },
}

/// Where weights come from that are not on the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From RAM as far as its budget goes, the rest from disk.
    #[default]
    Ram,
    /// From disk in every pass, through a pinned window.
    Disk,
}

/// What a mode allows and demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The mode's name, qualified where systems differ (`a1111:medvram`).
    pub mode: String,
    /// What is streamed as one piece.
    pub granularity: Granularity,
    /// What may stay.
    pub retention: Retention,
    /// Whether copies run beside compute. Without, each unit is copied when it is asked for and
    /// compute waits: what most offload code does.
    pub prefetch: bool,
    /// A ring of so many of the largest unit, and no more; `None` leaves it to the planner.
    pub ring_units: Option<u32>,
    /// Units may stay in part, where they can be divided.
    pub partial_units: bool,
    /// Units larger than half of what the ring can have are split into smaller ones.
    pub split: bool,
    /// A ring with room for one unit will do: copies then hardly run beside compute.
    pub single_buffer: bool,
    /// Where weights come from.
    pub source: Source,
}

impl Rules {
    /// Nothing is demanded: the planner's best.
    #[must_use]
    pub fn auto() -> Self {
        Self {
            mode: "auto".into(),
            granularity: Granularity::Layer,
            retention: Retention::Planned,
            prefetch: true,
            ring_units: None,
            partial_units: true,
            split: false,
            single_buffer: false,
            source: Source::Ram,
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::auto()
    }
}
