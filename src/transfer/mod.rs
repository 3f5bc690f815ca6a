//! Rank 6: copies between pinned host memory and device buffers, each keeping both its ends
//! until it is done, and loads: file to pinned memory to device, without the host waiting.

mod busy;
mod calibrate;
mod engine;
mod files;
mod insist;
mod landing;
mod lane;
mod loader;
mod pageable;
mod pending;
mod queue;
mod reader;
mod request;
mod span;
mod staging;
mod tail;
mod turns;
mod urgency;
mod way;

pub use calibrate::{LinkProfile, calibrate};
pub use engine::{Transfer, TransferProgress};
pub use files::Files;
pub use loader::{Home, Loader, LoaderOptions};
pub use pending::{Pending, Progress};
pub use queue::WayProgress;
pub use reader::LoadStatus;
pub use span::Part;
pub use urgency::{Driven, TransferOptions, Urgency};
