//! What a stream asked for since the recording began: sizes, and when each came and went.

use super::UNIT_BYTES;

/// The most requests of one recording.
const MOST_REQUESTS: usize = 1 << 21;

/// No request: of a block that is not in the recording.
const NONE: u32 = u32::MAX;
/// When a block is freed that is still live.
const NEVER: u64 = u64::MAX;

/// A request as it was seen. Times are the numbers of events of all streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// In units of 512 bytes; 0 where that cannot be counted.
    pub(crate) units: u32,
    pub(crate) taken: u64,
    freed: u64,
}

impl Seen {
    /// As it was seen at a time.
    pub(crate) fn until(self, time: u64) -> Self {
        Self { freed: if self.freed > time { NEVER } else { self.freed }, ..self }
    }

    /// When it was freed, if it was.
    pub(crate) fn freed(&self) -> Option<u64> {
        (self.freed != NEVER).then_some(self.freed)
    }
}

/// A stream's requests, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recording {
    seen: Vec<Seen>,
    /// The request of a block, by the block's place in the ledger.
    of_block: Vec<u32>,
    digest: u64,
    is_cut: bool,
}

/// `bytes` in units, 0 where they are too many.
#[inline]
pub(crate) fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT_BYTES).unwrap_or(0)
}

impl Recording {
    /// A recording that begins in the midst of an iteration.
    pub(crate) fn cut() -> Self {
        Self { is_cut: true, ..Self::default() }
    }

    /// The next request, for `bytes`, was served at `time` by the block of this place.
    pub(crate) fn took(&mut self, bytes: u64, time: u64, block: usize) {
        let units = units(bytes);
        self.digest = (self.digest.rotate_left(5) ^ u64::from(units)).wrapping_mul(MIX);
        if self.of_block.len() <= block {
            self.of_block.resize((block + 1).next_power_of_two(), NONE);
        }
        self.of_block[block] = self.seen.len() as u32;
        self.seen.push(Seen { units, taken: time, freed: NEVER });
    }

    /// The block of this place was given up at `time`.
    pub(crate) fn gave_up(&mut self, time: u64, block: usize) {
        let Some(at) = self.of_block.get_mut(block) else { return };
        let at = std::mem::replace(at, NONE);
        if let Some(seen) = self.seen.get_mut(at as usize) {
            seen.freed = time;
        }
    }

    /// True if no more requests belong in it.
    pub(crate) fn is_full(&self) -> bool {
        self.seen.len() >= MOST_REQUESTS
    }

    /// True if it is not of a whole iteration.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// The requests so far, for good.
    pub(crate) fn into_seen(self) -> Vec<Seen> {
        self.seen
    }

    /// A number for the sizes in their order.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }
}

/// An odd number with bits all over.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_known_until_they_are_freed() {
        let mut recording = Recording::default();
        recording.took(1024, 1, 7);
        recording.took(512, 2, 3);
        recording.gave_up(3, 7);
        recording.took(2048, 4, 7);
        // Blocks from before the recording are nothing to it.
        recording.gave_up(5, 100);
        recording.gave_up(6, 4);
        let seen: Vec<_> = recording.seen().iter().map(|seen| (seen.units, seen.freed())).collect();
        assert_eq!(seen, [(2, Some(3)), (1, None), (4, None)]);
    }

    #[test]
    fn the_digest_tells_sizes_and_their_order_apart() {
        let digest = |sizes: &[u64]| {
            let mut recording = Recording::default();
            for (at, &bytes) in sizes.iter().enumerate() {
                recording.took(bytes, at as u64, at);
            }
            recording.digest()
        };
        assert_eq!(digest(&[512, 1024]), digest(&[512, 1024]));
        assert_ne!(digest(&[512, 1024]), digest(&[1024, 512]));
        assert_ne!(digest(&[512, 1024]), digest(&[512, 1024, 512]));
    }

    #[test]
    fn too_large_sizes_count_as_none() {
        assert_eq!(units(512 << 31), 1 << 31);
        assert_eq!(units(512 << 32), 0);
    }
}
