//! How a unit is cut for loading: chunks, each one copy to the device, and the reads that fill
//! them. Pure arithmetic, made once for a unit and used for every load of it.
//!
//! **Alignment.** Direct reads need file offset, length and memory aligned to [`ALIGN`]. Tensors
//! begin anywhere in their file. So a chunk does not begin at the start of the memory it lands
//! in, but where the distance to the start is congruent to the file offset of the chunk's
//! largest part: that part is read straight to its place, a little more of the file than asked
//! for at either end if nobody else's bytes lie there. Chunks are cut at aligned offsets of the
//! file, so that neighbours do not read the same block twice. Everything else (small tensors,
//! parts of another congruence, ends without room around them) is read as ranges that cover
//! many of them at once and is copied to its places from there. So is what is kept narrower than
//! in its file: it is cast on that way.

use std::ops::Range;
use std::sync::Arc;

use super::formats::float_format;
use crate::device::FloatFormat;
use crate::weights::{ReadSpan, UnitLayout};

/// What direct reads are aligned to, in bytes: what the drives of today ask for at most.
pub(super) const ALIGN: u64 = 4096;

/// Room a landing has beside the bytes of its chunk, in bytes.
pub(super) const SLACK_BYTES: u64 = 2 * ALIGN;

/// The longest read that goes through a bounce buffer, in bytes.
pub(super) const BOUNCE_BYTES: u64 = 512 << 10;

/// A shorter part is not worth a read of its own.
const MIN_IN_PLACE_BYTES: u64 = 64 << 10;

/// Bytes between two small parts that are read through rather than around.
const MAX_GAP_BYTES: u64 = 16 << 10;

/// How a unit is loaded. Make one with [`Loader::plan`](super::Loader::plan) and keep it: then
/// loads of the unit take nothing from the heap.
#[derive(Debug, PartialEq, Eq)]
pub struct LoadPlan {
    pub(super) len_bytes: u64,
    /// What of which file lies where: units with the same are the same bytes.
    pub(super) spans: Arc<[ReadSpan]>,
    /// Through the window: every chunk in a landing of its own.
    pub(super) window: Cut,
    /// Through a home: all chunks in one landing.
    pub(super) home: Cut,
}

impl LoadPlan {
    pub(super) fn new(layout: &UnitLayout, chunk_bytes: u64, read_bytes: u64) -> Self {
        Self::of(layout.reads(), layout.len_bytes, chunk_bytes, read_bytes)
    }

    fn of(spans: &[ReadSpan], len_bytes: u64, chunk_bytes: u64, read_bytes: u64) -> Self {
        let ends = ends(spans, len_bytes, chunk_bytes);
        Self {
            len_bytes,
            spans: spans.into(),
            window: Cut::new(spans, &ends, read_bytes, None),
            home: Cut::new(spans, &ends, read_bytes, Some(lead(spans, 0))),
        }
    }

    /// Bytes of the unit.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// How many copies a load of the unit is.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.window.chunks.len()
    }

    /// The end of the last chunk that lies in the first `bytes` of the unit.
    pub(crate) fn whole_chunks(&self, bytes: u64) -> u64 {
        let chunks = &self.window.chunks;
        let whole = chunks.partition_point(|chunk| chunk.start + chunk.len <= bytes);
        whole.checked_sub(1).map_or(0, |last| chunks[last].start + chunks[last].len)
    }
}

/// A unit in chunks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) chunks: Vec<Chunk>,
    pub(super) pieces: Vec<Piece>,
    pub(super) scatters: Vec<Scatter>,
}

/// One copy to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    /// First byte, from the unit's start.
    pub(super) start: u64,
    pub(super) len: u64,
    /// First byte, from the start of the landing.
    pub(super) at: u64,
    /// The reads that fill it.
    pub(super) pieces: Range<usize>,
}

