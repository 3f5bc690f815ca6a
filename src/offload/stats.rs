//! What a runtime by a plan tells of itself.

use serde::Serialize;

/// Counters of an [`Offloaded`](super::Offloaded) since it was loaded, and its sizes now. In
/// bytes, unless they say otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OffloadStats {
    /// Device memory behind what stays.
    pub resident_bytes: u64,
    /// The ring.
    pub ring_bytes: u64,
    /// Promised to the caller by live guards of working memory.
    pub promised_bytes: u64,
    /// How often cached memory went back to the device for want of memory.
    pub cache_trims: u64,
    /// How often the ring got smaller for want of memory.
    pub ring_shrinks: u64,
    /// Pieces of units that left the device for want of memory.
    pub residents_dropped: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// How often the ring had to get so small that it holds one unit at a time.
    pub single_buffers: u64,
    /// Requests that even the last rung could not serve.
    pub refusals: u64,
    /// How often the ring got larger again.
    pub ring_growths: u64,
    /// Pieces that came back.
    pub residents_restored: u64,
    /// Their bytes.
    pub restored_bytes: u64,
    /// How often the ring was made anew, for a phase or a rung.
    pub rings_made: u64,
    /// Pieces of the next phases' components that were loaded while another ran.
    pub loaded_ahead: u64,
    /// How often measured costs changed the plan.
    pub replans: u64,
    /// Passes that were finished.
    pub passes: u64,
}
