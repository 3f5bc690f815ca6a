//! Copies between host memory and the buffers of a device: who goes first, how much is on its way,
//! and what becomes of memory that is not pinned.

mod adopted;
mod calibrate;
mod driving;
mod engine;
mod insist;
mod lane;
mod options;
mod packing;
mod pageable;
mod pending;
mod queue;
mod request;
mod slots;
mod span;
mod staging;
mod tail;
mod way;
mod window;

pub use calibrate::{LinkProfile, calibrate};
pub use engine::{Transfer, TransferProgress};
pub use options::{Driven, TransferOptions};
pub use pending::{Pending, Progress};
pub use queue::WayProgress;
pub use span::Part;
