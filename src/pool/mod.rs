//! Rank 4: the stream-ordered device allocator. It carries out what a policy decides, holds
//! the limit, defers the reuse of what other streams still use, climbs the out-of-memory
//! ladder, and counts.

mod allocator;
mod buffer;
mod core;
mod ladder;
mod release;
mod stats;

pub use allocator::{Allocator, AllocatorBuilder};
pub use buffer::Buffer;
pub use stats::{Stat, Stats};
