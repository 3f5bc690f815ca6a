//! Rank 1: offline packing, also called dynamic storage allocation. Buffers with known lifetimes
//! and sizes are laid out in one span of memory that is as small as possible.
//!
//! [`pack`] does it, [`verify`] judges the outcome independently. How it works, and how well, is
//! in `docs/packing.md`. Nothing here knows a device.

mod buffer;
mod core;
mod decompose;
mod effort;
mod first_fit;
mod instance;
mod occupancy;
mod orders;
mod packing;
mod race;
mod restarts;
mod search;
mod squeaky;
mod verify;
mod watch;

pub use buffer::{BUFFERS_MAX, Buffer, TOTAL_BYTES_MAX};
pub use packing::{Options, Packing, Verdict, pack};
pub use verify::verify;
pub use watch::Watch;
