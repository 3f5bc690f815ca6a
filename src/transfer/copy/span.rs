//! What is to be copied: ranges of memory, neighbours made one, cut into chunks.

use crate::base::{Error, Result};

/// A part of a copy in pieces. Offsets and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it starts in the block.
    pub block_offset: u64,
    /// Where it starts in the buffer.
    pub buffer_offset: u64,
    /// How long it is.
    pub len_bytes: u64,
}

/// A range on the host and one on the device, by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) host: u64,
    pub(super) device: u64,
    pub(super) bytes: u64,
}

/// Spans in the order in which they are copied, and how far that is.
#[derive(Debug)]
pub(super) struct Spans {
    /// The one in the works.
    head: Span,
    rest: std::vec::IntoIter<Span>,
    left_bytes: u64,
    /// Chunks are not smaller than that.
    least_chunk_bytes: u64,
}

impl Spans {
    pub(super) fn one(span: Span) -> Self {
        let (rest, left_bytes) = (Vec::new().into_iter(), span.bytes);
        Self { head: span, rest, left_bytes, least_chunk_bytes: 0 }
    }

    /// Each for itself, though it be another's neighbour. None is empty.
    pub(super) fn apart(spans: Vec<Span>) -> Self {
        let left_bytes = spans.iter().map(|span| span.bytes).sum();
        let mut rest = spans.into_iter();
        let head = rest.next().unwrap_or(Span { host: 0, device: 0, bytes: 0 });
        Self { head, rest, left_bytes, least_chunk_bytes: 0 }
    }

    /// The only span, where there are no more.
    pub(super) fn only(&self) -> Option<Span> {
        self.rest.as_slice().is_empty().then_some(self.head)
    }

    /// The same, in chunks of at least so much.
    pub(super) fn in_chunks_from(self, least_chunk_bytes: u64) -> Self {
        Self { least_chunk_bytes, ..self }
    }

    /// Bytes not taken yet.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// How many bytes the next chunk takes.
    pub(super) fn next_bytes(&self, chunk_bytes: u64) -> u64 {
        chunk_of(self.left_bytes, chunk_bytes.max(self.least_chunk_bytes))
    }

    /// Takes spans of `chunk_bytes` together, or all that are left, and gives them to `each`.
    /// A remainder of up to a quarter of a chunk comes with the chunk before it.
    pub(super) fn take(&mut self, chunk_bytes: u64, each: impl FnMut(Span)) {
        self.take_bytes(self.next_bytes(chunk_bytes), each);
    }

    /// Takes spans of `bytes` together, or all that are left, and gives them to `each`.
    pub(super) fn take_bytes(&mut self, bytes: u64, mut each: impl FnMut(Span)) {
        let mut wanted = bytes.min(self.left_bytes);
        while wanted > 0 {
            let bytes = self.head.bytes.min(wanted);
            each(Span { bytes, ..self.head });
            wanted -= bytes;
            self.left_bytes -= bytes;
            self.head.bytes -= bytes;
            if self.head.bytes == 0 {
                self.head = self.rest.next().unwrap_or(self.head);
            } else {
                self.head.host += bytes;
                self.head.device += bytes;
            }
        }
    }
}

/// Neighbours on both sides made one, empty ones left out.
pub(super) fn merged(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::new();
    for span in spans.into_iter().filter(|span| span.bytes > 0) {
        match merged.last_mut() {
            Some(last)
                if last.host.checked_add(last.bytes) == Some(span.host)
                    && last.device.checked_add(last.bytes) == Some(span.device) =>
            {
                last.bytes += span.bytes;
            }
            _ => merged.push(span),
        }
    }
    merged
}

/// How many of `left_bytes` the next chunk takes.
pub(super) fn chunk_of(left_bytes: u64, chunk_bytes: u64) -> u64 {
    let with_remainder = chunk_bytes.saturating_add(chunk_bytes / 4);
    if left_bytes <= with_remainder { left_bytes } else { chunk_bytes }
}

