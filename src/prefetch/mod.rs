//! Rank 7: the weight ring. Units of a model are loaded ahead of use into one ring of device
//! bytes, each byte as soon as there is room for it; a lease says "it is there when the stream wants
//! it". The host never waits, and a pass allocates nothing.

mod ahead;
mod books;
mod fixed;
mod homes;
mod lease;
mod loading;
mod memory;
mod options;
mod order;
mod prefetcher;
mod reconfigure;
mod resize;
mod ring;
mod space;
mod stalls;
mod timing;
mod transform;
mod unit;
mod view;

pub use lease::{HostView, Lease};
pub use memory::RingMemory;
pub use options::{PassReport, PrefetchOptions, PrefetchStats};
pub use prefetcher::Prefetcher;
pub use stalls::{PassStalls, StallCauses, UnitStall};
pub use transform::{Cast, Change, Transform};
pub use view::{TensorRef, UnitView};
