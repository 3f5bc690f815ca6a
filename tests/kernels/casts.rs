//! The reference of the casts against `half`, `float8` and a search among all numbers.

use float8::{F8E4M3, F8E5M2};
use half::{bf16, f16};
use riverbed::device::FloatFormat::{self, Bf16, F8E4M3 as E4m3, F8E5M2 as E5m2, F16, F32};
use riverbed::device::{cast, cast_bits};

/// What a code stands for, as others see it.
fn value(code: u32, format: FloatFormat) -> f32 {
    let value = match format {
        E4m3 => F8E4M3::from_bits(code as u8).to_f32(),
        E5m2 => F8E5M2::from_bits(code as u8).to_f32(),
        F16 => f16::from_bits(code as u16).to_f32(),
        Bf16 => bf16::from_bits(code as u16).to_f32(),
        _ => f32::from_bits(code),
    };
    // Not all of them keep the sign of what is no number.
    if value.is_nan() && code & sign(format) != 0 { f32::NAN.copysign(-1.0) } else { value }
}

/// The code of the largest number, and of the NaN that results have.
fn largest_and_nan(format: FloatFormat) -> (u32, u32) {
    match format {
        E4m3 => (0x7e, 0x7f),
        E5m2 => (0x7b, 0x7f),
        F16 => (f16::MAX.to_bits().into(), f16::NAN.to_bits().into()),
        Bf16 => (bf16::MAX.to_bits().into(), bf16::NAN.to_bits().into()),
        _ => (f32::MAX.to_bits(), f32::NAN.to_bits()),
    }
}

fn sign(format: FloatFormat) -> u32 {
    1 << (8 * format.size_bytes() - 1)
}

/// The code of a value, as others convert it, but for NaNs and for what saturates.
fn others(value: f32, format: FloatFormat, saturate: bool) -> u32 {
    let (largest, nan) = largest_and_nan(format);
    let negative = if value.is_sign_negative() { sign(format) } else { 0 };
    if value.is_nan() {
        return negative | nan;
    }
    match format {
        // They saturate always; `nearest` covers what does not.
        E4m3 => F8E4M3::from_f32(value).to_bits().into(),
        E5m2 => F8E5M2::from_f32(value).to_bits().into(),
        _ => {
            let code = match format {
                F16 => f16::from_f32(value).to_bits().into(),
                Bf16 => bf16::from_f32(value).to_bits().into(),
                _ => value.to_bits(),
            };
            if saturate { negative | (code & !sign(format)).min(largest) } else { code }
        }
    }
}

/// The code of the nearest number, found by looking at all; of two, the even one. One number
/// beyond the largest stands for all that is too large.
fn nearest(value: f32, format: FloatFormat, saturate: bool) -> u32 {
    let (largest, nan) = largest_and_nan(format);
    let negative = if value.is_sign_negative() { sign(format) } else { 0 };
    let number = |code: u32| f64::from(self::value(code, format));
    let beyond = 2.0 * number(largest) - number(largest - 1);
    let wanted = f64::from(value.abs());
    if wanted.is_nan() {
        return negative | nan;
    }
    let number = |code: u32| if code > largest { beyond } else { number(code) };
    // The numbers ascend with their codes: the last that is not above, and its neighbour.
    let codes = largest + 2;
    let last = (0..u32::BITS - codes.leading_zeros()).rev().fold(0, |found, bit| {
        let next = found | 1 << bit;
        if next < codes && number(next) <= wanted { next } else { found }
    });
    let below = last.min(largest);
    let (down, up) = (wanted - number(below), number(below + 1) - wanted);
    let goes_up = up < down || (up == down && below % 2 == 1);
    let code = below + u32::from(goes_up);
    let too_large = if saturate { largest } else { largest + 1 };
    negative | if code > largest { too_large } else { code }
}

fn check(code: u32, from: FloatFormat, to: FloatFormat) {
    let value = value(code, from);
    for saturate in [false, true] {
        let found = cast_bits(code, from, to, saturate);
        let what = || format!("{code:#x}, {value:e}, {from:?} to {to:?}, saturate {saturate}");
        if saturate || to.size_bytes() > 1 {
            assert_eq!(found, others(value, to, saturate), "{}", what());
        }
        if to.size_bytes() < 4 {
            assert_eq!(found, nearest(value, to, saturate), "{}", what());
        }
    }
}

