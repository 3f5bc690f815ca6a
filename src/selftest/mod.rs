//! Rank 9: whether a device keeps its contract, and how fast it is.
//!
//! *Purpose*: [`checks`] is the device contract as a suite that runs on any device, a real card
//! above all: order, bytes, memory, kernels against their reference, the allocator under each
//! policy, a model streamed through a limit. [`run()`] runs them all and measures the device.
//!
//! *Semantics*: a check says what it needs; a device without it skips the check and says why. No
//! check relies on a device that refuses wrong handles or addresses: a real driver may lose its
//! context over one. A device that others use too is not filled, and its free memory is not
//! compared.
//!
//! *Invariants*: (T1) Nothing here panics, whatever a device answers. (T2) After a check, passed
//! or failed, the device has what it had before. (T3) A check that stands still ends.
//!
//! ```
//! use riverbed::device::Device;
//! use riverbed::selftest::{Outcome, checks};
//!
//! let device = Device::open("host:vram=64MiB")?;
//! let check = checks().find(|check| check.name() == "a_gate_never_falls").unwrap();
//! assert_eq!(check.run(&device), Outcome::Passed);
//! # Ok::<(), riverbed::Error>(())
//! ```

mod allocator;
mod arrivals;
mod casts;
mod check;
mod contract;
mod finding;
mod kernels;
mod lab;
mod measure;
mod run;
mod scratch;
mod streaming;

pub use check::{Check, Outcome};
pub use finding::Finding;
pub use measure::Measurement;
pub use run::{Bar, Checked, Options, Report, Watch, run};

/// Every check, by subject.
pub fn checks() -> impl Iterator<Item = Check> {
    [
        contract::streams::CHECKS,
        contract::events::CHECKS,
        contract::gates::CHECKS,
        contract::memory::CHECKS,
        contract::pinned::CHECKS,
        contract::copies::CHECKS,
        contract::wide_copies::CHECKS,
        contract::virtual_memory::CHECKS,
        contract::pools::CHECKS,
        contract::process_pool::CHECKS,
        contract::counts::CHECKS,
        kernels::CHECKS,
        casts::CHECKS,
        arrivals::CHECKS,
        allocator::CHECKS,
        streaming::CHECKS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
