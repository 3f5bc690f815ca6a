//! The common form of a trace: compact operations over reused slots, so that a replay is a walk
//! through two arrays.
//!
//! Invariant: an operation frees only a slot that an earlier one filled and none emptied since.
//! [`Builder`] is the only way to make a trace, and keeps it.

use std::collections::HashMap;

use crate::base::align_up;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OpKind {
    /// Allocates into its slot.
    Alloc,
    /// Frees its slot on the stream the block was allocated on.
    Free,
    /// Frees its slot on another stream than the block's: a use there, then a free.
    FreeElsewhere,
}

/// One operation, 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// The block's requested size in bytes; never 0.
    pub bytes: u64,
    /// Where the block is kept while it lives; slots are used again.
    pub slot: u32,
    /// The stream, as an index from 0.
    pub stream: u16,
    /// What is done.
    pub kind: OpKind,
}

/// The most operations a trace may have.
const OPS_MAX: usize = 1 << 31;

/// The sums of requested sizes are compared with this rounding too: what any allocator with
/// CUDA's alignment must at least hold.
const ROUNDING_BYTES: u64 = 512;

/// A whole trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    name: String,
    ops: Vec<Op>,
    allocs: u64,
    streams: u16,
    slots: u32,
    peak_live_bytes: u64,
    peak_live_rounded_bytes: u64,
    allocated_bytes: u64,
    live_at_end: u64,
    notes: Vec<String>,
}

impl Trace {
    /// The name, from the file's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The operations in order. Never empty.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// How many operations allocate.
    #[must_use]
    pub fn allocs(&self) -> u64 {
        self.allocs
    }

    /// How many streams the operations name.
    #[must_use]
    pub fn streams(&self) -> u16 {
        self.streams
    }

    /// How many slots there are: the most blocks live at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// The most requested bytes live at once.
    #[must_use]
    pub fn peak_live_bytes(&self) -> u64 {
        self.peak_live_bytes
    }

    /// The same with each request rounded up to 512 bytes.
    #[must_use]
    pub fn peak_live_rounded_bytes(&self) -> u64 {
        self.peak_live_rounded_bytes
    }

    /// The sum of all requests, in bytes.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    /// Blocks no operation frees.
    #[must_use]
    pub fn live_at_end(&self) -> u64 {
        self.live_at_end
    }

    /// What the reader left out or read in its own way, in sentences.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Trace {
    /// The same operations with other sizes, each above 0.
    pub(super) fn resized(&self, mut size: impl FnMut(u64) -> u64) -> Self {
        let mut resized = Self { peak_live_bytes: 0, peak_live_rounded_bytes: 0, ..self.clone() };
        resized.allocated_bytes = 0;
        let mut sizes = vec![0; self.slots()];
        let (mut live, mut live_rounded) = (0_u64, 0_u64);
        for op in &mut resized.ops {
            let slot = &mut sizes[op.slot as usize];
            if op.kind == OpKind::Alloc {
                *slot = size(op.bytes);
                resized.allocated_bytes = resized.allocated_bytes.saturating_add(*slot);
                live = live.saturating_add(*slot);
                live_rounded = live_rounded.saturating_add(rounded(*slot));
            } else {
                live = live.saturating_sub(*slot);
                live_rounded = live_rounded.saturating_sub(rounded(*slot));
            }
            op.bytes = *slot;
            resized.peak_live_bytes = resized.peak_live_bytes.max(live);
            resized.peak_live_rounded_bytes = resized.peak_live_rounded_bytes.max(live_rounded);
        }
        resized
    }
}

fn rounded(bytes: u64) -> u64 {
    align_up(bytes, ROUNDING_BYTES).unwrap_or(u64::MAX)
}

/// A live block, kept by the reader under whatever names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    slot: u32,
    stream: u16,
    bytes: u64,
}

/// Makes a trace from a reader's events.
#[derive(Debug, Default)]
pub(super) struct Builder {
    trace: Trace,
    spare: Vec<u32>,
    streams: HashMap<u64, u16>,
    live_bytes: u64,
    live_rounded_bytes: u64,
}

impl Builder {
    /// The index of the stream a reader calls `name`.
    pub(super) fn stream(&mut self, name: u64) -> Result<u16, String> {
        if let Some(&stream) = self.streams.get(&name) {
            return Ok(stream);
        }
        let stream = u16::try_from(self.streams.len())
            .ok()
            .filter(|&stream| stream < u16::MAX)
            .ok_or_else(|| format!("stream {name:#x} is one of more than {}", u16::MAX))?;
        self.streams.insert(name, stream);
        self.trace.streams = stream + 1;
        Ok(stream)
    }