#[test]
fn every_small_code_becomes_every_format() {
    for from in [E4m3, E5m2, F16, Bf16] {
        for to in FloatFormat::ALL {
            (0..2 * sign(from)).for_each(|code| check(code, from, to));
        }
    }
}

/// Around every number of the format, and half-way between neighbours: one `f32` to each side.
fn edges(format: FloatFormat) -> impl Iterator<Item = u32> {
    let (largest, _) = largest_and_nan(format);
    (0..=largest).flat_map(move |code| {
        let number = f64::from(value(code, format));
        let next = match code {
            code if code < largest => f64::from(value(code + 1, format)),
            _ => 2.0 * number - f64::from(value(code - 1, format)),
        };
        let tie = (number + next) / 2.0;
        [number, tie, next].into_iter().flat_map(|edge| {
            let bits = (edge as f32).to_bits();
            [bits.saturating_sub(1), bits, bits + 1]
        })
    })
}

#[test]
fn ties_go_to_the_even_code_and_neighbours_of_ties_do_not() {
    for to in [E4m3, E5m2, F16, Bf16] {
        for bits in edges(to) {
            check(bits, F32, to);
            check(bits | sign(F32), F32, to);
        }
    }
}

#[test]
fn floats_of_all_kinds_become_every_format() {
    let mut seed = 1_u64;
    let mut some = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 32) as u32
    };
    let special =
        [0, 1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0x7fff_ffff];
    for bits in special {
        for to in [E4m3, E5m2, F16, Bf16, F32] {
            check(bits, F32, to);
            check(bits | sign(F32), F32, to);
        }
    }
    for _ in 0..300_000 {
        let bits = some();
        [E4m3, E5m2, F16, Bf16].into_iter().for_each(|to| check(bits, F32, to));
        // Most bit patterns are far too large or small for small formats: near 1 as well.
        let near = (bits & 0x83ff_ffff) + 0x3400_0000 + (some() & 0x0c00_0000);
        [E4m3, E5m2, F16].into_iter().for_each(|to| check(near, F32, to));
    }
}

#[test]
fn what_is_said_of_the_formats_is_so() {
    let largest = [448.0, 57344.0, 65504.0, 3.389_531_4e38, f32::MAX];
    for (format, largest) in FloatFormat::ALL.into_iter().zip(largest) {
        let code = cast_bits(f32::INFINITY.to_bits(), F32, format, true);
        assert_eq!(cast_bits(code, format, F32, false), f32::to_bits(largest), "{format:?}");
    }
    assert_eq!(cast_bits(464_f32.to_bits(), F32, E4m3, false), 0x7e, "a tie, to the even 448");
    assert_eq!(cast_bits(464.1_f32.to_bits(), F32, E4m3, false), 0x7f);
    assert_eq!(cast_bits(f32::NEG_INFINITY.to_bits(), F32, E4m3, false), 0xff);
    assert_eq!(cast_bits(f32::NEG_INFINITY.to_bits(), F32, E5m2, false), 0xfc);
    assert_eq!(cast_bits(0xffff_ff38, E4m3, F32, false), 1_f32.to_bits(), "high bits are ignored");
}

#[test]
fn slices_are_cast_as_far_as_both_go() {
    let source: Vec<u8> = [1.0_f32, -2.0, 0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut result = [0xee; 5];
    cast(&source, &mut result, F32, Bf16, false);
    assert_eq!(result, [0x80, 0x3f, 0x00, 0xc0, 0xee]);
    let mut result = [0xee; 5];
    cast(&source[..11], &mut result, F32, E4m3, false);
    assert_eq!(result, [0x38, 0xc0, 0xee, 0xee, 0xee]);
}

#[test]
fn long_slices_are_cast_as_single_codes_are() {
    for from in [E4m3, E5m2, F16, Bf16] {
        let codes = || (0..2 * sign(from)).chain((0..2 * sign(from)).rev());
        let bytes = |code: u32, format: FloatFormat| {
            code.to_le_bytes().into_iter().take(format.size_bytes() as usize)
        };
        let source: Vec<u8> = codes().flat_map(|code| bytes(code, from)).collect();
        for to in FloatFormat::ALL {
            let single = codes().map(|code| cast_bits(code, from, to, true));
            let expected: Vec<u8> = single.flat_map(|code| bytes(code, to)).collect();
            let mut found = vec![0; expected.len()];
            cast(&source, &mut found, from, to, true);
            assert!(found == expected, "{from:?} to {to:?}");
        }
    }
}
