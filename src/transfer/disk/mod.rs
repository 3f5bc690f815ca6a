//! Reading files as fast as the disk gives them: which way each file allows, the page cache, and
//! the threads that read.

mod bounce;
mod cached;
mod faults;
mod file;
mod options;
mod probe;
mod reader;
mod ring;

pub use faults::{FaultKind, ReadFault};
pub(super) use file::{Identity, OpenFile};
pub use options::{DirectReads, DiskBackend, DiskOptions, DiskReport};
pub(super) use probe::probe;
pub(super) use reader::{keep, start};
