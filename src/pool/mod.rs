//! Rank 4: the stream-ordered device allocator. It carries out what a policy decides, holds
//! the limit, defers the reuse of what other streams still use, climbs the out-of-memory
//! ladder, and counts.

mod allocator;
mod buffer;
mod driver_ladder;
mod driver_pool;
mod heap;
mod heaps;
mod ladder;
mod mailbox;
mod page_table;
mod release;
mod shared;
mod stats;
mod stream_allocator;
mod tally;

pub use allocator::{Allocator, AllocatorBuilder};
pub use buffer::Buffer;
pub(crate) use heap::Taken;
pub use stats::{PoolStat, Stat, Stats};
pub use stream_allocator::{Block, StreamAllocator};
