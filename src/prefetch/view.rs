//! Where the tensors of a unit lie on the device.

use std::sync::Arc;

use crate::base::{Error, Result};
use crate::device::DevicePtr;
use crate::weights::{Dtype, Model, UnitLayout};

/// A tensor on the device.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TensorRef<'a> {
    /// Its name in the model.
    pub name: &'a str,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its shape, slowest dimension first.
    pub shape: &'a [u64],
    /// Where it is.
    pub ptr: DevicePtr,
    /// Its size in bytes.
    pub len_bytes: u64,
}

/// The tensors of one unit that lies at one address.
#[derive(Debug, Clone)]
pub struct UnitView {
    model: Arc<Model>,
    layout: Arc<UnitLayout>,
    base: DevicePtr,
}

impl UnitView {
    /// The unit of `layout`, of `model`, at `base`.
    #[must_use]
    pub fn new(model: Arc<Model>, layout: Arc<UnitLayout>, base: DevicePtr) -> Self {
        Self { model, layout, base }
    }

    /// Its tensors, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorRef<'_>> {
        self.layout.tensors.iter().map(|placed| {
            let tensor = &self.model.tensors()[placed.tensor];
            TensorRef {
                name: &tensor.name,
                dtype: tensor.dtype,
                shape: &tensor.shape,
                ptr: self.base.offset(placed.offset_bytes),
                len_bytes: placed.len_bytes,
            }
        })
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// The unit has no such tensor; the error lists those it has.
    pub fn tensor(&self, name: &str) -> Result<TensorRef<'_>> {
        self.tensors().find(|tensor| tensor.name == name).ok_or_else(|| {
            let names: Vec<_> = self.tensors().map(|tensor| tensor.name).take(8).collect();
            Error::invalid("tensor", name, format!("this unit has {}", names.join(", ")))
        })
    }

    /// Its size in bytes, padding included.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.layout.len_bytes
    }
}
