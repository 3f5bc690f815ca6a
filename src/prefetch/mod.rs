//! Rank 7: the weight ring. Units of a model are loaded ahead of use into one ring of device
//! bytes, allocated once; a lease says "it is there when the stream wants it". The host never
//! waits, and a pass allocates nothing.

mod lease;
mod options;
mod prefetcher;
mod ring;
mod space;
mod view;

pub use lease::{HostView, Lease};
pub use options::{PassReport, PrefetchOptions, PrefetchStats};
pub use prefetcher::Prefetcher;
pub use view::{TensorRef, UnitView};
