//! Settings of loads.

use super::disk::DiskOptions;
use crate::base::MIB;
use crate::device::Device;

/// Settings of a [`Loader`](super::Loader).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Bytes of a copy to the device, and of a window slot. Cut down where the pinned budget is
    /// tight.
    pub chunk_bytes: u64,
    /// Slots of the window: how many chunks may be read or waiting to be copied. At least 2; fewer
    /// where the pinned budget is tight.
    pub slots: usize,
    /// Threads that read, where each keeps many reads under way or copies out of memory.
    pub threads: usize,
    /// Bytes of copies, of both urgencies together, that are with the device and not over: what a
    /// copy wanted now may have to wait for. What somebody waits for goes first, and takes from
    /// the room of what is loaded ahead; one copy of each urgency may go whatever that makes.
    /// `None` is 16 MiB (0.3 ms on a link of 55 GB/s), and no limit on a simulated device: holding
    /// copies back means asking which are over, and a clock that moves with the calls made is
    /// moved by asking.
    pub in_flight_bytes: Option<u64>,
    /// How files are read.
    pub disk: DiskOptions,
}

impl LoaderOptions {
    pub(super) fn in_flight(&self, device: &Device) -> u64 {
        let unsaid = if device.info().simulated { u64::MAX } else { IN_FLIGHT_BYTES };
        self.in_flight_bytes.unwrap_or(unsaid)
    }
}

/// Eight chunks of 2 MiB: enough for the link never to run dry.
const IN_FLIGHT_BYTES: u64 = 16 * MIB;

impl Default for LoaderOptions {
    /// Eight slots of 2 MiB, two threads: a chunk is large enough to reach the link's rate (95 %
    /// of 25 GB/s from 1.1 MiB on) and small enough to pass it on early. There is room for the
    /// sixteen reads of 1 MiB a disk wants, and for no more, so that bytes out of the page cache
    /// are often still in the processor's when they are copied on.
    fn default() -> Self {
        Self {
            chunk_bytes: 2 * MIB,
            slots: 8,
            threads: 2,
            in_flight_bytes: None,
            disk: DiskOptions::default(),
        }
    }
}
