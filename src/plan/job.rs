//! What is to be run: components with their units, and the phases that use them.

use serde::{Deserialize, Serialize};

/// Whether a unit, or a component, has to stay on the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The planner decides.
    #[default]
    Planned,
    /// Stays on the device as long as its component is used (of a component: through the job).
    Always,
    /// Is streamed in every pass (of a component: leaves the device after each of its phases).
    Never,
}

/// How finely a unit can be divided between what stays and what is streamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grains {
    /// Not at all.
    Whole,
    /// At multiples of this many bytes: the runtime takes slices of tensors.
    Slices(u64),
    /// By part, each of these bytes: the unit's tensors, in file order. They add up to the unit.
    Parts(Vec<u64>),
}

/// A unit as the planner sees it: what is streamed as one piece and computed as one piece.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitShape {
    /// Its name (`double_blocks.3`).
    pub name: String,
    /// Bytes it takes on the device, padding included.
    pub bytes: u64,
    /// Bytes that cross the link for all of it: fewer than `bytes` where it is cast on arrival.
    pub wire_bytes: u64,
    /// Work of one pass, in 10^9 floating-point operations.
    pub gflop: f64,
    /// How it can be divided.
    pub grains: Grains,
    /// Whether it has to stay.
    pub keep: Keep,
}

/// A model, or a part of one, that is on the device or not: a text encoder, a denoiser, a VAE.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Its name (`transformer`).
    pub name: String,
    /// Its units in the order of a pass.
    pub units: Vec<UnitShape>,
    /// Whether it has to stay through the job.
    pub keep: Keep,
}

/// A run of passes over one component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name (`denoise`).
    pub name: String,
    /// Index into [`Job::components`].
    pub component: usize,
    /// How often the component's units run, in order; at least 1.
    pub passes: u32,
    /// Memory the caller works in meanwhile (activations), in bytes, within the limit.
    pub working_bytes: u64,
}

/// What is to be run. Names the components, then the phases in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What it is, for people.
    pub name: String,
    /// What takes part.
    pub components: Vec<Component>,
    /// What happens, in order.
    pub phases: Vec<Phase>,
}

impl UnitShape {
    /// A unit of this many bytes and this much work, which can be divided anywhere.
    #[must_use]
    pub fn new(name: impl Into<String>, bytes: u64, gflop: f64) -> Self {
        let grains = Grains::Slices(SLICE_BYTES);
        Self { name: name.into(), bytes, wire_bytes: bytes, gflop, grains, keep: Keep::Planned }
    }
}

/// The finest division of a unit whose tensors are not known: a page of host memory.
const SLICE_BYTES: u64 = 4096;

impl Component {
    /// A component of these units.
    #[must_use]
    pub fn new(name: impl Into<String>, units: Vec<UnitShape>) -> Self {
        Self { name: name.into(), units, keep: Keep::Planned }
    }

    /// Its bytes on the device, all units together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.units.iter().map(|unit| unit.bytes).fold(0, u64::saturating_add)
    }

    /// The bytes of its largest unit.
    #[must_use]
    pub fn largest_unit_bytes(&self) -> u64 {
        self.units.iter().map(|unit| unit.bytes).max().unwrap_or(0)
    }
}

impl Job {
    /// An empty job.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), components: Vec::new(), phases: Vec::new() }
    }

    /// A job of one component that runs `passes` times.
    #[must_use]
    pub fn of(component: Component, passes: u32) -> Self {
        let mut job = Self::new(component.name.clone());
        let at = job.component(component);
        job.phase("pass", at, passes, 0);
        job
    }

    /// Adds a component; gives its index for [`phase`](Self::phase).
    pub fn component(&mut self, component: Component) -> usize {
        self.components.push(component);
        self.components.len() - 1
    }

    /// Adds a phase of `passes` passes over a component, with this much memory to work in.
    pub fn phase(
        &mut self,
        name: impl Into<String>,
        component: usize,
        passes: u32,
        working_bytes: u64,
    ) -> &mut Self {
        self.phases.push(Phase { name: name.into(), component, passes, working_bytes });
        self
    }
}
