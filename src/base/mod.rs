//! Rank 0: byte sizes, checked arithmetic and the error type every floor shares.

pub(crate) mod barrier;
mod biased;
mod error;
mod random;
mod size;
pub(crate) mod sync;
mod thread;

pub(crate) use biased::{Biased, BiasedGuard, Reentered};
pub use error::{DeviceError, Error, FileError, OutOfMemory, Result};
pub(crate) use random::Random;
pub use size::{GIB, KIB, MIB, align_up, format_bytes, parse_bytes, parse_bytes_per_second};
pub(crate) use sync::{lock, wait};
pub(crate) use thread::{is_over, thread_token, thread_token_if_any};
