//! Rank 1: the schema of what happens to memory, and the [`Recorder`] that sees it. Nothing is
//! recorded unless a recorder is given.

use std::fmt;

/// Something that happened. Sizes and addresses in bytes; `stream` is the stream's key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TraceEvent {
    /// A block was handed out.
    Alloc {
        /// Its first byte.
        address: u64,
        /// Its size.
        bytes: u64,
        /// What was asked for.
        requested_bytes: u64,
        /// Where.
        stream: u64,
    },
    /// A block was given up by its owner; other streams may still use it.
    FreeRequested {
        /// Its first byte.
        address: u64,
        /// Its size.
        bytes: u64,
        /// The stream it was allocated on.
        stream: u64,
    },
    /// A block became free.
    FreeCompleted {
        /// Its first byte.
        address: u64,
        /// Its size.
        bytes: u64,
        /// The stream it was allocated on.
        stream: u64,
    },
    /// Memory was taken from the device.
    SegmentAlloc {
        /// Its first byte.
        address: u64,
        /// Its size.
        bytes: u64,
        /// The stream it was made for.
        stream: u64,
    },
    /// Memory was given back to the device.
    SegmentFree {
        /// Its first byte.
        address: u64,
        /// Its size.
        bytes: u64,
        /// The stream it was made for.
        stream: u64,
    },
    /// Memory that is held shows at another address too.
    SegmentMap {
        /// Its first byte there.
        address: u64,
        /// Its size.
        bytes: u64,
        /// The stream whose addresses these are.
        stream: u64,
    },
    /// It shows there no more.
    SegmentUnmap {
        /// Its first byte there.
        address: u64,
        /// Its size.
        bytes: u64,
        /// The stream whose addresses these were.
        stream: u64,
    },
    /// A request failed.
    OutOfMemory {
        /// What was asked for.
        requested_bytes: u64,
        /// What the device had free.
        device_free_bytes: u64,
        /// Where.
        stream: u64,
    },
}

/// Sees everything that happens to one allocator, in order.
///
/// Called with the allocator's lock held: it must return soon and must not call the allocator.
pub trait Recorder: Send + Sync + fmt::Debug {
    /// Takes note of `event`.
    fn record(&self, event: &TraceEvent);
}
