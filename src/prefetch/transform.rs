//! What happens to weights on the device between the link and the first lease: cast, dequantise,
//! patch. Done once a load, on the copy stream, not at every use.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::view::{ContentTensor, TensorRef, UnitContent};
use crate::base::{Error, Result, align_up};
use crate::device::{DevicePtr, Kernel, Stream};
use crate::transfer::float_format;
use crate::weights::{ALIGN_BYTES, Dtype, Model, Tensor, UnitLayout};

/// Changes tensors on their way into the ring. Called under the prefetcher's lock: it must not
/// block, and not call the prefetcher.
pub trait Transform: fmt::Debug + Send + Sync {
    /// What becomes of a tensor. Asked once for every tensor, before anything is loaded.
    ///
    /// # Errors
    /// A tensor that cannot be changed as wanted; the prefetcher is not made then.
    fn plan(&self, tensor: &Tensor) -> Result<Change>;

    /// Enqueues the change of one tensor on `stream`. Called at every load. Where it enqueues
    /// on other streams too, `stream` must be made to wait for them.
    ///
    /// # Errors
    /// Fails the load: whoever leases the unit is told.
    ///
    /// # Safety
    /// What is enqueued on `stream` from now on finds `source` loaded, and `target` with the
    /// bytes of its type and shape; until the next thing the caller enqueues there has run,
    /// nothing else touches either. They are the same bytes for [`Change::InPlace`], else apart.
    unsafe fn enqueue(
        &self,
        stream: &Stream,
        source: &TensorRef<'_>,
        target: &TensorRef<'_>,
    ) -> Result<()>;
}

/// What a [`Transform`] does with a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Nothing.
    Keep,
    /// It is changed where it lies (a patch added to it): source and target are the same bytes.
    InPlace,
    /// Another tensor is made of it, whose size follows from type and shape.
    Into {
        /// How the elements of the result are stored.
        dtype: Dtype,
        /// The shape of the result, slowest dimension first.
        shape: Vec<u64>,
    },
}

/// Casts tensors of one float type, or of all, to another by
/// [`Kernel::Cast`](crate::device::Kernel::Cast), to the nearest and as large as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    /// Only tensors of this type; `None` for every float type but the result's.
    pub from: Option<Dtype>,
    /// The type of the result.
    pub to: Dtype,
    /// Whether what is too large becomes the largest number there is, in place of infinity.
    pub saturate: bool,
}

impl Transform for Cast {
    fn plan(&self, tensor: &Tensor) -> Result<Change> {
        if float_format(self.to).is_none() {
            return Err(not_a_float("cast to", self.to));
        }
        if let Some(from) = self.from.filter(|from| float_format(*from).is_none()) {
            return Err(not_a_float("cast from", from));
        }
        let meant = self.from.is_none_or(|from| from == tensor.dtype);
        if !meant || tensor.dtype == self.to || float_format(tensor.dtype).is_none() {
            return Ok(Change::Keep);
        }
        Ok(Change::Into { dtype: self.to, shape: tensor.shape.clone() })
    }

    unsafe fn enqueue(
        &self,
        stream: &Stream,
        source: &TensorRef<'_>,
        target: &TensorRef<'_>,
    ) -> Result<()> {
        let format = |dtype| float_format(dtype).ok_or_else(|| not_a_float("cast", dtype));
        let (from, to) = (format(source.dtype)?, format(target.dtype)?);
        let kernel = Kernel::Cast {
            src: source.ptr,
            dst: target.ptr,
            count: source.len_bytes / from.size_bytes(),
            from,
            to,
            saturate: self.saturate,
        };
        // SAFETY: the caller's promise: the source is loaded on this stream, the target has room
        // for as many numbers, the two are apart, and nothing else touches either.
        Ok(unsafe { stream.device().driver().launch(stream.id(), &kernel) }?)
    }
}

fn not_a_float(name: &str, dtype: Dtype) -> Error {
    Error::invalid(name, dtype, "F8_E4M3, F8_E5M2, F16, BF16 and F32 can be cast")
}

