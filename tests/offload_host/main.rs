//! Weights in host memory, shared by models and devices; models over several devices; experts.

mod devices;
mod experts;
#[path = "../support/model_files.rs"]
mod model_files;
mod sharing;
#[path = "../support/streaming.rs"]
mod streaming;
mod switching;
mod world;
