//! Rank 0: byte sizes, checked arithmetic and the error type every floor shares.

mod error;
mod lock;
mod size;

pub use error::{DeviceError, Error, FileError, OutOfMemory, Result};
pub(crate) use lock::lock;
pub use size::{GIB, KIB, MIB, align_up, format_bytes, parse_bytes, parse_bytes_per_second};
