//! The checksum of a byte range: the reference of [`Kernel::Checksum`](super::Kernel::Checksum).

/// Weyl constant (2^64 / golden ratio): makes every word's position count.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Odd multiplier with well spread bits (from the rrmxmx mixer by P. Evensen).
const MIX: u64 = 0x9fb2_1c65_1e98_df25;

/// The checksum of `bytes`: every bit and every position counts, and the words add up in any
/// order, so that a GPU can sum them in parallel. Not cryptographic.
///
/// Defined as the wrapping sum over the 64-bit little-endian words `w[i]` (the last one padded
/// with zeros) of `m(w[i] + (i + 1) * STEP)` with `m(x) = y ^ (y >> 29)`,
/// `y = (x ^ (x >> 32)) * MIX`, plus `m(length)`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    sum.update(bytes);
    sum.finish()
}

/// A [`checksum`] over parts that come one after the other.
#[derive(Debug, Clone, Default)]
pub struct Checksum {
    sum: u64,
    len_bytes: u64,
    /// Bytes of an unfinished word.
    partial: [u8; 8],
}

impl Checksum {
    /// Adds the next part.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let filled = (self.len_bytes % 8) as usize;
        if filled > 0 {
            let take = bytes.len().min(8 - filled);
            self.partial[filled..filled + take].copy_from_slice(&bytes[..take]);
            self.len_bytes += take as u64;
            bytes = &bytes[take..];
            if filled + take == 8 {
                self.add_word(u64::from_le_bytes(self.partial), self.len_bytes / 8);
            }
        }
        let mut position = self.len_bytes / 8;
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            position += 1;
            self.add_word(u64::from_le_bytes(*word), position);
        }
        self.partial[..tail.len()].copy_from_slice(tail);
        self.len_bytes += bytes.len() as u64;
    }

    /// The checksum of all parts so far.
    #[must_use]
    pub fn finish(mut self) -> u64 {
        let filled = (self.len_bytes % 8) as usize;
        if filled > 0 {
            self.partial[filled..].fill(0);
            self.add_word(u64::from_le_bytes(self.partial), self.len_bytes / 8 + 1);
        }
        self.sum.wrapping_add(mix(self.len_bytes))
    }

    fn add_word(&mut self, word: u64, position: u64) {
        let salted = word.wrapping_add(position.wrapping_mul(STEP));
        self.sum = self.sum.wrapping_add(mix(salted));
    }
}

/// Spreads the bits of a word.
pub(super) fn mix(x: u64) -> u64 {
    let y = (x ^ (x >> 32)).wrapping_mul(MIX);
    y ^ (y >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_every_position_counts() {
        let bytes: Vec<u8> = (0..61u8).collect();
        let sum = checksum(&bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_ne!(checksum(&flipped), sum, "byte {at}, bit {bit}");
            }
        }
        let mut swapped = bytes.clone();
        swapped.swap(3, 40);
        assert_ne!(checksum(&swapped), sum);
        assert_ne!(checksum(&[0; 8]), checksum(&[0; 9]), "padding is told from data");
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let bytes: Vec<u8> = (0..200u32).map(|i| (i * 37 % 251) as u8).collect();
        for cut in 0..bytes.len() {
            let mut sum = Checksum::default();
            sum.update(&bytes[..cut]);
            sum.update(&bytes[cut..cut + (bytes.len() - cut) / 2]);
            sum.update(&bytes[cut + (bytes.len() - cut) / 2..]);
            assert_eq!(sum.finish(), checksum(&bytes), "cut at {cut}");
        }
    }
}
