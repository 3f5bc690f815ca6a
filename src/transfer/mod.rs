//! Rank 6: copies between host memory and device buffers (`copy`), each keeping both its ends until
//! it is done, and loads: file (`disk`) to pinned memory to device, without the host waiting.

mod board;
mod copy;
mod disk;
mod files;
mod formats;
mod guests;
mod home;
mod landing;
mod lane;
mod loader;
mod marks;
mod options;
mod parts;
mod pinner;
mod plan;
mod ram;
mod status;
mod steps;
mod urgency;
mod users;
mod window;

pub use copy::{
    Driven, LinkProfile, Part, Pending, Progress, Transfer, TransferOptions, TransferProgress,
    WayProgress, calibrate,
};
pub use disk::{DirectReads, DiskBackend, DiskOptions, DiskReport};
#[doc(hidden)]
pub use disk::{FaultKind, ReadFault};
pub use files::Files;
pub(crate) use formats::{block_format, float_format};
pub use home::Home;
pub use loader::Loader;
pub use options::LoaderOptions;
pub(crate) use parts::LoadInParts;
pub use plan::LoadPlan;
pub use ram::{RamCache, RamLease, RamOptions, RamStats};
pub use status::LoadStatus;
pub use steps::Steps;
pub use urgency::Urgency;
