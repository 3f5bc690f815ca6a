//! The pool of the whole process: over the devices without a driver, and over fake drivers that
//! other code uses with calls of its own.

#[path = "../support/fake.rs"]
mod fake;
#[path = "../support/mod.rs"]
mod support;

mod confs;
mod failures;
mod fakes;
mod life;
mod others;
