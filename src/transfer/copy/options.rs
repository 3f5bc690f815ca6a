//! Who goes first, and how much may be on its way.

use crate::base::MIB;
use crate::device::{Device, copy_threads};
use crate::pinned::PinnedPool;

/// Who gives the device the chunks that had to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driven {
    /// Threads of the transfer, started when the first copy has to wait.
    #[default]
    ByThreads,
    /// Whoever calls [`Transfer::drive`](super::Transfer::drive) or waits for a copy. No thread
    /// is started for copies from pinned memory, and on a simulated device the clock is the same
    /// in every run. Copies stand still while nobody drives.
    ByCaller,
}

/// Settings of a [`Transfer`](super::Transfer).
#[derive(Debug, Clone)]
pub struct TransferOptions {
    /// The most bytes of one direction that are with the device and not done, the small copies
    /// of demand left aside. At least three chunks of 2 MiB fit; less counts as that.
    pub in_flight_bytes: u64,
    /// The size of a chunk, in bytes; `None` for what the link wants: 4 MiB at first, then what
    /// takes it 100 microseconds, from 2 MiB to a third of `in_flight_bytes` and 8 MiB at most.
    pub chunk_bytes: Option<u64>,
    /// Who goes on with copies that had to wait.
    pub driven: Driven,
    /// Threads that copy between pageable memory and pinned slots, together.
    pub staging_threads: usize,
    /// Where pinned memory for pageable copies is taken from: three chunks for each direction
    /// and urgency in use. `None` for a pool of the transfer's own, made when it is needed.
    pub staging_pool: Option<PinnedPool>,
}

/// The smallest chunk: below it a copy does not reach the link's rate.
pub(super) const MIN_CHUNK_BYTES: u64 = 2 * MIB;
/// The largest: more holds up others and gains nothing.
pub(super) const MAX_CHUNK_BYTES: u64 = 8 * MIB;
/// The chunk while nothing is known of the link: 97 % of 55 GB/s at 2.3 us a call.
pub(super) const FIRST_CHUNK_BYTES: u64 = 4 * MIB;
/// How long a chunk should take: many times what its call costs, and short for who waits.
const CHUNK_NS: u64 = 100_000;

impl Default for TransferOptions {
    /// 16 MiB in flight, the link's chunks, threads of its own, up to four for staging.
    fn default() -> Self {
        Self {
            in_flight_bytes: 16 * MIB,
            chunk_bytes: None,
            driven: Driven::ByThreads,
            staging_threads: copy_threads(),
            staging_pool: None,
        }
    }
}

impl TransferOptions {
    /// The size of a chunk over a link of that rate; 0 for one not measured.
    pub(super) fn chunk_for(&self, bytes_per_second: u64) -> u64 {
        let most = (self.in_flight() / 3).min(MAX_CHUNK_BYTES);
        let wanted = match (self.chunk_bytes, bytes_per_second) {
            (Some(bytes), _) => return bytes.clamp(1, self.in_flight() / 2),
            (None, 0) => FIRST_CHUNK_BYTES,
            (None, rate) => {
                let bytes = u128::from(rate) * u128::from(CHUNK_NS) / 1_000_000_000;
                u64::try_from(bytes).unwrap_or(u64::MAX) / MIB * MIB
            }
        };
        wanted.clamp(MIN_CHUNK_BYTES, most)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight_bytes.max(3 * MIN_CHUNK_BYTES)
    }
}

/// Whether copies may be held back on `device` until others are done, with streams standing at
/// a gate meanwhile. Where a gate is a host function it holds up the thread that calls them all,
/// and the copies that would open it may wait for one of those: there all is enqueued at once.
pub(super) fn may_hold_back(device: &Device) -> bool {
    device.driver_info().is_none_or(|driver| driver.waits_for_values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_take_a_tenth_of_a_millisecond_within_bounds() {
        let options = TransferOptions::default();
        let chunk = |gb_per_s: u64| options.chunk_for(gb_per_s * 1_000_000_000) / MIB;
        assert_eq!([0, 1, 12, 25, 50, 55, 450].map(chunk), [4, 2, 2, 2, 4, 5, 5]);
        let wide = TransferOptions { in_flight_bytes: 64 * MIB, ..TransferOptions::default() };
        assert_eq!(wide.chunk_for(450_000_000_000), MAX_CHUNK_BYTES);
        assert_eq!(wide.chunk_for(u64::MAX), MAX_CHUNK_BYTES);
    }

    #[test]
    fn settings_out_of_range_are_brought_into_it() {
        let tiny = TransferOptions { in_flight_bytes: 1, ..TransferOptions::default() };
        assert_eq!((tiny.in_flight(), tiny.chunk_for(0)), (6 * MIB, 2 * MIB));
        let own =
            |bytes| TransferOptions { chunk_bytes: Some(bytes), ..TransferOptions::default() };
        assert_eq!([0, 5, u64::MAX].map(|bytes| own(bytes).chunk_for(9)), [1, 5, 8 * MIB]);
    }
}
