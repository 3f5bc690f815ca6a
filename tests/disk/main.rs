//! Reading files to a device: right bytes by every way, and no failure that hangs or lies.

mod bytes;
mod choice;
mod failures;
#[path = "../support/model_files.rs"]
mod model_files;
mod pace;
#[path = "../support/streaming.rs"]
mod streaming;
mod weights;
