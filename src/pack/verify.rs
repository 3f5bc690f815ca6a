//! The independent judge of a packing: it shares no code with what makes one.

use std::collections::BTreeMap;

use super::Buffer;
use crate::base::{Error, Result};

/// Checks that every buffer lies within `capacity_bytes`, and that no two that are in use at
/// the same moment share a byte. Sweeps over time with the set of spans in use.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the first trouble found.
///
/// ```
/// use riverbed::pack::{Buffer, verify};
/// let buffers = [Buffer { lower: 0, upper: 2, bytes: 8 }, Buffer { lower: 1, upper: 3, bytes: 8 }];
/// assert!(verify(&buffers, &[0, 8], 16).is_ok());
/// assert!(verify(&buffers, &[0, 7], 16).is_err());
/// ```
pub fn verify(buffers: &[Buffer], offsets: &[u64], capacity_bytes: u64) -> Result<()> {
    if buffers.len() != offsets.len() {
        let expected = format!("one for each of the {} buffers", buffers.len());
        return Err(Error::invalid("offsets", offsets.len(), expected));
    }
    for (at, (buffer, &offset)) in buffers.iter().zip(offsets).enumerate() {
        let end = offset.checked_add(buffer.bytes);
        if end.is_none_or(|end| end > capacity_bytes) {
            return Err(Error::invalid(
                format!("offset of buffer {at}"),
                offset,
                format!("with its {} bytes it must end within {capacity_bytes}", buffer.bytes),
            ));
        }
    }
    // Ends before starts of the same moment: `upper` is exclusive.
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * buffers.len());
    for (at, buffer) in buffers.iter().enumerate() {
        if buffer.bytes == 0 || buffer.lower >= buffer.upper {
            let value = format!("{buffer:?}");
            return Err(Error::invalid(format!("buffer {at}"), value, "empty in size or in time"));
        }
        moments.push((buffer.lower, true, at));
        moments.push((buffer.upper, false, at));
    }
    moments.sort_unstable();
    let mut used: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, is_start, at) in moments {
        let (offset, bytes) = (offsets[at], buffers[at].bytes);
        if !is_start {
            used.remove(&offset);
            continue;
        }
        // Spans in use are disjoint: only the nearest on either side can touch this one.
        let below = used.range(..=offset).next_back().map(|(_, &other)| other);
        let above = used.range(offset..).next().map(|(_, &other)| other);
        let clash = below
            .filter(|&other| offsets[other] + buffers[other].bytes > offset)
            .or(above.filter(|&other| offsets[other] < offset + bytes));
        if let Some(other) = clash {
            return Err(Error::invalid(
                format!("offset of buffer {at}"),
                offset,
                format!("it shares bytes with buffer {other} while both are in use"),
            ));
        }
        used.insert(offset, at);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(lower: u64, upper: u64, bytes: u64) -> Buffer {
        Buffer { lower, upper, bytes }
    }

    #[test]
    fn neighbours_in_time_and_in_space_may_touch() {
        let buffers = [buffer(0, 4, 8), buffer(4, 8, 8), buffer(0, 8, 8)];
        verify(&buffers, &[0, 0, 8], 16).unwrap();
    }

    #[test]
    fn every_planted_overlap_is_found() {
        let base = buffer(10, 20, 100);
        for (other, offset) in [
            (buffer(19, 30, 10), 99), // the last byte, the last moment
            (buffer(0, 11, 10), 91),
            (buffer(12, 13, 200), 0), // around it
            (buffer(12, 13, 1), 50),  // within it
            (buffer(10, 20, 100), 0), // the same again
        ] {
            verify(&[base, other], &[0, offset], 1000).unwrap_err();
            verify(&[other, base], &[offset, 0], 1000).unwrap_err();
        }
    }

    #[test]
    fn what_leaves_the_capacity_is_refused_even_past_the_largest_number() {
        verify(&[buffer(0, 1, 8)], &[9], 16).unwrap_err();
        verify(&[buffer(0, 1, 8)], &[u64::MAX], u64::MAX).unwrap_err();
        verify(&[buffer(0, 1, 8)], &[], 16).unwrap_err();
        verify(&[buffer(1, 1, 8)], &[0], 16).unwrap_err();
    }
}
