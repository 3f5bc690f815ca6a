//! How a unit lies in one piece of memory, and which reads of its files fill it. The destination
//! may be pinned memory on the way to a device or the device itself; neither is known here.

use crate::base::{Error, Result, align_up};

use super::dtype::Dtype;
use super::model::Model;
use super::tensor::Tensor;
use super::units::Unit;

/// Every tensor starts at a multiple of this many bytes: what `cudaMalloc` gives, so that a
/// kernel written for tensors of their own (16-byte vector loads, 128-byte lines, texture and
/// tensor-core alignments) finds them the same in a packed unit.
pub const ALIGN_BYTES: u64 = 256;

/// Where one tensor lies in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedTensor {
    /// Index into [`Model::tensors`].
    pub tensor: usize,
    /// Offset from the unit's start, in bytes: a multiple of [`ALIGN_BYTES`].
    pub offset_bytes: u64,
    /// Length in bytes, as the tensor's.
    pub len_bytes: u64,
}

/// One read that fills a part of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadSpan {
    /// Index into [`Model::files`].
    pub file: usize,
    /// Where to read, in bytes from the file's start.
    pub file_offset_bytes: u64,
    /// Where to write, in bytes from the unit's start.
    pub dst_offset_bytes: u64,
    /// How many bytes of the unit; never 0. As many of the file, unless they are cast.
    pub len_bytes: u64,
    /// How they are cast, if they are; a span that is cast is one tensor's.
    pub cast: Option<SpanCast>,
}

/// A cast of what is read, to a narrower type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanCast {
    /// The type in the file.
    pub from: Dtype,
    /// The type in the unit.
    pub to: Dtype,
}

impl ReadSpan {
    /// Bytes of the file for each of the unit: 1, 2 or 4.
    #[must_use]
    pub fn ratio(&self) -> u64 {
        self.cast.map_or(1, |cast| cast.from.block_bytes() / cast.to.block_bytes().max(1))
    }
}

/// A unit packed for one contiguous copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLayout {
    /// Length of the packed unit in bytes, padding included: a multiple of [`ALIGN_BYTES`], so
    /// that units can be laid one behind the other.
    pub len_bytes: u64,
    /// Its tensors in file order.
    pub tensors: Vec<PlacedTensor>,
    reads: Vec<ReadSpan>,
}

impl UnitLayout {
    /// Packs `unit`, a unit of `model`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the unit names tensors the model does not have, or its
    /// padded length does not fit in 64 bits.
    pub fn new(model: &Model, unit: &Unit) -> Result<Self> {
        Self::pack(model.tensors(), &unit.tensors, &unit.name, |index| model.cast_of(index))
    }

    fn pack(
        all: &[Tensor],
        indices: &[usize],
        name: &str,
        cast: impl Fn(usize) -> Option<SpanCast>,
    ) -> Result<Self> {
        let (mut tensors, mut reads) = (Vec::with_capacity(indices.len()), Vec::new());
        let mut end_bytes = 0u64;
        for &index in indices {
            let tensor = all.get(index).ok_or_else(|| {
                Error::invalid("unit", name, format!("tensor {index} is not of this model"))
            })?;
            let offset_bytes = end_bytes;
            // Padding behind each tensor keeps the next start, and the unit's end, aligned.
            end_bytes = offset_bytes
                .checked_add(tensor.len_bytes)
                .and_then(|end| align_up(end, ALIGN_BYTES))
                .ok_or_else(|| Error::invalid("unit", name, "it packs to more than 2^64 bytes"))?;
            tensors.push(PlacedTensor { tensor: index, offset_bytes, len_bytes: tensor.len_bytes });
            push_read(&mut reads, tensor, offset_bytes, cast(index));
        }
        Ok(Self { len_bytes: end_bytes, tensors, reads })
    }

    /// The reads that fill the unit, in file order. Together they write every tensor's bytes
    /// and, between tensors they join, padding; other padding is left as it is.
    #[must_use]
    pub fn reads(&self) -> &[ReadSpan] {
        &self.reads
    }
}

