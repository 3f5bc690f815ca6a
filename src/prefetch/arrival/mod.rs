//! The transform for common needs: tensors are cast or dequantised to what layers compute in, and
//! patched by LoRAs, on their way into the ring or when residents are loaded.
#![allow(unsafe_code)]

mod lora;
mod patches;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::transform::{Change, Transform};
use super::view::TensorRef;
use crate::base::{Error, Result};
use crate::device::{FloatFormat, Kernel, Stream};
use crate::pinned::PinnedPool;
use crate::pool::Allocator;
use crate::transfer::{block_format, float_format};
use crate::weights::{Dtype, Model, Tensor};
pub use lora::Lora;
use patches::{Patched, Patches};

/// What becomes of a model's tensors on the device.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ArrivalOptions {
    /// What tensors of floats become; `None` leaves them as their file has them.
    pub compute: Option<Dtype>,
    /// What tensors of ggml's blocks become, F16, BF16 or F32; `None` passes them as they are.
    pub dequantise: Option<Dtype>,
    /// Whether what is too large for its new type becomes the largest number there is, in place of
    /// infinity.
    pub saturate: bool,
    /// What is added to weights, with its strength. Weights of F32, F16 and BF16 can be patched,
    /// and others that become such.
    pub loras: Vec<(Arc<Lora>, f32)>,
}

impl ArrivalOptions {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.compute.is_none() && self.dequantise.is_none() && self.loras.is_empty()
    }
}

/// Counters of an [`Arrival`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ArrivalStats {
    /// Tensors cast from one float type to another.
    pub cast: u64,
    /// Tensors dequantised.
    pub dequantised: u64,
    /// Tensors patched; a cast that goes with it is not counted.
    pub patched: u64,
}

/// Casts, dequantises and patches as [`ArrivalOptions`] say. What is cast and patched is rounded
/// once; what is dequantised and patched, twice.
///
/// With LoRAs, [`settle`](Self::settle) comes before the first load. The factors stay on the
/// device; the files and what is kept of them in RAM are never written.
///
/// ```no_run
/// use std::sync::Arc;
/// use riverbed::prefetch::{Arrival, ArrivalOptions, Lora};
/// use riverbed::weights::{Dtype, Model};
///
/// let model = Model::open("model-fp8.safetensors")?;
/// let mut options = ArrivalOptions::default();
/// options.compute = Some(Dtype::BF16);
/// options.loras.push((Arc::new(Lora::open("style.safetensors")?), 0.8));
/// let arrival = Arrival::new(&model, options)?;
/// println!("{} bytes of factors", arrival.device_bytes());
/// # Ok::<(), riverbed::Error>(())
/// ```
pub struct Arrival {
    compute: Option<Dtype>,
    dequantise: Option<Dtype>,
    saturate: bool,
    patches: Option<Patches>,
    counts: [AtomicU64; 3],
}

/// Indices into the counters.
const CAST: usize = 0;
const DEQUANTISED: usize = 1;
const PATCHED: usize = 2;

impl Arrival {
    /// What happens to the tensors of `model`. Reads nothing.
    ///
    /// # Errors
    /// A type that nothing can be cast or dequantised to; a LoRA that is not for this model (of
    /// which no module is; that some are not is told as a warning), or for weights that cannot be
    /// patched.
    pub fn new(model: &Model, options: ArrivalOptions) -> Result<Self> {
        let ArrivalOptions { compute, dequantise, saturate, loras } = options;
        if let Some(dtype) = compute.filter(|dtype| float_format(*dtype).is_none()) {
            let expected = "F8_E4M3, F8_E5M2, F16, BF16 and F32 can be cast to";
            return Err(Error::invalid("compute type", dtype, expected));
        }
        if let Some(dtype) = dequantise.filter(|dtype| !is_wide(*dtype)) {
            let expected = "F16, BF16 and F32 can be dequantised to";
            return Err(Error::invalid("dequantise", dtype, expected));
        }
        let patches = if loras.is_empty() { None } else { Some(Patches::new(model, &loras)?) };
        let counts = Default::default();
        let arrival = Self { compute, dequantise, saturate, patches, counts };
        for tensor in model.tensors() {
            arrival.plan(tensor)?;
        }
        Ok(arrival)
    }

