//! Rank 3: decisions about device memory, as plain values. A policy looks at the ledger and
//! says which block to take, where to split it, how large a segment to ask for, what to give
//! back; `pool` carries it out. One file a policy, behind the one trait [`Policy`].

mod caching;
mod contract;
pub(crate) mod expandable;
mod mempool;
pub(crate) mod planned;
mod registry;
mod whole;

pub use caching::Caching;
pub use contract::{Cached, Fit, Policy, Pressure, Request};
pub use expandable::Expandable;
pub use mempool::Mempool;
pub use planned::Planned;
pub(crate) use registry::{Chosen, choose};
pub use registry::{Factory, create, names, register};
