//! The planner against what is known of real models, and against an independent replay.

#[path = "../support/pass_replay.rs"]
mod pass_replay;

mod cells;
mod jobs;
mod modes;
mod pages;
mod random;
mod reference;
