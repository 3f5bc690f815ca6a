//! A product of two thin matrices added to a wide one: the reference of
//! [`Kernel::Patch`](super::Kernel::Patch). `kernels/patch.h` does the same.

use super::cast::{FloatFormat, cast_bits};
use super::dequantise::write_float;

/// Columns worked at together: so many sums stay in the processor's first cache.
const COLUMNS: usize = 64;
/// Rows that share what is read of `down`.
const ROWS: usize = 8;

/// A patch of low rank, as bytes. All matrices are row-major.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `rows x rank`.
    pub up: &'a [u8],
    /// `rank x columns`.
    pub down: &'a [u8],
    /// `rank` numbers in [`FloatFormat::F32`]: what each rank's share is multiplied with; one of
    /// 0 leaves it out.
    pub scales: &'a [u8],
    /// How `up` and `down` are kept.
    pub factors: FloatFormat,
    /// Columns of the result.
    pub columns: u64,
}

/// `dst = src + up * diag(scales) * down`, as many rows as `dst` holds; `src` is kept as `from`,
/// `dst` as `to`. `src` of `None` is what `dst` holds.
///
/// Everything is worked out in `f32`, each operation rounded: the sum over the ranks in their
/// order from 0 on, `(scale * up) * down` added to it, and the sum to the source. Then it is
/// [cast](super::cast()) to `to`, once. Every NaN becomes `to`'s positive one.
pub fn patch(
    src: Option<&[u8]>,
    dst: &mut [u8],
    patch: &LowRank<'_>,
    [from, to]: [FloatFormat; 2],
    saturate: bool,
) {
    let (source, result) = (from.size_bytes() as usize, to.size_bytes() as usize);
    let columns = patch.columns as usize;
    let rows = if columns == 0 { 0 } else { dst.len() / (columns * result) };
    for first in (0..rows).step_by(ROWS) {
        let lines = ROWS.min(rows - first);
        for begin in (0..columns).step_by(COLUMNS) {
            let width = COLUMNS.min(columns - begin);
            let sums = sums(patch, first..first + lines, begin..begin + width);
            for (line, sums) in sums[..lines].iter().enumerate() {
                let at = (first + line) * columns + begin;
                for (i, sum) in sums[..width].iter().enumerate() {
                    let place = &mut dst[(at + i) * result..][..result];
                    let before = match src {
                        Some(src) => read_float(&src[(at + i) * source..][..source], from),
                        None => read_float(place, from),
                    };
                    write_float(before + sum, place, to, saturate);
                }
            }
        }
    }
}

/// What is added to these rows and columns.
fn sums(
    patch: &LowRank<'_>,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) -> [[f32; COLUMNS]; ROWS] {
    let size = patch.factors.size_bytes() as usize;
    let rank = patch.scales.len() / 4;
    let factor = |bytes: &[u8], at: usize| read_float(&bytes[at * size..][..size], patch.factors);
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (r, scale) in patch.scales.chunks_exact(4).enumerate() {
        let scale = read_float(scale, FloatFormat::F32);
        if scale == 0.0 {
            continue;
        }
        let mut down = [0.0; COLUMNS];
        let first = r * patch.columns as usize + columns.start;
        for (i, place) in down[..columns.len()].iter_mut().enumerate() {
            *place = factor(patch.down, first + i);
        }
        for (row, sums) in rows.clone().zip(&mut sums) {
            let up = scale * factor(patch.up, row * rank + r);
            sums.iter_mut().zip(&down).for_each(|(sum, down)| *sum += up * down);
        }
    }
    sums
}

/// The number whose bytes these are.
fn read_float(bytes: &[u8], format: FloatFormat) -> f32 {
    let mut code = [0; 4];
    code[..bytes.len()].copy_from_slice(bytes);
    let code = u32::from_le_bytes(code);
    f32::from_bits(match format {
        FloatFormat::F32 => code,
        // The two that weights mostly have are quick this way.
        FloatFormat::Bf16 => code << 16,
        _ => cast_bits(code, format, FloatFormat::F32, false),
    })
}
