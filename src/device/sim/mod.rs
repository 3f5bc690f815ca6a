//! The simulator: a device with no bytes, a virtual clock and a price for each driver call. It
//! replays what an 80 GB card would be asked on a laptop, tells what the calls would cost, and
//! runs out of memory where the card would.
//!
//! Host time advances by the price of each call and by what a `synchronize` waits for; streams,
//! copies and kernels have virtual ends. Work done from one thread gives the same clock in every
//! run. Prices, rates and sizes come from a [`Profile`].

mod backing;
mod calls;
mod copies;
mod driver;
mod engine;
mod pools;
mod profile;
mod spec;
mod state;
mod timeline;

pub use driver::SimDriver;
pub use profile::{Cost, Profile, Sourced};
pub use spec::SimSpec;
