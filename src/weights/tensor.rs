//! One tensor of a model, and what both formats check about it the same way.

use super::dtype::Dtype;

/// Names longer than this are cut in error texts: a hostile file may hold very long ones.
const SHOWN_CHARS: usize = 80;

/// One tensor: what it is and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name, unique in its model.
    pub name: String,
    /// How the elements are stored.
    pub dtype: Dtype,
    /// The shape, slowest dimension first (row-major, as numpy prints it) in every format: a
    /// GGUF file's `ne`, which starts with the fastest dimension, is reversed. Empty for a
    /// scalar.
    pub shape: Vec<u64>,
    /// Index into [`Model::files`](super::Model::files).
    pub file: usize,
    /// Offset of the first byte from the file's start, in bytes.
    pub offset_bytes: u64,
    /// Length in bytes; 0 when a dimension is 0.
    pub len_bytes: u64,
}

impl Tensor {
    /// Offset of the first byte behind the tensor. Cannot overflow: it is inside the file.
    pub(super) fn end_bytes(&self) -> u64 {
        self.offset_bytes.saturating_add(self.len_bytes)
    }
}

/// Bytes a tensor of this type and shape has, or what is wrong with them.
pub(super) fn sized(dtype: Dtype, shape: &[u64]) -> Result<u64, String> {
    let elements = shape
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .ok_or_else(|| format!("shape {} has more than 2^64 elements", shown_shape(shape)))?;
    if elements % dtype.block_elements() != 0 {
        return Err(format!(
            "{elements} elements are not whole blocks of {dtype} ({} elements each)",
            dtype.block_elements()
        ));
    }
    dtype
        .bytes_for(elements)
        .ok_or_else(|| format!("{elements} elements of {dtype} are more than 2^64 bytes"))
}

/// The first name that stands twice among `names`.
pub(super) fn duplicate<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut sorted: Vec<&str> = names.collect();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// A name from a file as an error text may show it: printable, of bounded length.
pub(super) fn shown(name: &str) -> String {
    shown_to(name, SHOWN_CHARS)
}

/// As [`shown`], with a length in characters of the caller's choice.
pub(super) fn shown_to(text: &str, chars_max: usize) -> String {
    let mut shown = String::new();
    for char in text.chars().take(chars_max) {
        match char {
            '\'' | '"' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
    }
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    shown
}

/// A shape as an error text may show it.
pub(super) fn shown_shape(shape: &[u64]) -> String {
    let dims: Vec<String> = shape.iter().take(8).map(u64::to_string).collect();
    format!("[{}{}]", dims.join(", "), if shape.len() > 8 { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_hostile_shapes_are_refused_with_the_value() {
        assert_eq!(sized(Dtype::F32, &[2, 3]), Ok(24));
        assert_eq!(sized(Dtype::F32, &[]), Ok(4));
        assert_eq!(sized(Dtype::F32, &[0, 7]), Ok(0));
        assert!(sized(Dtype::F32, &[1 << 63, 4]).unwrap_err().contains("9223372036854775808"));
        assert!(sized(Dtype::F32, &[1 << 62]).unwrap_err().contains("2^64 bytes"));
        assert!(sized(Dtype::Q8_0, &[33]).unwrap_err().contains("whole blocks of Q8_0"));
    }

    #[test]
    fn shown_names_are_short_and_printable() {
        assert_eq!(shown("it's\n"), "it's\\n");
        assert!(shown(&"x".repeat(10_000)).len() < 100);
        assert_eq!(duplicate(["b", "a", "b"].into_iter()), Some("b"));
    }
}
