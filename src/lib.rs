//! Riverbed: the memory under GPU streams.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

pub mod base;
pub mod weights;

pub use base::{Error, Result};
