//! PyTorch's memory snapshots (`torch.cuda.memory._dump_snapshot()`), pickled or as JSON. What a
//! replay needs of them is read; missing keys of older versions have their obvious values.

mod json;
mod pickled;
mod window;

use super::trace::Trace;

/// What a replay needs of a snapshot.
#[derive(Debug, Default)]
struct Snapshot {
    /// By device number.
    devices: Vec<Vec<Event>>,
    /// Blocks alive when the snapshot was taken.
    blocks: Vec<Block>,
    /// Events of pinned host memory.
    host_events: u64,
}

/// An entry of `device_traces`.
#[derive(Debug, Clone, Copy)]
struct Event {
    action: Action,
    address: u64,
    bytes: u64,
    stream: u64,
}

/// What an entry tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Alloc,
    FreeRequested,
    /// Also `free`, which some tools write for the two in one.
    FreeCompleted,
    OutOfMemory,
    /// Segments, snapshots, annotations, and what later versions bring.
    Other,
}

impl Action {
    fn of(name: &[u8]) -> Self {
        match name {
            b"alloc" => Self::Alloc,
            b"free_requested" => Self::FreeRequested,
            b"free_completed" | b"free" => Self::FreeCompleted,
            b"oom" => Self::OutOfMemory,
            _ => Self::Other,
        }
    }
}

/// A live block of a segment.
#[derive(Debug, Clone, Copy)]
struct Block {
    device: u64,
    address: u64,
    bytes: u64,
    stream: u64,
}

/// Whether a block in this state holds memory. "active_awaiting_free" is what PyTorch's
/// documentation calls "active_pending_free".
fn is_live(state: &[u8]) -> bool {
    matches!(state, b"active_allocated" | b"active_pending_free" | b"active_awaiting_free")
}

/// Reads a pickled snapshot into a trace for each device that has events.
///
/// # Errors
/// Offset, where one is known, and reason.
pub(super) fn read_pickle(
    bytes: &[u8],
    name: &str,
    device: Option<usize>,
) -> Result<Vec<Trace>, (Option<u64>, String)> {
    let snapshot = pickled::read(bytes)?;
    window::traces(&snapshot, name, device).map_err(|reason| (None, reason))
}

/// Reads a snapshot written as JSON, likewise.
///
/// # Errors
/// What is wrong, with line and column where they are known.
pub(super) fn read_json(
    bytes: &[u8],
    name: &str,
    device: Option<usize>,
) -> Result<Vec<Trace>, String> {
    window::traces(&json::read(bytes)?, name, device)
}