    /// Bytes on the device that the LoRAs' factors take; 0 without any.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        self.patches.as_ref().map_or(0, Patches::len_bytes)
    }

    /// Takes the LoRAs' factors to the device, in a segment of their own. Blocks for as long as
    /// that takes.
    ///
    /// # Errors
    /// No room under the allocator's limit, or in the pinned budget; a file that cannot be read;
    /// what the driver says.
    pub fn settle(&self, allocator: &Allocator, pinned: &PinnedPool) -> Result<()> {
        self.patches.as_ref().map_or(Ok(()), |patches| patches.settle(allocator, pinned))
    }

    /// The LoRAs' names and strengths.
    #[must_use]
    pub fn strengths(&self) -> Vec<(String, f32)> {
        self.patches.as_ref().map_or_else(Vec::new, Patches::strengths)
    }

    /// Changes the strength of a LoRA: 0 takes it away. What is loaded from now on finds it; what
    /// is on the device already stays as it is until it is loaded again
    /// ([`Prefetcher::forget`](super::Prefetcher::forget)). Blocks for a small copy.
    ///
    /// # Errors
    /// No such LoRA; a strength that is not finite; what the driver says.
    pub fn set_strength(&self, lora: &str, strength: f32) -> Result<()> {
        match &self.patches {
            Some(patches) => patches.set_strength(lora, strength),
            None => Err(Error::invalid("LoRA", lora, "there are none")),
        }
    }

    /// Whether any LoRA is for the tensor, whatever its strength.
    #[must_use]
    pub fn is_patched(&self, tensor: &str) -> bool {
        self.patches.as_ref().is_some_and(|patches| patches.has(tensor))
    }

    /// The tensors that the LoRA is for, in no order.
    pub fn patched_by<'a>(&'a self, lora: &'a str) -> impl Iterator<Item = &'a str> {
        self.patches.iter().flat_map(move |patches| patches.names_of(lora))
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> ArrivalStats {
        let [cast, dequantised, patched] =
            self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        ArrivalStats { cast, dequantised, patched }
    }

    fn count(&self, what: usize) {
        self.counts[what].fetch_add(1, Ordering::Relaxed);
    }

    /// The type a tensor comes to have.
    fn result(&self, tensor: &Tensor) -> Result<Dtype> {
        let dtype = tensor.dtype;
        if float_format(dtype).is_some() {
            return Ok(self.compute.unwrap_or(dtype));
        }
        let Some(to) = self.dequantise.filter(|_| dtype.block_elements() > 1) else {
            return Ok(dtype);
        };
        match block_format(dtype) {
            Some(_) => Ok(to),
            None => Err(Error::Unsupported {
                what: format!("dequantising '{}' from {dtype} on arrival", tensor.name),
                by: "this version".into(),
                way_out: "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are; without \
                          'dequantise' blocks pass as they are"
                    .into(),
            }),
        }
    }

    /// Enqueues the patch of a weight that has one.
    ///
    /// # Safety
    /// As [`Patches::enqueue`].
    unsafe fn patch(&self, name: &str, at: Patched, stream: &Stream) -> Result<bool> {
        let Some(patches) = &self.patches else { return Ok(false) };
        // SAFETY: the caller's promise.
        let patched = unsafe { patches.enqueue(name, at, stream) }?;
        if patched {
            self.count(PATCHED);
        }
        Ok(patched)
    }
}

/// Whether weights of this type can be patched, and blocks dequantised to it.
fn is_wide(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32)
}

impl Transform for Arrival {
    fn plan(&self, tensor: &Tensor) -> Result<Change> {
        let dtype = self.result(tensor)?;
        let patched = self.is_patched(&tensor.name);
        if patched && !is_wide(dtype) {
            return Err(Error::Unsupported {
                what: format!("patching '{}', of {dtype}, by a LoRA", tensor.name),
                by: "this version".into(),
                way_out: "F16, BF16 and F32 can be patched: give a type to compute in, or to \
                          dequantise to"
                    .into(),
            });
        }
        Ok(match (dtype == tensor.dtype, patched) {
            (false, _) => Change::Into { dtype, shape: tensor.shape.clone() },
            (true, true) => Change::InPlace,
            (true, false) => Change::Keep,
        })
    }

    unsafe fn enqueue(
        &self,
        stream: &Stream,
        source: &TensorRef<'_>,
        target: &TensorRef<'_>,
    ) -> Result<()> {
        let unknown = || Error::invalid("arrival", target.dtype, "it was not planned");
        let to = float_format(target.dtype).ok_or_else(unknown)?;
        let (src, dst, saturate) = (source.ptr, target.ptr, self.saturate);
        let count = target.len_bytes / to.size_bytes();
        let at =
            |src, from: FloatFormat| Patched { src, dst, formats: [from, to], saturate, count };
        // SAFETY: the caller's promise for both tensors, of each launch in turn.
        let launch = |kernel| unsafe { stream.device().driver().launch(stream.id(), &kernel) };
        if let Some(from) = block_format(source.dtype) {
            launch(Kernel::Dequantise { src, dst, count, from, to, saturate })?;
            self.count(DEQUANTISED);
            // SAFETY: the caller's promise; the stream has just been given what fills the target.
            unsafe { self.patch(target.name, at(dst, to), stream) }?;
            return Ok(());
        }
        let from = float_format(source.dtype).ok_or_else(unknown)?;
        // SAFETY: the caller's promise.
        let patched = unsafe { self.patch(target.name, at(src, from), stream) }?;
        if !patched && from != to {
            launch(Kernel::Cast { src, dst, count, from, to, saturate })?;
            self.count(CAST);
        }
        Ok(())
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival")
            .field("compute", &self.compute)
            .field("dequantise", &self.dequantise)
            .field("loras", &self.strengths())
            .field(
                "patched",
                &self.patches.iter().map(|patches| patches.names().count()).sum::<usize>(),
            )
            .finish_non_exhaustive()
    }
}
