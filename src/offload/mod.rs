//! Rank 8: what lives where. Today all of a model, or one placement (rest of the model resident as
//! far as it fits beside two slots of the largest layer, layers streamed) and the model that runs
//! by it.

mod experts;
mod loaded;
mod multi_device;
mod placement;
mod residents;
mod streamed;

pub use crate::transfer::{RamCache, RamLease, RamOptions, RamStats};
pub use experts::{ExpertCache, ExpertLease, ExpertOptions, ExpertStats};
pub use loaded::{LoadOptions, LoadedModel};
pub use multi_device::{DeviceUnits, MultiDevice};
pub use placement::Placement;
pub use residents::{LoadProgress, Residents};
pub use streamed::{StreamOptions, StreamedModel};