/// The transform of one unit, with where everything lies.
#[derive(Debug)]
pub(super) struct UnitTransform {
    transform: Arc<dyn Transform>,
    /// The unit as it is loaded.
    pub(super) raw: UnitContent,
    /// What is done, tensor by tensor.
    changes: Vec<Kind>,
    /// Whether the raw bytes need a place of their own.
    pub(super) staged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keep,
    InPlace,
    Into,
}

impl UnitTransform {
    /// What `transform` does with a unit, and the unit it makes; `None` for a unit it keeps.
    pub(super) fn plan(
        model: &Model,
        layout: &UnitLayout,
        transform: &Arc<dyn Transform>,
    ) -> Result<Option<(Self, UnitContent)>> {
        let mut made = UnitContent { tensors: Vec::new(), len_bytes: 0 };
        let mut changes = Vec::with_capacity(layout.tensors.len());
        for placed in &layout.tensors {
            let tensor = &model.tensors()[placed.tensor];
            let (kind, len_bytes, result) = match transform.plan(tensor)? {
                Change::Keep => (Kind::Keep, placed.len_bytes, None),
                Change::InPlace => (Kind::InPlace, placed.len_bytes, None),
                Change::Into { dtype, shape } => {
                    (Kind::Into, made_bytes(tensor, dtype, &shape)?, Some((dtype, shape)))
                }
            };
            changes.push(kind);
            let offset_bytes = made.len_bytes;
            let end = offset_bytes.checked_add(len_bytes);
            made.len_bytes =
                end.and_then(|end| align_up(end, ALIGN_BYTES)).ok_or_else(|| too_large(tensor))?;
            made.tensors.push(ContentTensor {
                tensor: placed.tensor,
                offset_bytes,
                len_bytes,
                made: result,
            });
        }
        if changes.iter().all(|kind| *kind == Kind::Keep) {
            return Ok(None);
        }
        let staged = changes.contains(&Kind::Into);
        let raw = UnitContent::of(layout);
        Ok(Some((Self { transform: Arc::clone(transform), raw, changes, staged }, made)))
    }

    /// Enqueues the change of the unit whose raw bytes lie at `raw`, to `made`, which lies at
    /// `place`.
    ///
    /// # Safety
    /// Both places hold their unit and stay valid until the stream is past this; the raw bytes
    /// are loaded on `stream`, and nothing else touches either.
    pub(super) unsafe fn enqueue(
        &self,
        model: &Model,
        stream: &Stream,
        raw: DevicePtr,
        made: &UnitContent,
        place: DevicePtr,
    ) -> Result<()> {
        for (at, kind) in self.changes.iter().enumerate() {
            let source = self.raw.tensor(model, raw, at);
            let target = made.tensor(model, place, at);
            if source.len_bytes == 0 {
                continue;
            }
            if self.staged && *kind != Kind::Into {
                let (dst, src, bytes) = (target.ptr, source.ptr, source.len_bytes);
                // SAFETY: the caller's promise; the two are of one length, and apart because the
                // raw bytes have a place of their own.
                unsafe { stream.device().driver().copy_d2d(stream.id(), dst, src, bytes) }?;
            }
            let source = match kind {
                Kind::Keep => continue,
                Kind::InPlace => &target,
                Kind::Into => &source,
            };
            // SAFETY: the caller's promise; a target lies where its layout has room for it.
            unsafe { self.transform.enqueue(stream, source, &target) }?;
        }
        Ok(())
    }
}

/// The size of what is made of `tensor`.
fn made_bytes(tensor: &Tensor, dtype: Dtype, shape: &[u64]) -> Result<u64> {
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let elements = elements.ok_or_else(|| too_large(tensor))?;
    if !elements.is_multiple_of(dtype.block_elements()) {
        return Err(Error::invalid(
            "transform",
            &tensor.name,
            format!("{elements} elements are not whole blocks of {dtype}"),
        ));
    }
    dtype.bytes_for(elements).ok_or_else(|| too_large(tensor))
}

fn too_large(tensor: &Tensor) -> Error {
    Error::invalid("transform", &tensor.name, "the result has more than 2^64 bytes")
}