    /// Allocates `bytes` (above 0) on a stream.
    pub(super) fn alloc(&mut self, bytes: u64, stream: u16) -> Result<Live, String> {
        debug_assert!(bytes > 0, "readers leave out empty blocks");
        let too_many = || format!("{bytes} bytes more make over 2^64 bytes");
        let rounded = align_up(bytes, ROUNDING_BYTES).ok_or_else(too_many)?;
        let live = self.live_rounded_bytes.checked_add(rounded).ok_or_else(too_many)?;
        let allocated = self.trace.allocated_bytes.checked_add(bytes).ok_or_else(too_many)?;
        let slot = self.spare.last().copied().unwrap_or(self.trace.slots);
        self.push(Op { bytes, slot, stream, kind: OpKind::Alloc })?;
        if self.spare.pop().is_none() {
            self.trace.slots += 1;
        }
        self.live_rounded_bytes = live;
        // Less than the rounded sum, which did not overflow.
        self.live_bytes += bytes;
        self.trace.allocated_bytes = allocated;
        self.trace.allocs += 1;
        self.trace.live_at_end += 1;
        self.trace.peak_live_bytes = self.trace.peak_live_bytes.max(self.live_bytes);
        self.trace.peak_live_rounded_bytes = self.trace.peak_live_rounded_bytes.max(live);
        Ok(Live { slot, stream, bytes })
    }

    /// Frees a block on `stream`, or on its own.
    pub(super) fn free(&mut self, live: Live, stream: Option<u16>) -> Result<(), String> {
        let Live { slot, bytes, .. } = live;
        let stream = stream.unwrap_or(live.stream);
        let kind = if stream == live.stream { OpKind::Free } else { OpKind::FreeElsewhere };
        self.push(Op { bytes, slot, stream, kind })?;
        self.spare.push(slot);
        self.live_bytes -= bytes;
        self.live_rounded_bytes -= bytes.next_multiple_of(ROUNDING_BYTES);
        self.trace.live_at_end -= 1;
        Ok(())
    }

    fn push(&mut self, op: Op) -> Result<(), String> {
        if self.trace.ops.len() >= OPS_MAX {
            return Err(format!("a trace may have at most {OPS_MAX} operations"));
        }
        self.trace.ops.push(op);
        Ok(())
    }

    /// Adds `sentence` to the notes if `count` is above 0.
    pub(super) fn note(&mut self, count: u64, sentence: &str) {
        if count > 0 {
            self.trace.notes.push(format!("{count} {sentence}"));
        }
    }

    /// The trace, or `None` if nothing was allocated.
    pub(super) fn finish(mut self, name: &str) -> Option<Trace> {
        if self.trace.ops.is_empty() {
            return None;
        }
        self.note(
            self.trace.live_at_end,
            "block(s) still live at the end: freed outside the measurement",
        );
        self.trace.name = name.into();
        self.trace.ops.shrink_to_fit();
        Some(self.trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_peaks_counted() {
        assert_eq!(size_of::<Op>(), 16);
        let mut builder = Builder::default();
        let (compute, copies) = (builder.stream(7).unwrap(), builder.stream(0).unwrap());
        assert_eq!(builder.stream(7), Ok(compute));
        let first = builder.alloc(1000, compute).unwrap();
        let second = builder.alloc(1, copies).unwrap();
        builder.free(first, Some(copies)).unwrap();
        builder.free(second, None).unwrap();
        let third = builder.alloc(600, compute).unwrap();
        assert_eq!(third.slot, second.slot, "the slot emptied last is filled first");
        let trace = builder.finish("t").unwrap();
        let kinds: Vec<OpKind> = trace.ops().iter().map(|op| op.kind).collect();
        use OpKind::{Alloc, Free, FreeElsewhere};
        assert_eq!(kinds, [Alloc, Alloc, FreeElsewhere, Free, Alloc]);
        assert_eq!((trace.allocs(), trace.streams(), trace.slots()), (3, 2, 2));
        assert_eq!((trace.peak_live_bytes(), trace.peak_live_rounded_bytes()), (1001, 1536));
        assert_eq!((trace.allocated_bytes(), trace.live_at_end()), (1601, 1));
        assert!(trace.notes()[0].contains("1 block(s) still live"));
    }

    #[test]
    fn sums_that_overflow_are_refused_and_change_nothing() {
        let mut builder = Builder::default();
        let stream = builder.stream(0).unwrap();
        assert!(builder.alloc(u64::MAX, stream).is_err());
        builder.alloc(u64::MAX - 1023, stream).unwrap();
        assert!(builder.alloc(1024, stream).unwrap_err().contains("2^64"));
        assert_eq!(builder.finish("t").unwrap().ops().len(), 1);
    }

    #[test]
    fn more_streams_than_an_index_holds_are_refused() {
        let mut builder = Builder::default();
        let refused = (0..=u64::from(u16::MAX)).find_map(|name| builder.stream(name).err());
        assert!(refused.unwrap().contains("more than 65535"));
    }
}
