//! Riverbed: the memory under GPU streams.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

pub mod base;
pub mod conf;
pub mod device;
pub mod event;
pub mod fence;
pub mod ledger;
pub mod offload;
pub mod pinned;
pub mod policy;
pub mod pool;
pub mod prefetch;
pub mod transfer;
pub mod weights;

pub use base::{Error, Result};
