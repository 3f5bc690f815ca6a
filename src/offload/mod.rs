//! Rank 8: what lives where. Models and jobs described for the [planner](crate::plan), from
//! headers alone; all of a model on a device, or one placement (rest of the model resident as
//! far as it fits beside two slots of the largest layer, layers streamed) and the model that runs
//! by it.

mod describe;
mod loaded;
mod placement;
mod residents;
mod streamed;

pub use describe::{
    Backing, DescribeOptions, Described, DescribedJob, Overrides, Tables, parse_dtype,
};
pub use loaded::{LoadOptions, LoadedModel};
pub use placement::Placement;
pub use residents::{LoadProgress, Residents};
pub use streamed::{StreamOptions, StreamedModel};
