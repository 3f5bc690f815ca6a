//! Kernels as launches of the device code: which function, how many threads, which parameters.
//! `kernels/riverbed.cu` holds the functions and repeats the table; both change together.
//!
//! Every function takes one struct by value, of 64-bit words alone, and runs with any grid of
//! one dimension.
//!
//! | function | words of its parameter |
//! |---|---|
//! | `riverbed_checksum_start` | `out`, `bytes`: sets the sum at `out` to that of the length |
//! | `riverbed_checksum` | `out`, `bytes`, `src`: adds the words' part to the sum at `out` |
//! | `riverbed_fill` | `dst`, `bytes`, `value` (the byte, in all 8 bytes) |
//! | `riverbed_gather` | `count`, `tile_bytes`, then 128 times `src`, `dst`, `end` |
//! | `riverbed_cast` | `src`, `dst`, `count`, `from`, `to`, `saturate` (0 or 1) |
//! | `riverbed_dequantise` | `src`, `dst`, `count`, `from` (a block format), `to`, `saturate` |
//! | `riverbed_patch` | `src`, `dst`, `rows`, `columns`, `from`, `to`, `up`, `down`, `scales`, `rank`, `factors`, `saturate`: eight columns at once |
//! | `riverbed_patch_singly` | the same |
//! | `riverbed_busy` | `ticks` of the device's clock |
//!
//! `end` is where the piece ends in all pieces laid end to end: the sum of its own and all
//! earlier sizes. Unused pieces are zeros. A block of threads copies tiles of `tile_bytes` of
//! that whole. Formats are numbered from 0 as in [`FloatFormat::ALL`](super::FloatFormat::ALL) and
//! [`BlockFormat::ALL`](super::BlockFormat::ALL).

use std::ffi::CStr;
use std::ops::Deref;

use super::{Kernel, Piece};

/// Threads of a block.
const BLOCK: u32 = 256;
/// The most blocks of a launch: about two rounds of a large GPU. Threads stride over the rest.
const MAX_GRID: u64 = 2048;
/// What a thread reads or writes at once, in bytes.
const WIDE_BYTES: u64 = 16;
/// The least and the most bytes of a gather that a block copies before it takes the next.
const TILE_BYTES: [u64; 2] = [1 << 10, 1 << 16];

/// Names of all functions.
pub(in crate::device) const FUNCTIONS: [&CStr; 9] = [
    c"riverbed_checksum_start",
    c"riverbed_checksum",
    c"riverbed_fill",
    c"riverbed_gather",
    c"riverbed_cast",
    c"riverbed_dequantise",
    c"riverbed_patch",
    c"riverbed_patch_singly",
    c"riverbed_busy",
];

/// One launch of a function of the device code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::device) struct Launch {
    /// Name of the function.
    pub(in crate::device) function: &'static CStr,
    /// Blocks, in one dimension.
    pub(in crate::device) grid: u32,
    /// Threads a block, in one dimension.
    pub(in crate::device) block: u32,
    /// The words of its one parameter, a struct passed by value.
    pub(in crate::device) args: Words,
}

/// Words of a parameter. Only those of a gather are from the heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::device) enum Words {
    Few([u64; MOST_FEW], usize),
    Many(Box<[u64]>),
}

/// Words of the longest parameter but a gather's.
const MOST_FEW: usize = 12;

impl Words {
    fn of<const N: usize>(words: [u64; N]) -> Self {
        const { assert!(N <= MOST_FEW) };
        let mut few = [0; MOST_FEW];
        few[..N].copy_from_slice(&words);
        Self::Few(few, N)
    }
}

impl Deref for Words {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Self::Few(words, count) => &words[..*count],
            Self::Many(words) => words,
        }
    }
}

impl Kernel {
    /// The launches that do its work, to be enqueued in this order; none when there is nothing
    /// to do. `clock_khz` is the rate of the device's fixed clock; `None` for one that counts
    /// nanoseconds (CUDA's `globaltimer`). The kernel [is sound](Self::is_sound).
    pub(in crate::device) fn launches(
        &self,
        clock_khz: Option<u32>,
    ) -> impl Iterator<Item = Launch> + use<> {
        let mut first = None;
        let last = match self {
            Self::Fill { bytes: 0, .. }
            | Self::Busy { ns: 0 }
            | Self::Cast { count: 0, .. }
            | Self::Dequantise { count: 0, .. }
            | Self::Patch { rows: 0, .. }
            | Self::Patch { columns: 0, .. } => None,
            Self::Checksum { src, bytes, out } => {
                let words = strided(c"riverbed_checksum", *bytes, [out.0, *bytes, src.0]);
                let start = strided(c"riverbed_checksum_start", 0, [out.0, *bytes]);
                first = Some(Launch { block: 1, ..start });
                (*bytes > 0).then_some(words)
            }
            Self::Fill { dst, bytes, value } => {
                let word = u64::from_ne_bytes([*value; 8]);
                Some(strided(c"riverbed_fill", *bytes, [dst.0, *bytes, word]))
            }
            Self::Gather { pieces } => gather(pieces),
            Self::Cast { src, dst, count, from, to, saturate } => {
                let bytes = count.saturating_mul(from.size_bytes().max(to.size_bytes()));
                let (from, to) = (from.number(), to.number());
                let args = [src.0, dst.0, *count, from, to, u64::from(*saturate)];
                Some(strided(c"riverbed_cast", bytes, args))
            }
            Self::Dequantise { src, dst, count, from, to, saturate } => {
                // A thread reads eight numbers, whatever their size, and writes them.
                let bytes = count.saturating_mul(2);
                let (from, to) = (from.number(), to.number());
                let args = [src.0, dst.0, *count, from, to, u64::from(*saturate)];
                Some(strided(c"riverbed_dequantise", bytes, args))
            }
            Self::Patch { .. } => self.patch(),
            Self::Busy { ns } => {
                let ticks = ticks(*ns, clock_khz);
                Some(Launch { block: 1, ..strided(c"riverbed_busy", 0, [ticks]) })
            }
        };
        [first, last].into_iter().flatten()
    }
}

