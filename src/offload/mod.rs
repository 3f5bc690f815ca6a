//! Rank 8: what lives where. Models and jobs described for the [planner](crate::plan), from
//! headers alone; all of a model on a device, or one placement (rest of the model resident as
//! far as it fits beside two slots of the largest layer, layers streamed) and the model that runs
//! by it.

mod changes;
mod describe;
mod experts;
mod fit;
mod ladder;
mod latch;
mod loaded;
mod measured;
mod multi_device;
mod offloaded;
mod phases;
mod pieces;
mod placement;
mod promises;
mod residents;
mod room;
mod space;
mod state;
mod stats;
mod streamed;
mod streaming;
mod unit_lease;
mod weights;

pub use crate::transfer::{RamCache, RamLease, RamOptions, RamStats};
pub use changes::Repatched;
pub use describe::{
    Backing, DescribeOptions, Described, DescribedJob, Overrides, Tables, parse_dtype,
};
pub use experts::{ExpertCache, ExpertLease, ExpertOptions, ExpertStats};
pub use loaded::{LoadOptions, LoadedModel};
pub use multi_device::{DeviceUnits, MultiDevice};
pub use offloaded::{OffloadOptions, Offloaded};
pub use placement::Placement;
pub use promises::WorkingMemory;
pub use residents::{LoadProgress, Residents};
pub use stats::OffloadStats;
pub use streamed::{StreamOptions, StreamedModel};
pub use unit_lease::{UnitHostView, UnitLease};
pub use weights::ComponentWeights;
