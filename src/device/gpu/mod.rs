//! What CUDA and HIP share: the device contract over a vendor's driver, which is found at run
//! time. `cuda` and `hip` fill in where the two differ (`gpu/vendor.rs`).
//!
//! Nothing here panics or aborts whatever the driver lacks or answers: a missing library,
//! function or device, a status nobody knows, and a device that was lost are errors that name
//! the call and the status.

pub(in crate::device) mod abi;
pub(in crate::device) mod calls;
mod card;
mod driver;
mod gates;
pub(in crate::device) mod library;
mod mappings;
mod modules;
mod open;
mod pci;
mod pools;
mod spec;
pub(in crate::device) mod symbols;
mod trial;
pub(in crate::device) mod vendor;
mod virtual_memory;
mod wide_copies;

pub(super) use open::{open, survey};
pub use spec::GpuSpec;
