//! A cache of homes under one budget of host memory, across models and devices: what is read once
//! stays as far as it fits, and what is used again last makes room.
//!
//! A **component** is a model, or a part of one, by a name of the caller's: what a job names. Its
//! units have a home each, so that a component that does not fit stays in part. What is decided is
//! in `order`, what is known in `books`; memory is pinned and read by the loaders.

mod books;
mod cache;
mod claim;
mod lease;
mod order;
mod stats;

pub use cache::{RamCache, RamOptions};
pub use lease::RamLease;
pub use stats::RamStats;

pub(super) use books::Need;
pub(super) use cache::{Keeper, Place};
pub(super) use claim::Claim;
