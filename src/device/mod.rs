//! Rank 2: what a GPU is. [`Driver`] is the contract, one folder each keeps it: `host` and
//! `sim` today; `cuda` and `hip` only tell, so far, what they find of their driver. All driver calls of the
//! crate, and all its raw memory, are in here.
//!
//! Safe handles ([`Stream`], [`Event`], [`Gate`]) sit on the contract; memory calls stay
//! `unsafe`, because only their caller knows what the work in flight still touches.
#![allow(unsafe_code)]

mod arena;
mod calls;
mod contract;
mod cuda;
mod faults;
mod handles;
mod hip;
pub mod host;
mod info;
mod kernel;
mod mempool;
mod open;
mod order;
mod pinned;
mod probe;
mod reaper;
mod settings;
pub mod sim;
mod table;

pub use calls::{Call, CallCounts};
pub use contract::{
    DevicePtr, DeviceResult, Driver, EventId, GateId, HostFn, PageId, PoolAttribute, PoolId,
    Priority, StreamId,
};
pub use handles::{Event, Gate, Stream};
pub use info::{DeviceInfo, MemoryInfo};
pub use kernel::{Checksum, FloatFormat, Kernel, Piece, cast, cast_bits, checksum};
pub use open::{Device, Listing, list};
pub(crate) use reaper::reap;
