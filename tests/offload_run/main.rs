//! Jobs run by their plans: every byte right wherever it is, the limit held at every moment, and
//! the ladder down and up.

#[path = "../support/model_files.rs"]
mod model_files;
#[path = "../support/streaming.rs"]
mod streaming;

mod job;
mod ladder;
mod paged;
mod phases;
mod random;
mod reality;
mod right_bytes;
