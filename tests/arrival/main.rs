//! What happens to weights between the link and their use: casts, dequantised blocks, LoRAs.

#![allow(unreachable_pub)] // Of a test binary's own modules.

#[path = "../support/model_files.rs"]
mod model_files;
#[path = "../support/streaming.rs"]
mod streaming;

mod blocks;
mod casts;
mod loras;
mod narrow;
mod strengths;
mod world;
