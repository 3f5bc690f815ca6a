//! Jobs run by their plans: every byte right wherever it is, the limit held at every moment, and
//! the ladder down and up.

#[path = "../support/fetched.rs"]
mod fetched;
#[path = "../support/model_files.rs"]
mod model_files;
#[path = "../support/planned.rs"]
mod planned;
#[path = "../support/streaming.rs"]
mod streaming;

mod corrected;
mod job;
mod ladder;
mod modes;
mod paged;
mod phases;
mod planned_time;
mod random;
mod reality;
mod right_bytes;
mod steady;
mod threads;
