//! Rank 7: the weight ring. Units of a model are loaded ahead of use into one ring of device
//! bytes, each byte as soon as there is room for it; a lease says "it is there when the stream wants
//! it". The host never waits, and a pass allocates nothing.

mod ahead;
mod arrival;
mod aside;
mod books;
mod fixed;
mod homes;
mod lease;
mod loading;
mod memory;
mod options;
mod order;
mod planned;
mod prefetcher;
mod reconfigure;
mod renew;
mod resize;
mod ring;
mod space;
mod stalls;
mod timing;
mod transform;
mod unit;
mod view;

pub use arrival::{Arrival, ArrivalOptions, ArrivalStats, Lora};
pub use lease::{HostView, Lease};
pub use memory::RingMemory;
pub use options::{PassReport, PrefetchOptions, PrefetchStats};
pub(crate) use planned::PlannedUnit;
pub use planned::UnitSizes;
pub use prefetcher::Prefetcher;
pub use renew::Forgotten;
pub use stalls::{PassStalls, StallCauses, UnitStall};
pub use transform::{Cast, Change, Transform};
pub use view::{TensorRef, UnitView};