/// One read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) file: usize,
    /// A multiple of [`ALIGN`].
    pub(super) offset: u64,
    /// A multiple of [`ALIGN`]; may pass the end of the file.
    pub(super) len: u64,
    /// Where in `offset..offset + len` the bytes asked for begin and end. What comes behind
    /// need not exist.
    pub(super) needed: Range<u64>,
    pub(super) into: Into,
}

/// Where a read goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Into {
    /// So many bytes from the start of the landing: congruent to the offset.
    Place(u64),
    /// A bounce buffer, and from there as these scatters say.
    Bounce(Range<usize>),
}

/// A cast of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Narrowing {
    pub(super) from: FloatFormat,
    pub(super) to: FloatFormat,
}

impl Narrowing {
    fn of(span: &ReadSpan) -> Option<Self> {
        let cast = span.cast?;
        Some(Self { from: float_format(cast.from)?, to: float_format(cast.to)? })
    }

    /// Of every format but those of 8 bits numbers that are too large become infinity.
    pub(super) fn saturates(self) -> bool {
        self.to.size_bytes() == 1
    }
}

/// Bytes of a bounce buffer and where they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scatter {
    /// From the start of the read.
    pub(super) from: u64,
    /// From the start of the landing.
    pub(super) to: u64,
    /// Bytes that were read.
    pub(super) len: u64,
    /// What is done with them on the way.
    pub(super) cast: Option<Narrowing>,
}

/// Where chunks end. A chunk that ends inside a span ends at an aligned offset of the file.
fn ends(spans: &[ReadSpan], len_bytes: u64, chunk_bytes: u64) -> Vec<u64> {
    let (mut ends, mut start) = (Vec::new(), 0);
    while start < len_bytes {
        let mut end = len_bytes.min(start + chunk_bytes);
        let inside = spans.partition_point(|span| span.dst_offset_bytes < end).checked_sub(1);
        let span = inside.map(|at| &spans[at]).filter(|span| end < span_end(span));
        if let Some(cast) = span.filter(|_| end < len_bytes).and_then(|span| span.cast) {
            // Between two numbers: spans begin at one, and so does the chunk if it is inside.
            end -= end % cast.to.block_bytes().max(1);
        } else if let Some(span) = span.filter(|_| end < len_bytes) {
            let in_file = span.file_offset_bytes + (end - span.dst_offset_bytes);
            end = (end - start.max(span.dst_offset_bytes)).saturating_sub(in_file % ALIGN)
                + start.max(span.dst_offset_bytes);
        }
        // A chunk shorter than the alignment is not cut short to nothing.
        start = if end > start { end } else { len_bytes.min(start + chunk_bytes) };
        ends.push(start);
    }
    ends
}

fn span_end(span: &ReadSpan) -> u64 {
    span.dst_offset_bytes + span.len_bytes
}

/// Where a chunk that starts at `start` begins in its landing, so that its longest part lies
/// congruent to its file.
fn lead(parts: &[ReadSpan], start: u64) -> u64 {
    let as_they_are = parts.iter().filter(|part| part.cast.is_none());
    let longest = as_they_are.max_by_key(|part| part.len_bytes);
    longest.map_or(0, |part| {
        part.file_offset_bytes.wrapping_sub(part.dst_offset_bytes - start) % ALIGN
    })
}

/// The parts of spans that lie in `start..end`.
fn parts(spans: &[ReadSpan], start: u64, end: u64) -> Vec<ReadSpan> {
    let first = spans.partition_point(|span| span_end(span) <= start);
    let inside = spans[first..].iter().take_while(|span| span.dst_offset_bytes < end);
    inside
        .map(|span| {
            let from = span.dst_offset_bytes.max(start);
            ReadSpan {
                file: span.file,
                file_offset_bytes: span.file_offset_bytes
                    + span.ratio() * (from - span.dst_offset_bytes),
                dst_offset_bytes: from,
                len_bytes: span_end(span).min(end) - from,
                cast: span.cast,
            }
        })
        .collect()
}

/// A part that goes through a bounce buffer.
#[derive(Debug, Clone, Copy)]
struct Small {
    file: usize,
    /// In the file.
    from: u64,
    /// In the landing.
    place: u64,
    /// Bytes of the file.
    len: u64,
    cast: Option<Narrowing>,
}

