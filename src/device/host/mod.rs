//! The host device: the whole contract in ordinary memory and threads. A stream is a worker
//! that runs its queue in order; device memory is address space with shared memory mapped into
//! it page by page; a capacity makes running out of it real, a link rate makes copies take
//! their time.
//!
//! It is a product, not a mock: CPU runtimes stream models through it, and users test on it.

mod backing;
mod compute;
mod driver;
mod link;
mod pools;
mod spec;
mod sync;
mod table;
mod worker;

pub use super::faults::Faults;
pub use driver::HostDriver;
pub use spec::HostSpec;
