//! Conversions between the float formats weights are kept in: the reference of
//! [`Kernel::Cast`](super::Kernel::Cast). Written for the eye, in exact `f64` arithmetic; the
//! device code does the same on bits.

use std::sync::OnceLock;

/// How a float is kept. All but `F32` are parts of `F32`: their numbers are `f32`s too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FloatFormat {
    /// 8 bits, 4 of exponent, 3 of mantissa, no infinities: only `S.1111.111` is no number, and
    /// the largest is 448 (OCP "E4M3", `float8_e4m3fn`).
    F8E4M3,
    /// 8 bits, 5 of exponent, 2 of mantissa; the largest number is 57344 (OCP "E5M2",
    /// `float8_e5m2`).
    F8E5M2,
    /// IEEE 754 binary16; the largest number is 65504.
    F16,
    /// The upper half of an `F32`.
    Bf16,
    /// IEEE 754 binary32.
    F32,
}

impl FloatFormat {
    /// All of them, in the order of their numbers in kernel parameters.
    pub const ALL: [Self; 5] = [Self::F8E4M3, Self::F8E5M2, Self::F16, Self::Bf16, Self::F32];

    /// Bytes of one number.
    #[must_use]
    pub const fn size_bytes(self) -> u64 {
        match self {
            Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Its number in kernel parameters.
    pub(super) const fn number(self) -> u64 {
        self as u64
    }

    const fn shape(self) -> Shape {
        let (exponent_bits, mantissa_bits, largest, nan) = match self {
            Self::F8E4M3 => (4, 3, 0x7e, 0x7f),
            Self::F8E5M2 => (5, 2, 0x7b, 0x7f),
            Self::F16 => (5, 10, 0x7bff, 0x7e00),
            Self::Bf16 => (8, 7, 0x7f7f, 0x7fc0),
            Self::F32 => (8, 23, 0x7f7f_ffff, 0x7fc0_0000),
        };
        Shape { exponent_bits, mantissa_bits, largest, nan }
    }
}

/// A format in numbers. Codes are without their sign.
#[derive(Clone, Copy)]
struct Shape {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// Code of the largest finite number. The next one stands for what is too large: infinity,
    /// or NaN where there is no infinity.
    largest: u32,
    /// Code of the NaN that results have.
    nan: u32,
}

impl Shape {
    const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    const fn sign_shift(self) -> u32 {
        self.exponent_bits + self.mantissa_bits
    }

    /// The code above the largest number, if it is infinity.
    const fn infinity(self) -> Option<u32> {
        let above = self.largest + 1;
        if above == self.nan { None } else { Some(above) }
    }
}

/// Converts numbers from one format to another: as many as both `src` and `dst` hold,
/// little-endian, one after the other.
///
/// Rounds to the nearest, ties to even; denormals are kept. What is too large after rounding,
/// and what is infinite, becomes infinity (in `F8E4M3`, which has none, NaN), or the largest
/// number of `to` when `saturate`. The sign stays, also that of zeros and NaNs; every NaN becomes
/// `to`'s one quiet NaN (`0x7f`, `0x7f`, `0x7e00`, `0x7fc0`, `0x7fc00000`).
///
/// `docs/kernels.md` has the sources of these rules.
pub fn cast(src: &[u8], dst: &mut [u8], from: FloatFormat, to: FloatFormat, saturate: bool) {
    let (source, result) = (from.size_bytes() as usize, to.size_bytes() as usize);
    let count = (src.len() / source).min(dst.len() / result);
    let (src, dst) = (&src[..count * source], &mut dst[..count * result]);
    let codes: u32 = if source < 4 { 1 << (8 * source) } else { 0 };
    let table = if count > codes as usize { table(codes, from, to, saturate) } else { &[] };
    let convert = |code: u32| match table.get(code as usize) {
        Some(&converted) => converted,
        None => cast_bits(code, from, to, saturate),
    };
    match source {
        1 => write(src.iter().map(|&code| convert(code.into())), dst, result),
        2 => {
            let codes = src.as_chunks::<2>().0.iter();
            write(codes.map(|&code| convert(u16::from_le_bytes(code).into())), dst, result);
        }
        _ => {
            let codes = src.as_chunks::<4>().0.iter();
            write(codes.map(|&code| convert(u32::from_le_bytes(code))), dst, result);
        }
    }
}

/// What becomes of every one of so many codes. Made once and kept, so that a cast that was done
/// before takes nothing from the heap: 256 KiB for a pair of formats from 16 bits.
fn table(codes: u32, from: FloatFormat, to: FloatFormat, saturate: bool) -> &'static [u32] {
    type Tables = [[[OnceLock<Box<[u32]>>; 2]; 5]; 5];
    static TABLES: Tables = [const { [const { [const { OnceLock::new() }; 2] }; 5] }; 5];
    let table = &TABLES[from as usize][to as usize][usize::from(saturate)];
    table.get_or_init(|| (0..codes).map(|code| cast_bits(code, from, to, saturate)).collect())
}

/// Writes codes of so many bytes, one after the other.
fn write(codes: impl Iterator<Item = u32>, dst: &mut [u8], bytes: usize) {
    match bytes {
        1 => dst.iter_mut().zip(codes).for_each(|(place, code)| *place = code as u8),
        2 => {
            let places = dst.as_chunks_mut::<2>().0.iter_mut();
            places.zip(codes).for_each(|(place, code)| *place = (code as u16).to_le_bytes());
        }
        _ => {
            let places = dst.as_chunks_mut::<4>().0.iter_mut();
            places.zip(codes).for_each(|(place, code)| *place = code.to_le_bytes());
        }
    }
}

/// Converts one number as [`cast`] does. Codes are in the low bits; what is above them in
/// `code` is not looked at, and 0 in the result.
#[must_use]
pub fn cast_bits(code: u32, from: FloatFormat, to: FloatFormat, saturate: bool) -> u32 {
    let shape = from.shape();
    let sign = (code >> shape.sign_shift()) & 1;
    let magnitude = magnitude(code & ((1 << shape.sign_shift()) - 1), shape);
    (sign << to.shape().sign_shift()) | encode(magnitude, to.shape(), saturate)
}

/// The value of a code without its sign.
fn magnitude(code: u32, shape: Shape) -> f64 {
    if shape.infinity() == Some(code) {
        return f64::INFINITY;
    }
    if code > shape.largest {
        return f64::NAN;
    }
    let fraction = code & ((1 << shape.mantissa_bits) - 1);
    match (code >> shape.mantissa_bits) as i32 {
        0 => f64::from(fraction) * power_of_two(quantum(1, shape)),
        exponent => {
            let steps = fraction | (1 << shape.mantissa_bits);
            f64::from(steps) * power_of_two(quantum(exponent, shape))
        }
    }
}

/// The code of a value that is not negative.
fn encode(value: f64, shape: Shape, saturate: bool) -> u32 {
    if value.is_nan() {
        return shape.nan;
    }
    let too_large = if saturate { shape.largest } else { shape.largest + 1 };
    if value.is_infinite() {
        return too_large;
    }
    // The exponent field the value would have, were there no end to exponents; denormals share
    // the quantum of 1.
    let exponent = ((value.to_bits() >> 52) as i32 - 1023 + shape.bias()).max(1);
    let steps = nearest_even(value * power_of_two(-quantum(exponent, shape)));
    // A normal number's leading bit is one of its steps and adds 1 to the exponent field, and so
    // does a carry.
    let code = ((exponent as u32 - 1) << shape.mantissa_bits) + steps;
    if code > shape.largest { too_large } else { code }
}

/// The distance of neighbours with this exponent field, as a power of two: at least -149.
fn quantum(exponent: i32, shape: Shape) -> i32 {
    exponent - shape.bias() - shape.mantissa_bits as i32
}

/// `2^power`, for powers of normal numbers.
fn power_of_two(power: i32) -> f64 {
    f64::from_bits(((1023 + power) as u64) << 52)
}

/// The nearest whole number, of two the even one, for values of up to 2^32.
fn nearest_even(value: f64) -> u32 {
    // From here on the neighbours of an `f64` are whole numbers, so that the sum is rounded as
    // wanted. The method `round_ties_even` is a call of a function on common processors.
    const WHOLE: f64 = (1_u64 << 52) as f64;
    (value + WHOLE - WHOLE) as u32
}
