//! The fake driver libraries themselves, called through their C ABI.
#![allow(non_snake_case, reason = "the calls have the drivers' names")]
#![allow(clippy::too_many_arguments, reason = "the drivers' own signatures")]

#[path = "../support/fake.rs"]
mod fake;

mod cuda_calls;
mod cuda_capture;
mod cuda_faults;
mod cuda_life;
mod cuda_misuse;
mod hip;
mod hip_calls;
mod symbols;
