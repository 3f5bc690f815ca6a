//! Rank 4: the stream-ordered device allocator. It carries out what a policy decides, holds
//! the limit, defers the reuse of what other streams still use, climbs the out-of-memory
//! ladder, and counts.

mod allocator;
mod buffer;
mod builder;
mod capture;
mod driver_ladder;
mod driver_pool;
mod expandable;
mod failure;
mod heap;
mod heaps;
mod hooks;
mod iteration;
mod ladder;
mod live;
mod mailbox;
mod mirrored;
mod options;
mod owned_pool;
mod page_table;
mod paged;
mod planned;
mod private;
mod pytorch;
mod reclaim;
mod release;
mod scope;
mod shared;
mod stats;
mod stats_scope;
mod stream_allocator;
mod tally;

pub use allocator::Allocator;
pub use buffer::Buffer;
pub use builder::AllocatorBuilder;
pub use capture::CaptureScope;
pub use expandable::policy_on;
pub(crate) use heap::Taken;
pub use hooks::{Registration, Shortage};
pub use live::LiveBlock;
pub(crate) use mirrored::MirroredSpace;
pub use options::{AllocOptions, Lifetime, LifetimeStats};
pub(crate) use owned_pool::OwnedPool;
pub use paged::PagedSpace;
pub use private::{PrivatePool, PrivatePoolOptions, PrivatePoolStats};
pub use scope::PoolScope;
pub use stats::{PoolStat, Stat, Stats};
pub use stats_scope::{ScopeStats, StatsScope};
pub use stream_allocator::{Block, StreamAllocator};
