//! What is packed, and the check that it can be.

use crate::base::{Error, Result, align_up, format_bytes};

/// A span of memory that is in use from `lower` up to, but not including, `upper`. Times are
/// any counter that grows, such as the indexes of events in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// The first moment of use.
    pub lower: u64,
    /// The moment from which the memory is free again.
    pub upper: u64,
    /// Size in bytes, above 0.
    pub bytes: u64,
}

impl Buffer {
    /// True when both are in use at some moment.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.lower < other.upper && other.lower < self.upper
    }
}

/// The most bytes all buffers of one problem may have together, so that no sum overflows.
pub const TOTAL_BYTES_MAX: u64 = i64::MAX as u64;

/// The most buffers of one problem.
pub const BUFFERS_MAX: usize = 1 << 28;

/// The sizes of `buffers`, each rounded up to `align_bytes`.
pub(super) fn checked_sizes(buffers: &[Buffer], align_bytes: u64) -> Result<Vec<u64>> {
    if align_bytes == 0 {
        return Err(Error::invalid("align_bytes", 0, "it must be 1 or more"));
    }
    if buffers.len() > BUFFERS_MAX {
        let expected = format!("at most {BUFFERS_MAX} buffers can be packed at once");
        return Err(Error::invalid("buffers", buffers.len(), expected));
    }
    let mut total_bytes = 0_u64;
    let mut sizes = Vec::with_capacity(buffers.len());
    for (at, buffer) in buffers.iter().enumerate() {
        if buffer.bytes == 0 {
            return Err(Error::invalid(format!("bytes of buffer {at}"), 0, "it must be above 0"));
        }
        if buffer.lower >= buffer.upper {
            return Err(Error::invalid(
                format!("lifetime of buffer {at}"),
                format!("{}..{}", buffer.lower, buffer.upper),
                "lower must be below upper, which is exclusive",
            ));
        }
        let rounded = align_up(buffer.bytes, align_bytes);
        let sum = rounded.and_then(|bytes| total_bytes.checked_add(bytes));
        let (Some(bytes), Some(sum)) = (rounded, sum.filter(|&sum| sum <= TOTAL_BYTES_MAX)) else {
            return Err(Error::invalid(
                format!("bytes of buffer {at}"),
                buffer.bytes,
                format!(
                    "all sizes together, rounded up to {align_bytes}, must stay within {}",
                    format_bytes(TOTAL_BYTES_MAX)
                ),
            ));
        };
        sizes.push(bytes);
        total_bytes = sum;
    }
    Ok(sizes)
}
