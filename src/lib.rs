//! Riverbed: the memory under GPU streams.
//!
//! - [`pool::Allocator`]: a stream-ordered device allocator with pluggable policies, configured
//!   by PyTorch's alloc-conf strings ([`conf`]).
//! - [`pinned::PinnedPool`] and [`transfer::Transfer`]: pinned host memory and copies that keep
//!   both their ends alive.
//! - [`offload::StreamedModel`]: a model ([`weights`]) whose layers stream through a hard limit
//!   on device memory, with leases that never make the host wait ([`prefetch`]).
//! - [`modes`]: the low-VRAM modes and config files of InvokeAI, SD.Next, AUTOMATIC1111 and
//!   DiffSynth-Studio, as rules for the planner ([`plan`]).
//! - [`process_pool::install`]: a conf for everybody in the process who allocates from the
//!   driver's own pool.
//! - [`replay`]: recorded allocations against any policy and conf, measured and ranked.
//! - [`selftest`]: whether a device keeps its contract, and how fast it is.
//! - [`pack::pack`]: offline packing of buffers with known lifetimes.
//!
//! Everything runs on the embedded host device ([`device::host`]). The floors of the crate and
//! the reasons for them are in `docs/architecture.md`.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

pub mod base;
pub mod conf;
pub mod device;
pub mod event;
pub mod fence;
pub mod ledger;
pub mod modes;
pub mod offload;
pub mod pack;
pub mod pinned;
pub mod plan;
pub mod policy;
pub mod pool;
pub mod prefetch;
pub mod process_pool;
pub mod replay;
pub mod selftest;
pub mod transfer;
pub mod weights;

pub use base::{Error, Result};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
