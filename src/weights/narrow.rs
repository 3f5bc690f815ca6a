//! Models whose weights are kept narrower in memory than in their files.

use super::dtype::Dtype;
use super::layout::SpanCast;
use super::model::Model;
use super::tensor::{Tensor, shown};
use crate::base::{Error, Result};

impl Model {
    /// The same model with the types that `choose` gives to tensors in place of their files'
    /// (`None` keeps a tensor's): they are cast once, when they are read, so that pinned memory
    /// and the link hold and carry the narrower bytes. To the nearest, ties to even; what is too
    /// large becomes the largest number of an fp8 format, and infinity in others. All that goes by
    /// a tensor's type and length (units, plans, leases) goes by these; group the result's
    /// tensors, not this model's.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: a type that is not narrower than the file's, or one of the two
    /// is not of F8_E4M3, F8_E5M2, F16, BF16 and F32.
    pub fn narrowed(&self, choose: impl Fn(&Tensor) -> Option<Dtype>) -> Result<Self> {
        let mut narrowed = self.clone();
        for index in 0..self.tensors.len() {
            let Some(to) = choose(&self.tensors[index]) else { continue };
            let from = self.file_dtype(index);
            let tensor = &mut narrowed.tensors[index];
            if !(is_float(from) && is_float(to) && to.block_bytes() < from.block_bytes()) {
                let expected = format!(
                    "'{}' is of {from} in its file: F32 can be kept as BF16, F16, F8_E4M3 or \
                     F8_E5M2, F16 and BF16 as the last two",
                    shown(&tensor.name)
                );
                return Err(Error::invalid("narrower type", to, expected));
            }
            let count = tensor.len_bytes / tensor.dtype.block_bytes();
            narrowed.total_bytes -= tensor.len_bytes;
            (tensor.dtype, tensor.len_bytes) = (to, count * to.block_bytes());
            narrowed.total_bytes += tensor.len_bytes;
            narrowed.kept.insert(index, from);
        }
        Ok(narrowed)
    }

    /// As [`narrowed`](Self::narrowed), of every tensor of a wider float type.
    ///
    /// # Errors
    /// A type that is none of F8_E4M3, F8_E5M2, F16 and BF16.
    pub fn narrowed_to(&self, dtype: Dtype) -> Result<Self> {
        if !is_float(dtype) || dtype == Dtype::F32 {
            let expected = "weights are kept as BF16, F16, F8_E4M3 or F8_E5M2";
            return Err(Error::invalid("narrower type", dtype, expected));
        }
        self.narrowed(|tensor| {
            let wider = is_float(tensor.dtype) && tensor.dtype.block_bytes() > dtype.block_bytes();
            wider.then_some(dtype)
        })
    }

    /// The type that tensor number `index` has in its file; its own where it is not narrowed.
    ///
    /// # Panics
    /// On an index of no tensor, as [`tensors`](Self::tensors) does.
    #[must_use]
    pub fn file_dtype(&self, index: usize) -> Dtype {
        self.kept.get(&index).copied().unwrap_or(self.tensors[index].dtype)
    }

    /// How tensor number `index` is cast when it is read, if it is.
    pub(super) fn cast_of(&self, index: usize) -> Option<SpanCast> {
        let from = *self.kept.get(&index)?;
        Some(SpanCast { from, to: self.tensors.get(index)?.dtype })
    }
}

/// Whether casts know the type.
fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F16 | Dtype::BF16 | Dtype::F32)
}
