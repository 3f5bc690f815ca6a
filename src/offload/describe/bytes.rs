//! Bytes at rest: what a tensor takes when floats are kept in a narrower type than the file's.

use crate::base::{Error, Result, align_up, format_bytes};
use crate::weights::{ALIGN_BYTES, Dtype, Tensor};

/// Names of the types that weights can be kept in, and what others call them.
const NAMES: &[(&str, Dtype)] = &[
    ("fp8", Dtype::F8_E4M3),
    ("fp8_e4m3", Dtype::F8_E4M3),
    ("f8_e4m3", Dtype::F8_E4M3),
    ("float8_e4m3fn", Dtype::F8_E4M3),
    ("fp8_e5m2", Dtype::F8_E5M2),
    ("f8_e5m2", Dtype::F8_E5M2),
    ("float8_e5m2", Dtype::F8_E5M2),
    ("fp16", Dtype::F16),
    ("f16", Dtype::F16),
    ("float16", Dtype::F16),
    ("bf16", Dtype::BF16),
    ("bfloat16", Dtype::BF16),
    ("fp32", Dtype::F32),
    ("f32", Dtype::F32),
    ("float32", Dtype::F32),
];

/// Reads the name of a type that weights can be kept in (`fp8`, `fp16`, `bf16`, `fp32`, and their
/// longer names); letter case matters for nothing.
///
/// # Errors
/// A sentence that lists what is accepted.
pub fn parse_dtype(text: &str) -> Result<Dtype, String> {
    let found = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|&(_, dtype)| dtype).ok_or_else(|| {
        format!("'{text}' is not accepted; write fp8 (e4m3), fp8_e5m2, fp16, bf16 or fp32")
    })
}

/// As [`parse_dtype`], of an argument with a name.
pub(super) fn named_dtype(argument: &str, text: &str) -> Result<Dtype> {
    parse_dtype(text).map_err(|_| {
        Error::invalid(argument, text, "write fp8 (e4m3), fp8_e5m2, fp16, bf16 or fp32")
    })
}

/// Counts tensors in the type they are kept in.
#[derive(Debug)]
pub(super) struct AtRest {
    dtype: Option<Dtype>,
    before_bytes: u64,
    after_bytes: u64,
    /// Whether quantised tensors were seen, which are kept as they are.
    opaque: bool,
}

impl AtRest {
    pub(super) fn new(dtype: Option<Dtype>) -> Self {
        Self { dtype, before_bytes: 0, after_bytes: 0, opaque: false }
    }

    /// Bytes of `tensor` at rest. Matrices of floats wider than the type asked for are cast;
    /// vectors (norms, biases) are small and want their precision, and quantised blocks are
    /// opaque.
    pub(super) fn bytes(&mut self, tensor: &Tensor) -> u64 {
        let cast = self.dtype.filter(|dtype| {
            let wider = tensor.dtype.block_bytes() > dtype.block_bytes();
            tensor.shape.len() >= 2 && is_float(tensor.dtype) && wider
        });
        let bytes = match cast {
            Some(dtype) => tensor.len_bytes / tensor.dtype.block_bytes() * dtype.block_bytes(),
            None => tensor.len_bytes,
        };
        self.opaque |= tensor.dtype.block_elements() > 1;
        self.before_bytes = self.before_bytes.saturating_add(tensor.len_bytes);
        self.after_bytes = self.after_bytes.saturating_add(bytes);
        bytes
    }

    /// What keeping them so came to.
    pub(super) fn notes(&self) -> Vec<String> {
        let Some(dtype) = self.dtype else { return Vec::new() };
        note_of(dtype, self.before_bytes, self.after_bytes, self.opaque)
    }
}

/// What keeping weights in `dtype` came to.
pub(super) fn note_of(dtype: Dtype, before: u64, after: u64, opaque: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if after < before {
        notes.push(format!(
            "matrices are cast to {dtype} once, when they are loaded: {} of {} are kept and cross \
             the link",
            format_bytes(after),
            format_bytes(before)
        ));
    } else {
        notes.push(format!("{dtype} changes nothing: no matrix of floats is wider"));
    }
    if opaque {
        notes.push("quantised tensors are kept as they are".into());
    }
    notes
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Bytes of one tensor in a packed unit.
pub(super) fn packed_bytes(bytes: u64) -> Option<u64> {
    align_up(bytes, ALIGN_BYTES)
}
