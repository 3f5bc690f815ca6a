//! Rank 8: what lives where. Today one placement (rest of the model resident as far as it fits
//! beside two slots of the largest layer, layers streamed) and the model that runs by it.

mod placement;
mod residents;
mod streamed;

pub use placement::Placement;
pub use residents::Residents;
pub use streamed::{StreamOptions, StreamedModel};
