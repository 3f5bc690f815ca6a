//! Numbers that look random, the same on every run.

/// SplitMix64 (Steele, Lea and Flood, 2014), whose constants these are.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `bound`; 0 below 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// A size above 0 of at most about 2^`bits` bytes; every order of magnitude is as likely.
    pub(crate) fn size(&mut self, bits: u32) -> u64 {
        let magnitude = 1 + self.below(u64::from(bits.clamp(1, 62)));
        1 + self.below(1 << magnitude)
    }

    /// `len` bytes that differ from place to place and from seed to seed.
    pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut random = Self::new(seed);
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }
}