impl Kernel {
    /// The launch of a patch of something.
    fn patch(&self) -> Option<Launch> {
        let Self::Patch {
            src,
            dst,
            rows,
            columns,
            from,
            to,
            up,
            down,
            scales,
            rank,
            factors,
            saturate,
        } = self
        else {
            return None;
        };
        let args = [
            src.0,
            dst.0,
            *rows,
            *columns,
            from.number(),
            to.number(),
            up.0,
            down.0,
            scales.0,
            *rank,
            factors.number(),
            u64::from(*saturate),
        ];
        let count = rows.saturating_mul(*columns);
        let is_aligned = [src, dst, down].iter().all(|at| at.0.is_multiple_of(16));
        // A thread works at two rows of eight numbers, or at one number.
        Some(match columns.is_multiple_of(8) && is_aligned {
            true => strided(c"riverbed_patch", count, args),
            false => strided(c"riverbed_patch_singly", count.saturating_mul(WIDE_BYTES), args),
        })
    }
}

/// A launch whose threads stride over `bytes`, [`WIDE_BYTES`] at a time.
fn strided<const N: usize>(function: &'static CStr, bytes: u64, args: [u64; N]) -> Launch {
    let blocks = bytes.div_ceil(WIDE_BYTES * u64::from(BLOCK)).clamp(1, MAX_GRID);
    Launch { function, grid: blocks as u32, block: BLOCK, args: Words::of(args) }
}

/// `None` when all pieces are empty.
fn gather(pieces: &[Piece]) -> Option<Launch> {
    let mut args = vec![0; 2 + 3 * Kernel::MAX_PIECES];
    let mut end = 0_u64;
    let filled = pieces.iter().filter(|piece| piece.bytes > 0).zip(args[2..].chunks_exact_mut(3));
    let mut count = 0;
    for (piece, words) in filled {
        // Destinations do not overlap, so that their sizes add up to no more than there is.
        end = end.saturating_add(piece.bytes);
        words.copy_from_slice(&[piece.src.0, piece.dst.0, end]);
        count += 1;
    }
    let [least, most] = TILE_BYTES;
    let tile_bytes = (end / MAX_GRID).next_power_of_two().clamp(least, most);
    args[0] = count;
    args[1] = tile_bytes;
    let grid = end.div_ceil(tile_bytes).min(MAX_GRID) as u32;
    let args = Words::Many(args.into_boxed_slice());
    (end > 0).then_some(Launch { function: c"riverbed_gather", grid, block: BLOCK, args })
}

/// `ns` in ticks of a clock, rounded up.
fn ticks(ns: u64, clock_khz: Option<u32>) -> u64 {
    let Some(khz) = clock_khz else { return ns };
    let ticks = (u128::from(ns) * u128::from(khz)).div_ceil(1_000_000);
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DevicePtr, FloatFormat};

    #[test]
    fn nothing_to_do_is_no_launch() {
        let nowhere = DevicePtr::default();
        let cast = Kernel::Cast {
            src: nowhere,
            dst: nowhere,
            count: 0,
            from: FloatFormat::F16,
            to: FloatFormat::F32,
            saturate: true,
        };
        let empty = Piece { src: nowhere, dst: nowhere, bytes: 0 };
        let kernels = [
            cast,
            Kernel::Fill { dst: nowhere, bytes: 0, value: 1 },
            Kernel::Gather { pieces: vec![empty; 3] },
            Kernel::Busy { ns: 0 },
        ];
        for kernel in kernels {
            assert_eq!(kernel.launches(None).count(), 0, "{kernel:?}");
        }
    }

    #[test]
    fn parameters_fit_where_kernels_take_them() {
        let pieces: Vec<Piece> = (0..Kernel::MAX_PIECES as u64)
            .map(|i| Piece { src: DevicePtr(0), dst: DevicePtr((1 + i) << 40), bytes: 1 << 40 })
            .collect();
        let launches: Vec<Launch> = Kernel::Gather { pieces }.launches(None).collect();
        let [launch] = &launches[..] else { panic!("{} launches", launches.len()) };
        assert!(size_of_val(&*launch.args) <= 4096);
        assert_eq!((launch.grid, launch.args[0], launch.args[1]), (2048, 128, 1 << 16));
        assert_eq!(launch.args.last(), Some(&(128 << 40)));
    }

    #[test]
    fn grids_grow_with_the_work_up_to_a_bound() {
        let grid = |bytes| {
            let fill = Kernel::Fill { dst: DevicePtr(0), bytes, value: 0 };
            fill.launches(None).next().unwrap().grid
        };
        let bytes = [1, 4096, 4097, 1 << 20, u64::MAX];
        assert_eq!(bytes.map(grid), [1, 1, 2, 256, 2048]);
    }

    #[test]
    fn clocks_tick_at_their_rate() {
        let ticks = |ns, clock_khz| Kernel::Busy { ns }.launches(clock_khz).next().unwrap().args[0];
        assert_eq!(ticks(1_000, None), 1_000);
        assert_eq!(ticks(1_000, Some(100_000)), 100);
        assert_eq!(ticks(1, Some(100_000)), 1, "rounded up");
        assert_eq!(ticks(u64::MAX, Some(u32::MAX)), u64::MAX);
    }
}
