//! Rank 1: model files on the host. Which tensors a model has, where their bytes lie, how they
//! group into layers, and how a layer is packed for one copy. Opening reads headers only;
//! reading weights, and any device, belong to the floors above.

mod cursor;
mod dtype;
mod experts;
mod gguf;
mod gguf_pairs;
mod joined;
mod layout;
mod locate;
mod lora;
mod model;
mod narrow;
mod pattern;
mod safetensors;
mod shards;
mod tensor;
mod units;

pub use dtype::Dtype;
pub use experts::ExpertLayer;
pub use layout::{ALIGN_BYTES, PlacedTensor, ReadSpan, SpanCast, UnitLayout};
pub use lora::{LoraPair, LoraTargets};
pub use model::{Format, Model, ModelFile};
pub use tensor::Tensor;
pub use units::{Grouping, Unit};
