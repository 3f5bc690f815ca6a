//! Rank 5: pinned host memory. Slabs taken from the driver once, carved at 4 KiB steps and
//! never rounded to powers of two, used again as copies end, within a hard budget.

mod block;
mod budget;
mod host_memory;
mod pool;

pub use block::{PinnedBlock, PinnedSource};
pub use budget::Budget;
pub use host_memory::{GroupMemory, HostMemory};
pub use pool::{PinnedPool, PinnedStats};
