//! Rank 6: copies between pinned host memory and device buffers, each keeping both its ends
//! until it is done, and loads: file to pinned memory to device, without the host waiting.

mod busy;
mod engine;
mod files;
mod landing;
mod loader;
mod pending;
mod reader;
mod steps;
mod turns;

pub use engine::Transfer;
pub use files::Files;
pub use loader::{Home, Loader, LoaderOptions};
pub use pending::Pending;
pub use reader::LoadStatus;
pub use steps::Steps;
