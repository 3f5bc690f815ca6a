//! The model behind Riverbed's fake CUDA and HIP drivers: contexts, memory, streams, events,
//! pools, captures and kernels over Riverbed's own host device, with a book of everything that
//! was called wrongly and of everything that was never given back.
//!
//! A vendor's library is a thin layer over this: it translates its ABI into calls of [`Fake`].
//! Handles are numbers that are never used twice, so that one used after its end is told.

mod abi;
mod attributes;
mod capture;
mod context;
mod controls;
mod copy;
mod device;
mod entry;
mod event;
mod fake;
mod faults;
mod kernels;
mod log;
mod mapping;
mod memory;
mod module;
mod physical;
mod pinned;
mod pool;
mod range;
mod settings;
mod status_names;
mod stream;
mod virtual_memory;
mod wait_value;

pub mod status;

pub use abi::{In, InOut, Out, Untyped, bytes, put_text, text};
pub use attributes::{Attribute, PointerFacts};
pub use controls::{fake, report, set};
pub use copy::{Copy2d, Direction, Place};
pub use entry::{Need, enter, in_host_function, misuse};
pub use fake::Fake;
pub use mapping::AccessTo;
pub use settings::Settings;
pub use status::Answer;
pub use status_names::{name_of, text_of};
pub use stream::PRIORITIES;
pub use wait_value::Comparison;

/// Whose driver a fake stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    Cuda,
    Hip,
}
