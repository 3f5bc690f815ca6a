//! Reading files to a device: right bytes by every way, and no failure that hangs or lies.

#[path = "../support/around.rs"]
mod around;
mod bytes;
mod choice;
mod failures;
#[path = "../support/held.rs"]
mod held;
mod homes;
#[path = "../support/model_files.rs"]
mod model_files;
mod pace;
#[path = "../support/streaming.rs"]
mod streaming;
mod weights;
