//! Rank 6: copies between pinned host memory and device buffers, each keeping both its ends
//! until it is done, and loads: file to pinned memory to device, without the host waiting.

mod board;
mod disk;
mod engine;
mod files;
mod landing;
mod lane;
mod loader;
mod marks;
mod options;
mod pending;
mod plan;
mod status;
mod steps;

pub use disk::{DirectReads, DiskBackend, DiskOptions, DiskReport};
#[doc(hidden)]
pub use disk::{FaultKind, ReadFault};
pub use engine::Transfer;
pub use files::Files;
pub use loader::{Home, Loader};
pub use options::{LoaderOptions, Urgency};
pub use pending::Pending;
pub use plan::LoadPlan;
pub use status::LoadStatus;
pub use steps::Steps;