impl Cut {
    /// Cuts at `ends`. In one landing that begins with so many bytes of `room` before the unit,
    /// or in a landing for each chunk.
    fn new(spans: &[ReadSpan], ends: &[u64], read_bytes: u64, home: Option<u64>) -> Self {
        let mut cut = Self::default();
        let mut start = 0;
        for &end in ends {
            let parts = parts(spans, start, end);
            let at = home.map_or_else(|| lead(&parts, start), |lead| lead + start);
            let pieces = cut.pieces.len();
            cut.read(spans, &parts, start, at, home.is_some(), read_bytes);
            let pieces = pieces..cut.pieces.len();
            cut.chunks.push(Chunk { start, len: end - start, at, pieces });
            start = end;
        }
        cut
    }

    /// Adds the reads of a chunk.
    fn read(
        &mut self,
        spans: &[ReadSpan],
        parts: &[ReadSpan],
        start: u64,
        at: u64,
        shared: bool,
        read_bytes: u64,
    ) {
        let mut small: Vec<Small> = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let place = at + (part.dst_offset_bytes - start);
            let congruent = place % ALIGN == part.file_offset_bytes % ALIGN;
            let cast = Narrowing::of(part);
            if !congruent || part.len_bytes < MIN_IN_PLACE_BYTES || cast.is_some() {
                let len = part.len_bytes * part.ratio();
                let (file, from) = (part.file, part.file_offset_bytes);
                small.push(Small { file, from, place, len, cast });
                continue;
            }
            let before = match index.checked_sub(1) {
                Some(before) => Some(span_end(&parts[before])),
                None if shared => last_end(spans, part.dst_offset_bytes),
                None => None,
            };
            let after = match parts.get(index + 1) {
                Some(after) => Some(after.dst_offset_bytes),
                None if shared => next_start(spans, span_end(part)),
                None => None,
            };
            // Places in the landing between which nobody else's bytes lie.
            let free = before.map_or(0, |end| at + end - start)
                ..after.map_or(u64::MAX, |next| at + next - start);
            self.read_in_place(part, place, free, read_bytes, &mut small);
        }
        self.read_small(&mut small);
    }

    /// Adds reads of a part straight to its place; what is left of its ends goes to `small`.
    fn read_in_place(
        &mut self,
        part: &ReadSpan,
        place: u64,
        free: Range<u64>,
        read_bytes: u64,
        small: &mut Vec<Small>,
    ) {
        let ReadSpan { file, file_offset_bytes: from, len_bytes, .. } = *part;
        let end = from + len_bytes;
        let (head, tail) = (from % ALIGN, end % ALIGN);
        let mut aligned = from - head..end.next_multiple_of(ALIGN);
        if head > 0 && place - head < free.start {
            aligned.start += ALIGN;
            let len = aligned.start - from;
            small.push(Small { file, from, place, len, cast: None });
        }
        if tail > 0 && place + len_bytes + (ALIGN - tail) > free.end {
            aligned.end -= ALIGN;
            let place = place + (aligned.end - from);
            small.push(Small { file, from: aligned.end, place, len: tail, cast: None });
        }
        let mut offset = aligned.start;
        while offset < aligned.end {
            let len = read_bytes.min(aligned.end - offset);
            self.pieces.push(Piece {
                file,
                offset,
                len,
                needed: from.max(offset)..end.min(offset + len),
                into: Into::Place((place + offset).wrapping_sub(from)),
            });
            offset += len;
        }
    }

    /// Adds reads that cover many small parts each.
    fn read_small(&mut self, small: &mut Vec<Small>) {
        small.sort_unstable_by_key(|small| (small.file, small.from, small.place));
        let mut group: Option<Piece> = None;
        for &mut Small { file, mut from, mut place, mut len, cast } in small {
            // Numbers that are cast are read whole.
            let (step, ratio) = cast.map_or((1, 1), |Narrowing { from, to }| {
                (from.size_bytes(), from.size_bytes() / to.size_bytes())
            });
            while len > 0 {
                let room = group.as_mut().filter(|group| {
                    let gap = from.saturating_sub(group.needed.end);
                    let fits = from + step <= group.offset + BOUNCE_BYTES;
                    group.file == file && gap <= MAX_GAP_BYTES && fits
                });
                let Some(piece) = room else {
                    self.pieces.extend(group.take());
                    let at = self.scatters.len();
                    group = Some(Piece {
                        file,
                        offset: from - from % ALIGN,
                        len: 0,
                        needed: from..from,
                        into: Into::Bounce(at..at),
                    });
                    continue;
                };
                let taken = len.min((piece.offset + BOUNCE_BYTES - from) / step * step);
                let scatter = Scatter { from: from - piece.offset, to: place, len: taken, cast };
                self.scatters.push(scatter);
                piece.into = match &piece.into {
                    Into::Bounce(scatters) => Into::Bounce(scatters.start..self.scatters.len()),
                    Into::Place(_) => Into::Bounce(0..0),
                };
                piece.needed.end = piece.needed.end.max(from + taken);
                piece.len = (piece.needed.end - piece.offset).next_multiple_of(ALIGN);
                (from, place, len) = (from + taken, place + taken / ratio, len - taken);
            }
        }
        self.pieces.extend(group);
    }
}

