//! Rank 2: what a GPU is. [`Driver`] is the contract, and one folder each keeps it: `host`, `sim`,
//! and `gpu`, which `cuda` and `hip` fill in. All driver calls of the crate, and all its raw
//! memory, are in here.
//!
//! Safe handles ([`Stream`], [`Event`], [`Gate`]) sit on the contract; memory calls stay
//! `unsafe`, because only their caller knows what the work in flight still touches.
#![allow(unsafe_code)]

mod arena;
mod calls;
mod contract;
mod cuda;
mod faults;
pub mod gpu;
mod handles;
mod hip;
pub mod host;
mod info;
mod kernel;
mod mempool;
mod nontemporal;
mod open;
mod order;
mod pinned;
mod reaper;
mod settings;
pub mod sim;
mod stripes;
mod table;

pub use calls::{Call, CallCounts};
pub use contract::{
    Copy2d, CopyH2d, DevicePtr, DeviceResult, Driver, EventId, GATE_VALUES, GateId, HostFn, PageId,
    Place, PoolAttribute, PoolId, Priority, StreamId,
};
pub use handles::{Event, Gate, Stream};
pub use info::{DeviceInfo, DriverInfo, MemoryInfo};
pub use kernel::{
    BlockFormat, Checksum, FloatFormat, Kernel, LowRank, Piece, cast, cast_bits, checksum,
    dequantise, patch,
};
pub use open::{Device, Listing, list};
pub use reaper::settle;
pub(crate) use reaper::{GivingUp, reap};
pub(crate) use stripes::{Gathered, Stores, copy_striped, copy_threads, gather_striped};
