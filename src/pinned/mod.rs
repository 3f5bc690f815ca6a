//! Rank 5: pinned host memory. Slabs pinned once, carved at 4 KiB steps and never rounded to
//! powers of two, used again as copies end, within a hard budget.
//!
//! A block comes from a shelf of its thread (`shelf`), else from the books (`shared`), else from
//! a new slab (`growth`), which is memory of our own that is registered or the driver's (`slab`,
//! `mapping`). `release` gives slabs back.

mod adopted;
mod background;
mod block;
mod budget;
mod capture;
mod growth;
mod host_memory;
mod mapping;
mod options;
mod pool;
mod pressure;
mod release;
mod shared;
mod shelf;
mod slab;
mod stats;
mod uses;

pub use adopted::{AdoptedMemory, AdoptedPiece};
pub use block::{PinnedBlock, PinnedSource};
pub use budget::{Budget, BudgetBound};
pub use capture::{PinnedCapture, PinnedGraph};
pub use host_memory::{GroupMemory, HostMemory};
pub use options::PinnedOptions;
pub use pool::PinnedPool;
pub use stats::{CallTimes, PinnedStats};
