//! Numbers of ggml's block formats: the reference of
//! [`Kernel::Dequantise`](super::Kernel::Dequantise). Layouts are those of ggml's structs;
//! `kernels/blocks.h` does the same.

use super::cast::{FloatFormat, cast_bits};

/// How blocks of numbers share their scales. The names are ggml's.
#[allow(non_camel_case_types)] // As everybody writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockFormat {
    /// 32 numbers of 4 bits with one scale.
    Q4_0,
    /// 32 numbers of 4 bits with a scale and a least.
    Q4_1,
    /// 32 numbers of 5 bits with one scale.
    Q5_0,
    /// 32 numbers of 5 bits with a scale and a least.
    Q5_1,
    /// 32 numbers of 8 bits with one scale.
    Q8_0,
    /// 256 numbers of 2 bits; 16 at a time have a scale and a least of 4 bits.
    Q2_K,
    /// 256 numbers of 3 bits; 16 at a time have a scale of 6 bits.
    Q3_K,
    /// 256 numbers of 4 bits; 32 at a time have a scale and a least of 6 bits.
    Q4_K,
    /// 256 numbers of 5 bits; 32 at a time have a scale and a least of 6 bits.
    Q5_K,
    /// 256 numbers of 6 bits; 16 at a time have a scale of 8 bits.
    Q6_K,
}

impl BlockFormat {
    /// All of them, in the order of their numbers in kernel parameters.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Numbers of one block.
    #[must_use]
    pub const fn block_numbers(self) -> u64 {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> u64 {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Its number in kernel parameters.
    pub(super) const fn number(self) -> u64 {
        self as u64
    }
}

/// Dequantises numbers of one block format to a float format: whole blocks, as many as both
/// `src` and `dst` hold.
///
/// A number is `scale * q - least`, worked out in `f32` with a rounding after each operation, as
/// ggml's own conversion does; then it is [cast](super::cast()) to `to`. Every NaN becomes `to`'s
/// positive one.
pub fn dequantise(src: &[u8], dst: &mut [u8], from: BlockFormat, to: FloatFormat, saturate: bool) {
    let (numbers, size) = (from.block_numbers() as usize, to.size_bytes() as usize);
    let blocks = src.chunks_exact(from.block_bytes() as usize);
    for (block, results) in blocks.zip(dst.chunks_exact_mut(numbers * size)) {
        for (at, result) in results.chunks_exact_mut(size).enumerate() {
            write_float(number_of(from, block, at), result, to, saturate);
        }
    }
}

/// Writes a float in a format, whose size `place` has.
pub(super) fn write_float(value: f32, place: &mut [u8], to: FloatFormat, saturate: bool) {
    // What hardware makes of no number has either sign, and any payload.
    let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
    let code = match to {
        FloatFormat::F32 if saturate && value.is_infinite() => bits - 1,
        FloatFormat::F32 => bits,
        _ => cast_bits(bits, FloatFormat::F32, to, saturate),
    };
    place.copy_from_slice(&code.to_le_bytes()[..place.len()]);
}

/// Number `i` of a block.
fn number_of(format: BlockFormat, block: &[u8], i: usize) -> f32 {
    let (scale, least, q) = match format {
        BlockFormat::Q4_0 => (half(block, 0), 0.0, nibble(&block[2..], i) - 8),
        BlockFormat::Q4_1 => (half(block, 0), -half(block, 2), nibble(&block[4..], i)),
        BlockFormat::Q5_0 => {
            (half(block, 0), 0.0, (nibble(&block[6..], i) | bit(&block[2..], i) << 4) - 16)
        }
        BlockFormat::Q5_1 => {
            (half(block, 0), -half(block, 2), nibble(&block[8..], i) | bit(&block[4..], i) << 4)
        }
        BlockFormat::Q8_0 => (half(block, 0), 0.0, i32::from(block[2 + i] as i8)),
        BlockFormat::Q2_K => {
            let both = block[i / 16];
            let scale = half(block, 80) * f32::from(both & 15);
            (scale, half(block, 82) * f32::from(both >> 4), two_bits(&block[16..], i))
        }
        BlockFormat::Q3_K => {
            let scale = half(block, 108) * (scale_of_sixteen(&block[96..], i / 16) - 32) as f32;
            // A bit of eight numbers that are 32 apart in each byte.
            let high = i32::from(block[i % 32] >> (i / 32) & 1);
            (scale, 0.0, (two_bits(&block[32..], i) | high << 2) - 4)
        }
        BlockFormat::Q4_K => {
            let (scale, least) = scale_of_eight(block, i / 32);
            (scale, least, nibble_of_many(&block[16..], i))
        }
        BlockFormat::Q5_K => {
            let (scale, least) = scale_of_eight(block, i / 32);
            let high = i32::from(block[16 + i % 32] >> (i / 32) & 1);
            (scale, least, nibble_of_many(&block[48..], i) | high << 4)
        }
        BlockFormat::Q6_K => {
            let scale = half(block, 208) * f32::from(block[192 + i / 16] as i8);
            // Four bits of the first 64 numbers of each half, then of the others.
            let low = i32::from(block[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15);
            (scale, 0.0, (low | two_bits(&block[128..], i) << 4) - 32)
        }
    };
    // A least of 0 is taken away without a trace, also from a negative zero.
    scale * q as f32 - least
}

/// The binary16 at `at`.
fn half(block: &[u8], at: usize) -> f32 {
    let code = u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    f32::from_bits(cast_bits(code, FloatFormat::F16, FloatFormat::F32, false))
}

/// Four bits of number `i` of 32, in 16 bytes: the first 16 numbers in the low halves.
fn nibble(bytes: &[u8], i: usize) -> i32 {
    i32::from(bytes[i % 16] >> (i / 16 * 4) & 15)
}

/// Bit `i`.
fn bit(bytes: &[u8], i: usize) -> i32 {
    i32::from(bytes[i / 8] >> (i % 8) & 1)
}

/// Two bits of number `i` of 256, in 64 bytes: each half of the numbers in 32 of them.
fn two_bits(bytes: &[u8], i: usize) -> i32 {
    i32::from(bytes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3)
}

/// Four bits of number `i` of 256, in 128 bytes: 64 numbers in 32 of them.
fn nibble_of_many(bytes: &[u8], i: usize) -> i32 {
    i32::from(bytes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15)
}

/// Scale `k` of 16 of 6 bits: the low four in 8 bytes, the high two in the 4 behind.
fn scale_of_sixteen(bytes: &[u8], k: usize) -> i32 {
    let low = bytes[k % 8] >> (k / 8 * 4) & 15;
    let high = bytes[8 + k % 4] >> (k / 4 * 2) & 3;
    i32::from(low | high << 4)
}

/// Scale and least `k` of 8 of 6 bits each: of the first four in 8 bytes; of the others the low
/// four bits in 4 more, the high two above those of the first.
fn scale_of_eight(block: &[u8], k: usize) -> (f32, f32) {
    let bytes = &block[4..16];
    let (scale, least) = match k {
        0..4 => (bytes[k] & 63, bytes[k + 4] & 63),
        _ => {
            let high = |at: usize| bytes[at] >> 6 << 4;
            (bytes[k + 4] & 15 | high(k - 4), bytes[k + 4] >> 4 | high(k))
        }
    };
    (half(block, 0) * f32::from(scale), half(block, 2) * f32::from(least))
}