/// Where the last span before `offset` ends; `offset` itself inside a span.
fn last_end(spans: &[ReadSpan], offset: u64) -> Option<u64> {
    let before = spans.partition_point(|span| span.dst_offset_bytes < offset).checked_sub(1)?;
    Some(span_end(&spans[before]).min(offset))
}

/// Where the next span from `offset` on begins; `offset` itself inside a span.
fn next_start(spans: &[ReadSpan], offset: u64) -> Option<u64> {
    let after = spans.get(spans.partition_point(|span| span_end(span) <= offset))?;
    Some(after.dst_offset_bytes.max(offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Dtype, SpanCast};

    fn span(file_offset_bytes: u64, dst_offset_bytes: u64, len_bytes: u64) -> ReadSpan {
        ReadSpan { file: 0, file_offset_bytes, dst_offset_bytes, len_bytes, cast: None }
    }

    const CHUNK: u64 = 1 << 20;

    fn plan(spans: &[ReadSpan]) -> LoadPlan {
        let len_bytes = spans.last().map_or(0, span_end).next_multiple_of(256);
        LoadPlan::of(spans, len_bytes, CHUNK, CHUNK / 4)
    }

    /// Where the bytes at `offset` of the file are put, in a chunk of a cut.
    fn lands(cut: &Cut, chunk: &Chunk, offset: u64) -> Vec<u64> {
        let mut places = Vec::new();
        for piece in &cut.pieces[chunk.pieces.clone()] {
            assert!(piece.offset.is_multiple_of(ALIGN) && piece.len.is_multiple_of(ALIGN));
            match &piece.into {
                Into::Place(at) if piece.needed.contains(&offset) => {
                    assert!(at.is_multiple_of(ALIGN), "a direct read to {at}");
                    places.push(at + (offset - piece.offset));
                }
                Into::Place(_) => {}
                Into::Bounce(scatters) => {
                    assert!(piece.len <= BOUNCE_BYTES);
                    let inside = cut.scatters[scatters.clone()].iter().filter_map(|part| {
                        let from = offset.checked_sub(piece.offset + part.from)?;
                        (from < part.len).then_some(part.to + from)
                    });
                    places.extend(inside);
                }
            }
        }
        places
    }

    #[test]
    fn every_byte_is_read_once_to_its_place() {
        let spans = [
            span(1001, 0, 3 * CHUNK + 77),
            span(5 * CHUNK + 3, 3 * CHUNK + 256, 200_000),
            span(6 * CHUNK, 3 * CHUNK + 200_448, 900),
            span(6 * CHUNK + 1000, 3 * CHUNK + 201_472, 5000),
        ];
        let plan = plan(&spans);
        for cut in [&plan.window, &plan.home] {
            assert_eq!(cut.chunks.last().map(|last| last.start + last.len), Some(plan.len_bytes));
            for chunk in &cut.chunks {
                assert!(chunk.len <= CHUNK);
                for span in &spans {
                    for step in 0..=64 {
                        let from = (span.len_bytes - 1) * step / 64;
                        let dst = span.dst_offset_bytes + from;
                        let inside = dst.checked_sub(chunk.start).filter(|at| *at < chunk.len);
                        let wanted: Vec<u64> = inside.map(|at| chunk.at + at).into_iter().collect();
                        assert_eq!(lands(cut, chunk, span.file_offset_bytes + from), wanted);
                    }
                }
            }
        }
    }

    #[test]
    fn one_long_tensor_needs_no_bounce_wherever_it_begins() {
        for offset in [0, 8, 4095, 4096, 70_001] {
            let plan = plan(&[span(offset, 0, 4 * CHUNK + 200_005)]);
            assert!(plan.window.scatters.is_empty() && plan.home.scatters.is_empty());
            let read: u64 = plan.window.pieces.iter().map(|piece| piece.len).sum();
            assert!(read <= 4 * CHUNK + 200_005 + 2 * ALIGN, "{read} bytes");
        }
    }

    #[test]
    fn neighbours_that_are_small_are_read_together() {
        let spans: Vec<_> = (0..200).map(|at| span(at * 5000 + 9, at * 5120, 5000)).collect();
        let plan = plan(&spans);
        assert_eq!(plan.copies(), 1);
        assert_eq!(plan.window.pieces.len(), 2, "a megabyte in half megabytes");
        assert_eq!(plan.window.scatters.len(), 201, "one tensor lies in both");
    }

    #[test]
    fn what_is_cast_is_read_in_whole_numbers_each_to_its_place() {
        let cast = |from, to| Some(SpanCast { from, to });
        let spans = [
            // Offsets that are no multiples of anything, as some files have them.
            ReadSpan { cast: cast(Dtype::F32, Dtype::F8_E4M3), ..span(1003, 0, CHUNK + 77) },
            ReadSpan {
                cast: cast(Dtype::F32, Dtype::BF16),
                ..span(9 * CHUNK + 1, CHUNK + 256, 300_002)
            },
            span(12 * CHUNK, CHUNK + 300_288, 150_000),
        ];
        let plan = plan(&spans);
        for cut in [&plan.window, &plan.home] {
            let mut read = [0; 3];
            for chunk in &cut.chunks {
                for piece in &cut.pieces[chunk.pieces.clone()] {
                    let Into::Bounce(scatters) = &piece.into else {
                        assert!(piece.needed.start >= 12 * CHUNK, "only the last is not cast");
                        read[2] += piece.needed.end - piece.needed.start;
                        continue;
                    };
                    assert!(piece.len <= BOUNCE_BYTES);
                    for part in &cut.scatters[scatters.clone()] {
                        let from = piece.offset + part.from;
                        let of = spans.iter().rposition(|span| span.file_offset_bytes <= from);
                        let span = &spans[of.unwrap()];
                        let step = span.cast.map_or(1, |cast| cast.from.block_bytes());
                        let before = from - span.file_offset_bytes;
                        assert!(before.is_multiple_of(step) && part.len.is_multiple_of(step));
                        let dst = span.dst_offset_bytes + before / span.ratio();
                        assert_eq!(part.to, chunk.at + dst - chunk.start);
                        assert_eq!(part.cast.is_some(), span.cast.is_some());
                        read[of.unwrap()] += part.len;
                    }
                }
            }
            assert_eq!(read, [4 * (CHUNK + 77), 2 * 300_002, 150_000]);
        }
    }

    #[test]
    fn nothing_to_load_is_no_chunk() {
        assert_eq!(plan(&[]).copies(), 0);
    }
}
