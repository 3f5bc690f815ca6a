//! The weight ring: right bytes for every shape and setting, no waiting host, and no failure
//! that hangs, lies or leaks.

#[path = "../support/around.rs"]
mod around;
mod bytes;
mod chaos;
mod components;
mod failures;
mod faults;
mod fidelity;
mod held;
#[path = "../support/held.rs"]
mod held_pinning;
mod homes;
#[path = "../support/model_files.rs"]
mod model_files;
mod order;
mod pace;
#[path = "../support/paced.rs"]
mod paced;
#[path = "../support/pass_replay.rs"]
mod pass_replay;
mod stable;
mod stalls;
mod steady;
#[path = "../support/streaming.rs"]
mod streaming;
mod teardown;
mod threads;
mod transforms;
mod waiting;