/// The sum of the parts' lengths.
///
/// # Errors
/// A part outside the block or the buffer, by its number.
pub(super) fn checked_bytes(parts: &[Part], block_bytes: u64, buffer_bytes: u64) -> Result<u64> {
    let mut sum = 0u64;
    for (number, part) in parts.iter().enumerate() {
        let fits =
            |offset: u64, whole| offset.checked_add(part.len_bytes).is_some_and(|end| end <= whole);
        let in_both =
            fits(part.block_offset, block_bytes) && fits(part.buffer_offset, buffer_bytes);
        let Some(so_far) = sum.checked_add(part.len_bytes).filter(|_| in_both) else {
            let Part { block_offset, buffer_offset, len_bytes } = *part;
            return Err(Error::invalid(
                "copy range",
                format_args!(
                    "part {number}: {len_bytes} bytes at {block_offset}, to {buffer_offset}"
                ),
                format!("the block has {block_bytes} bytes, the buffer has {buffer_bytes} bytes"),
            ));
        };
        sum = so_far;
    }
    Ok(sum)
}

/// The first of two parts that overlap in the buffer: such copies have no order.
///
/// # Errors
/// The two, by their offsets.
pub(super) fn check_apart(parts: &[Part]) -> Result<()> {
    let end = |part: &Part| part.buffer_offset.saturating_add(part.len_bytes);
    if parts.windows(2).all(|pair| end(&pair[0]) <= pair[1].buffer_offset) {
        return Ok(());
    }
    let mut sorted: Vec<&Part> = parts.iter().filter(|part| part.len_bytes > 0).collect();
    sorted.sort_unstable_by_key(|part| part.buffer_offset);
    match sorted.windows(2).find(|pair| end(pair[0]) > pair[1].buffer_offset) {
        Some(pair) => Err(Error::invalid(
            "copy range",
            format_args!(
                "parts at {} and {} of the buffer",
                pair[0].buffer_offset, pair[1].buffer_offset
            ),
            "they overlap: parts of one request must not",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(spans: &mut Spans, chunk_bytes: u64) -> Vec<Vec<Span>> {
        let mut chunks = Vec::new();
        while spans.left_bytes() > 0 {
            let mut chunk = Vec::new();
            spans.take(chunk_bytes, |span| chunk.push(span));
            chunks.push(chunk);
        }
        chunks
    }

    fn span(host: u64, device: u64, bytes: u64) -> Span {
        Span { host, device, bytes }
    }

    #[test]
    fn neighbours_on_both_sides_become_one() {
        let spans =
            [span(0, 100, 10), span(10, 110, 5), span(15, 0, 0), span(15, 115, 1), span(16, 0, 4)];
        let mut spans = Spans::apart(merged(spans));
        assert_eq!(spans.left_bytes(), 20);
        assert_eq!(taken(&mut spans, 100), [[span(0, 100, 16), span(16, 0, 4)]]);
    }

    #[test]
    fn chunks_cut_long_spans_and_gather_short_ones() {
        let mut spans = Spans::apart(vec![span(0, 0, 25), span(100, 50, 3), span(200, 90, 30)]);
        assert_eq!(
            taken(&mut spans, 10),
            [
                vec![span(0, 0, 10)],
                vec![span(10, 10, 10)],
                vec![span(20, 20, 5), span(100, 50, 3), span(200, 90, 2)],
                vec![span(202, 92, 10)],
                vec![span(212, 102, 10)],
                vec![span(222, 112, 8)],
            ]
        );
        let mut remainder = Spans::one(span(0, 0, 22));
        assert_eq!(taken(&mut remainder, 10), [[span(0, 0, 10)], [span(10, 10, 12)]]);
    }

    #[test]
    fn parts_outside_their_ends_or_over_each_other_are_named() {
        let part = |block_offset, buffer_offset, len_bytes| Part {
            block_offset,
            buffer_offset,
            len_bytes,
        };
        assert_eq!(checked_bytes(&[part(0, 5, 5), part(7, 0, 3)], 10, 10).unwrap(), 8);
        for wrong in [part(0, 6, 5), part(6, 0, 5), part(u64::MAX, 0, 1), part(0, u64::MAX, 1)] {
            let error = checked_bytes(&[part(0, 0, 1), wrong], 10, 10).unwrap_err().to_string();
            assert!(error.contains("part 1") && error.contains("has 10 bytes"), "{error}");
        }
        check_apart(&[part(0, 5, 5), part(0, 0, 5), part(0, 3, 0)]).unwrap();
        assert!(check_apart(&[part(0, 5, 5), part(0, 0, 6)]).is_err());
    }
}