/// Adds a tensor's read, as a part of the last one when both keep the same distance between
/// file and unit. A gap they then share is shorter than [`ALIGN_BYTES`] and is padding in the
/// unit, so that reading it costs less than a second read and harms nothing.
fn push_read(
    reads: &mut Vec<ReadSpan>,
    tensor: &Tensor,
    dst_offset_bytes: u64,
    cast: Option<SpanCast>,
) {
    if tensor.len_bytes == 0 {
        return;
    }
    let joins =
        |last: &&mut ReadSpan| last.file == tensor.file && last.cast.is_none() && cast.is_none();
    if let Some(last) = reads.last_mut().filter(joins) {
        let in_file = tensor.offset_bytes.checked_sub(last.file_offset_bytes);
        if in_file == dst_offset_bytes.checked_sub(last.dst_offset_bytes) && in_file.is_some() {
            last.len_bytes = dst_offset_bytes - last.dst_offset_bytes + tensor.len_bytes;
            return;
        }
    }
    reads.push(ReadSpan {
        file: tensor.file,
        file_offset_bytes: tensor.offset_bytes,
        dst_offset_bytes,
        len_bytes: tensor.len_bytes,
        cast,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(file: usize, offset_bytes: u64, len_bytes: u64) -> Tensor {
        let (name, shape) = (format!("{file}:{offset_bytes}"), vec![len_bytes]);
        Tensor { name, dtype: Dtype::U8, shape, file, offset_bytes, len_bytes }
    }

    fn pack(tensors: &[Tensor]) -> UnitLayout {
        let indices: Vec<usize> = (0..tensors.len()).collect();
        UnitLayout::pack(tensors, &indices, "unit", |_| None).unwrap()
    }

    #[test]
    fn neighbours_in_file_and_unit_are_one_read() {
        let layout = pack(&[tensor(0, 100, 512), tensor(0, 612, 256), tensor(0, 868, 10)]);
        assert_eq!(layout.len_bytes, 1024);
        let read = ReadSpan {
            file: 0,
            file_offset_bytes: 100,
            dst_offset_bytes: 0,
            len_bytes: 778,
            cast: None,
        };
        assert_eq!(layout.reads(), [read]);
    }

    #[test]
    fn padding_that_file_and_unit_share_is_read_through() {
        let layout = pack(&[tensor(0, 0, 250), tensor(0, 256, 256)]);
        assert_eq!(layout.reads().len(), 1);
        assert_eq!(layout.reads()[0].len_bytes, 512);
    }

    #[test]
    fn different_gaps_and_files_are_reads_of_their_own() {
        let layout = pack(&[
            tensor(0, 0, 10),
            tensor(0, 10, 10),
            tensor(0, 4096, 256),
            tensor(1, 4352, 256),
        ]);
        assert_eq!(layout.reads().len(), 4);
        let offsets: Vec<u64> = layout.tensors.iter().map(|placed| placed.offset_bytes).collect();
        assert_eq!(offsets, [0, 256, 512, 768]);
    }

    #[test]
    fn empty_tensors_take_no_room_and_no_read() {
        let layout = pack(&[tensor(0, 8, 0), tensor(0, 8, 4), tensor(0, 12, 0)]);
        assert_eq!((layout.len_bytes, layout.reads().len()), (256, 1));
        assert_eq!(pack(&[tensor(0, 8, 0)]).reads(), []);
        assert_eq!(pack(&[]).len_bytes, 0);
    }

    #[test]
    fn foreign_units_and_overflow_are_errors() {
        assert!(
            UnitLayout::pack(&[], &[3], "u", |_| None)
                .unwrap_err()
                .to_string()
                .contains("tensor 3")
        );
        let huge = [tensor(0, 0, u64::MAX - 300), tensor(0, 0, 600)];
        let text = UnitLayout::pack(&huge, &[0, 1], "u", |_| None).unwrap_err().to_string();
        assert!(text.contains("2^64"), "{text}");
    }
}
