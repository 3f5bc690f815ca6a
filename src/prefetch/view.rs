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
    content: Arc<UnitContent>,
    base: DevicePtr,
}

/// What a unit consists of once it is loaded.
#[derive(Debug)]
pub(super) struct UnitContent {
    pub(super) tensors: Vec<ContentTensor>,
    pub(super) len_bytes: u64,
}

/// A tensor of a loaded unit.
#[derive(Debug)]
pub(super) struct ContentTensor {
    /// Index into [`Model::tensors`].
    pub(super) tensor: usize,
    /// From the unit's start, in bytes.
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u64,
    /// Where a transform made another tensor of it.
    pub(super) made: Option<(Dtype, Vec<u64>)>,
}

impl UnitContent {
    /// A unit as its files have it.
    pub(super) fn of(layout: &UnitLayout) -> Self {
        let tensors = layout.tensors.iter().map(|placed| ContentTensor {
            tensor: placed.tensor,
            offset_bytes: placed.offset_bytes,
            len_bytes: placed.len_bytes,
            made: None,
        });
        Self { tensors: tensors.collect(), len_bytes: layout.len_bytes }
    }

    /// Its tensor number `at`, of a unit that lies at `base`.
    pub(super) fn tensor<'a>(
        &'a self,
        model: &'a Model,
        base: DevicePtr,
        at: usize,
    ) -> TensorRef<'a> {
        let placed = &self.tensors[at];
        let tensor = &model.tensors()[placed.tensor];
        let (dtype, shape) = match &placed.made {
            Some((dtype, shape)) => (*dtype, &shape[..]),
            None => (tensor.dtype, &tensor.shape[..]),
        };
        TensorRef {
            name: &tensor.name,
            dtype,
            shape,
            ptr: base.offset(placed.offset_bytes),
            len_bytes: placed.len_bytes,
        }
    }
}

impl UnitView {
    /// The unit of `layout`, of `model`, at `base`.
    #[must_use]
    pub fn new(model: Arc<Model>, layout: &UnitLayout, base: DevicePtr) -> Self {
        Self::of(model, Arc::new(UnitContent::of(layout)), base)
    }

    pub(super) fn of(model: Arc<Model>, content: Arc<UnitContent>, base: DevicePtr) -> Self {
        Self { model, content, base }
    }

    /// Its tensors, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorRef<'_>> {
        let count = self.content.tensors.len();
        (0..count).map(|at| self.content.tensor(&self.model, self.base, at))
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
        self.content.len_bytes
    }
}
