//! Settings of loads.

use super::disk::DiskOptions;
use crate::base::MIB;

/// Settings of a [`Loader`](super::Loader).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Bytes of a copy to the device, and of a window slot. Cut down where the pinned budget is
    /// tight.
    pub chunk_bytes: u64,
    /// Slots of the window: how many chunks may be read or waiting to be copied.
    pub slots: usize,
    /// Threads that read, where each keeps many reads under way or copies out of memory.
    pub threads: usize,
    /// How files are read.
    pub disk: DiskOptions,
}

impl Default for LoaderOptions {
    /// Six slots of 4 MiB, two threads: a chunk is large enough to reach the link's rate (95 %
    /// of 25 GB/s from 1.1 MiB on) and small enough to pass it on early; while two chunks are
    /// copied, there is room for the sixteen reads a disk wants.
    fn default() -> Self {
        Self { chunk_bytes: 4 * MIB, slots: 6, threads: 2, disk: DiskOptions::default() }
    }
}
