//! The binary as its users meet it: what it prints, how it ends, what it leaves behind.

mod bench;
mod conf;
mod devices;
mod doctor;
#[path = "../support/elf.rs"]
mod elf;
mod ends;
#[path = "../support/fake.rs"]
mod fake;
#[path = "../support/fetched.rs"]
mod fetched;
mod gpu;
mod jobs;
mod load;
#[path = "../support/model_files.rs"]
mod model_files;
mod models;
mod pack;
#[path = "../support/pass_replay.rs"]
mod pass_replay;
mod plan;
mod process;
mod real;
mod refusals;
mod replay;
mod selftest;
#[path = "../support/streaming.rs"]
mod streaming;
