//! The plan: plain values, serialisable, that say what lives where and what it costs.

use serde::{Deserialize, Serialize};

use super::profile::{Budgets, DeviceRates};
use super::rules::{Rules, Source};
use crate::base::{Error, Result};

/// What a planned unit is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf {
    /// Indices into the component's units as described: one, or a group of them.
    pub units: std::ops::Range<usize>,
    /// Which parts of that one unit, where it was cut into several; `None` is all of it, or a
    /// slice of a unit without parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<std::ops::Range<usize>>,
}

/// One unit's place in a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitPlan {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub made_of: MadeOf,
    /// Bytes on the device.
    pub bytes: u64,
    /// How many of them stay there; the rest is streamed in every pass.
    pub resident_bytes: u64,
    /// Which parts stay, by index into this unit's parts ([`Grains::Parts`](super::Grains), those
    /// of a group one after the other, those of a piece from its first); empty where it is
    /// divided otherwise, or stays whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resident_parts: Vec<usize>,
    /// Bytes of all of it that cross the link.
    pub wire_bytes: u64,
    /// Seconds of compute in a pass.
    pub compute_seconds: f64,
    /// Where the streamed part comes from.
    pub source: Source,
    /// How much the job gains for each resident byte, in seconds: what is worth least leaves
    /// first when memory is short.
    pub seconds_per_resident_byte: f64,
}

/// One component while one of its phases runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentPlan {
    /// Its name.
    pub name: String,
    /// Its units in the order of a pass. [`Rules::granularity`] and [`Rules::split`] may have made
    /// other units of those described.
    pub units: Vec<UnitPlan>,
    /// Bytes of its units that stay, in pages.
    pub resident_bytes: u64,
    /// The ring, in bytes.
    pub ring_bytes: u64,
    /// Bytes that cross the link in a pass.
    pub streamed_bytes: u64,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhasePlan {
    /// Its name.
    pub name: String,
    /// Index into the job's components.
    pub component: usize,
    /// Passes.
    pub passes: u32,
    /// The component's units, residents and ring.
    pub plan: ComponentPlan,
    /// Bytes of other components that stay on the device meanwhile.
    pub held_bytes: u64,
    /// Memory to work in.
    pub working_bytes: u64,
    /// The most device memory in use at any time of the phase.
    pub peak_bytes: u64,
    /// Seconds of a pass once passes are alike.
    pub seconds_per_pass: f64,
    /// What no plan can go below: the larger of all compute, and of what exceeds the limit over
    /// the link.
    pub bound_seconds: f64,
    /// Seconds of compute in a pass.
    pub compute_seconds: f64,
    /// Seconds of a pass in which compute waits.
    pub stall_seconds: f64,
    /// Whether the link takes longer than compute for a pass: no order of copies hides that.
    pub link_bound: bool,
    /// Seconds of the whole phase, loading what stays included.
    pub seconds: f64,
}

/// What lives where, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The job's name.
    pub job: String,
    /// What the mode allowed.
    pub rules: Rules,
    /// What was counted with.
    pub rates: DeviceRates,
    /// What it may take.
    pub budgets: Budgets,
    /// The phases in order.
    pub phases: Vec<PhasePlan>,
    /// The most device memory in use at any time.
    pub peak_bytes: u64,
    /// Host memory for weights.
    pub ram_bytes: u64,
    /// Seconds of the job.
    pub seconds: f64,
    /// Why it is so, in sentences.
    pub reasons: Vec<String>,
}

impl Plan {
    /// The phase that takes longest: what a table shows first.
    #[must_use]
    pub fn main_phase(&self) -> Option<&PhasePlan> {
        self.phases.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// The plan as JSON, to be [read](Self::from_json) again.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads a plan that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the text is not a plan, with the place.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::invalid("plan", "the JSON given", error.to_string()))
    }
}
