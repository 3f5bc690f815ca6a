//! The kernels the device contract knows. Their references in Rust are [`checksum`], [`cast`],
//! [`dequantise`], [`patch`] and plain copies; `kernels/riverbed.cu` holds the device code, and every implementation must
//! give the reference's results bit for bit. `docs/kernels.md` has the rules.

mod cast;
mod checksum;
mod dequantise;
// Takes glibc: its emulator switches between contexts.
#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod emulated;
mod launch;
mod objects;
mod patch;

pub use cast::{FloatFormat, cast, cast_bits};
pub use checksum::{Checksum, checksum};
pub use dequantise::{BlockFormat, dequantise};
pub(in crate::device) use launch::{FUNCTIONS, Launch};
pub(in crate::device) use objects::{code_objects, ptx};
pub use patch::{LowRank, patch};

use super::contract::DevicePtr;

/// A kernel and its arguments. Sizes in bytes.
///
/// A launch is refused with `INVALID_VALUE` when a range goes beyond the memory, when an address
/// is not aligned as its field says, or when ranges overlap that may not. Ranges of 0 bytes are
/// not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kernel {
    /// Writes the [`checksum`] of `bytes` bytes at `src` to the 8 bytes at `out`
    /// (little-endian, 8-aligned), which may not overlap them.
    Checksum {
        /// Where to read.
        src: DevicePtr,
        /// How much to read.
        bytes: u64,
        /// Where the sum goes.
        out: DevicePtr,
    },
    /// Sets `bytes` bytes at `dst` to `value`.
    Fill {
        /// Where to write.
        dst: DevicePtr,
        /// How much to write.
        bytes: u64,
        /// The byte to write.
        value: u8,
    },
    /// Copies up to [`MAX_PIECES`](Self::MAX_PIECES) pieces of the device's memory in one
    /// launch: packs, gathers, scatters. No destination may overlap another piece's source or
    /// destination, nor its own source. Any alignment; fastest where a piece's source and
    /// destination are as far from a multiple of 16.
    Gather {
        /// What goes where.
        pieces: Vec<Piece>,
    },
    /// Converts `count` numbers at `src` of one format to another at `dst`, as [`cast`] does.
    /// Both are aligned to their element and may not overlap. The formats differ: converting a
    /// format to itself is refused, for that is a copy.
    Cast {
        /// Where to read.
        src: DevicePtr,
        /// Where to write.
        dst: DevicePtr,
        /// How many numbers.
        count: u64,
        /// The format at `src`.
        from: FloatFormat,
        /// The format at `dst`.
        to: FloatFormat,
        /// Whether what is too large becomes the largest number of `to`.
        saturate: bool,
    },
    /// Dequantises `count` numbers of whole blocks at `src` to `dst`, as [`dequantise`] does. The
    /// blocks have any alignment; `dst` is 16-aligned, overlaps them nowhere, and holds
    /// [`F16`](FloatFormat::F16), [`Bf16`](FloatFormat::Bf16) or [`F32`](FloatFormat::F32).
    Dequantise {
        /// Where to read.
        src: DevicePtr,
        /// Where to write.
        dst: DevicePtr,
        /// How many numbers.
        count: u64,
        /// The format at `src`.
        from: BlockFormat,
        /// The format at `dst`.
        to: FloatFormat,
        /// Whether what is too large becomes the largest number of `to`.
        saturate: bool,
    },
    /// Adds a product of two thin matrices to a wide one, as [`patch`] does:
    /// `dst = src + up * diag(scales) * down`. Everything is aligned to its element; fastest where
    /// `columns` is a multiple of 8 and `src`, `dst` and `down` are 16-aligned. `dst` is `src`, of
    /// one format, or overlaps nothing else. `to` and `factors` are
    /// [`F16`](FloatFormat::F16), [`Bf16`](FloatFormat::Bf16) or [`F32`](FloatFormat::F32).
    Patch {
        /// Where to read the matrix, `rows x columns`.
        src: DevicePtr,
        /// Where to write the result, of the same shape.
        dst: DevicePtr,
        /// Rows of the wide matrix.
        rows: u64,
        /// Columns of the wide matrix.
        columns: u64,
        /// The format at `src`.
        from: FloatFormat,
        /// The format at `dst`.
        to: FloatFormat,
        /// The first factor, `rows x rank`.
        up: DevicePtr,
        /// The second factor, `rank x columns`.
        down: DevicePtr,
        /// What each rank is multiplied with: `rank` numbers of 32 bits.
        scales: DevicePtr,
        /// Columns of the first factor, rows of the second.
        rank: u64,
        /// How both factors are kept.
        factors: FloatFormat,
        /// Whether what is too large becomes the largest number of `to`.
        saturate: bool,
    },
    /// Keeps the stream busy for so many nanoseconds: compute time to hide copies behind.
    Busy {
        /// How long.
        ns: u64,
    },
}

/// One copy of a [`Kernel::Gather`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where to read.
    pub src: DevicePtr,
    /// Where to write.
    pub dst: DevicePtr,
    /// How much, in bytes.
    pub bytes: u64,
}

impl Kernel {
    /// The most pieces of one [`Gather`](Self::Gather): they travel as kernel parameters, of
    /// which CUDA takes 4 KiB.
    pub const MAX_PIECES: usize = 128;

    /// False when it is refused for its arguments alone, whatever memory there is.
    pub(super) fn is_sound(&self) -> bool {
        match self {
            Self::Checksum { src, bytes, out } => {
                out.0.is_multiple_of(8) && apart((*src, *bytes), (*out, 8))
            }
            Self::Fill { .. } | Self::Busy { .. } => true,
            Self::Dequantise { src, dst, count, from, to, .. } => {
                count.is_multiple_of(from.block_numbers())
                    && dst.0.is_multiple_of(16)
                    && is_wide(*to)
                    // Both ranges can be told in bytes: a block's are fewer than 4 a number.
                    && count.checked_mul(4).is_some()
                    && apart((*src, blocks_bytes(*count, *from)), (*dst, count * to.size_bytes()))
            }
            Self::Patch { .. } => self.is_sound_patch(),
            Self::Gather { pieces } => are_apart(pieces),
            Self::Cast { src, dst, count, from, to, .. } => {
                from != to
                    && src.0.is_multiple_of(from.size_bytes())
                    && dst.0.is_multiple_of(to.size_bytes())
                    // Both ranges can be told in bytes, of the larger element too.
                    && count.checked_mul(4).is_some()
                    && apart((*src, count * from.size_bytes()), (*dst, count * to.size_bytes()))
            }
        }
    }

    fn is_sound_patch(&self) -> bool {
        let Self::Patch {
            src, dst, rows, columns, from, to, up, down, scales, rank, factors, ..
        } = self
        else {
            return false;
        };
        let bytes = |a: u64, b: u64| a.checked_mul(b).is_some_and(|n| n.checked_mul(4).is_some());
        if !(bytes(*rows, *columns) && bytes(*rows, *rank) && bytes(*rank, *columns)) {
            return false;
        }
        let aligned =
            |at: &DevicePtr, format: &FloatFormat| at.0.is_multiple_of(format.size_bytes());
        let result = (*dst, rows * columns * to.size_bytes());
        let source = (*src, rows * columns * from.size_bytes());
        let others = [
            (*up, rows * rank * factors.size_bytes()),
            (*down, rank * columns * factors.size_bytes()),
            (*scales, rank * 4),
        ];
        is_wide(*to)
            && is_wide(*factors)
            && aligned(src, from)
            && aligned(dst, to)
            && aligned(up, factors)
            && aligned(down, factors)
            && scales.0.is_multiple_of(4)
            && ((src == dst && from == to) || apart(source, result))
            && others.into_iter().all(|other| apart(other, result))
    }

    /// The ranges it touches, of a kernel that [is sound](Self::is_sound); none is empty.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (DevicePtr, u64)> + '_ {
        let nothing = (DevicePtr::default(), 0);
        let two = |a, b| [a, b, nothing, nothing, nothing];
        let (ranges, pieces): (_, &[Piece]) = match self {
            Self::Checksum { src, bytes, out } => (two((*src, *bytes), (*out, 8)), &[]),
            Self::Fill { dst, bytes, .. } => (two((*dst, *bytes), nothing), &[]),
            Self::Gather { pieces } => ([nothing; 5], pieces),
            Self::Cast { src, dst, count, from, to, .. } => {
                let bytes = |format: &FloatFormat| count.saturating_mul(format.size_bytes());
                (two((*src, bytes(from)), (*dst, bytes(to))), &[])
            }
            Self::Dequantise { src, dst, count, from, to, .. } => {
                let result = count.saturating_mul(to.size_bytes());
                (two((*src, blocks_bytes(*count, *from)), (*dst, result)), &[])
            }
            Self::Patch {
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
                ..
            } => {
                let bytes = |a: &u64, b: &u64, format: &FloatFormat| {
                    a.saturating_mul(*b).saturating_mul(format.size_bytes())
                };
                let ranges = [
                    (*src, bytes(rows, columns, from)),
                    (*dst, bytes(rows, columns, to)),
                    (*up, bytes(rows, rank, factors)),
                    (*down, bytes(rank, columns, factors)),
                    (*scales, rank.saturating_mul(4)),
                ];
                // With nothing to patch nothing is read.
                (if ranges[1].1 == 0 { [nothing; 5] } else { ranges }, &[])
            }
            Self::Busy { .. } => ([nothing; 5], &[]),
        };
        let of_pieces =
            pieces.iter().flat_map(|piece| [(piece.src, piece.bytes), (piece.dst, piece.bytes)]);
        ranges.into_iter().chain(of_pieces).filter(|&(_, bytes)| bytes > 0)
    }

    /// Bytes it reads and writes, its parameters aside.
    pub(super) fn bytes_moved(&self) -> u64 {
        let result = u64::from(matches!(self, Self::Checksum { .. })) * 8;
        let touched = self.touched().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(bytes));
        touched - result
    }
}

/// Whether it is a format of results that are worked out.
fn is_wide(format: FloatFormat) -> bool {
    matches!(format, FloatFormat::F16 | FloatFormat::Bf16 | FloatFormat::F32)
}

/// Bytes of `count` numbers in whole blocks.
fn blocks_bytes(count: u64, format: BlockFormat) -> u64 {
    (count / format.block_numbers()).saturating_mul(format.block_bytes())
}

fn apart(a: (DevicePtr, u64), b: (DevicePtr, u64)) -> bool {
    let end = |(at, bytes): (DevicePtr, u64)| at.0.saturating_add(bytes);
    a.1 == 0 || b.1 == 0 || end(a) <= b.0.0 || end(b) <= a.0.0
}

/// Whether the pieces are few enough and no destination overlaps anything else.
fn are_apart(pieces: &[Piece]) -> bool {
    if pieces.len() > Kernel::MAX_PIECES {
        return false;
    }
    let mut written: Vec<(DevicePtr, u64)> =
        pieces.iter().filter(|p| p.bytes > 0).map(|p| (p.dst, p.bytes)).collect();
    written.sort_unstable();
    let sources_apart = pieces.iter().all(|piece| {
        // The destinations lie in a row: only the last that begins before the source's end can
        // reach into it, or the one before when they overlap each other, which is refused.
        let end = piece.src.0.saturating_add(piece.bytes);
        let before = written.partition_point(|(at, _)| at.0 < end);
        before.checked_sub(1).is_none_or(|last| apart(written[last], (piece.src, piece.bytes)))
    });
    sources_apart && written.windows(2).all(|pair| apart(pair[0], pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(src: u64, dst: u64, bytes: u64) -> Piece {
        Piece { src: DevicePtr(src), dst: DevicePtr(dst), bytes }
    }

    fn is_sound(pieces: &[Piece]) -> bool {
        Kernel::Gather { pieces: pieces.to_vec() }.is_sound()
    }

    #[test]
    fn pieces_may_share_sources_and_nothing_else() {
        assert!(is_sound(&[]));
        assert!(is_sound(&[piece(0, 100, 10), piece(0, 110, 10), piece(90, 120, 10)]));
        assert!(!is_sound(&[piece(0, 100, 10), piece(0, 109, 10)]), "two destinations");
        assert!(!is_sound(&[piece(0, 5, 10)]), "its own source");
        assert!(!is_sound(&[piece(0, 100, 10), piece(105, 200, 1)]), "another's source");
        assert!(!is_sound(&[piece(0, 100, 50), piece(90, 300, 20)]), "a source that begins before");
        assert!(!is_sound(&[piece(0, 100, 50), piece(140, 300, 20)]), "a source that ends after");
        assert!(is_sound(&[piece(0, 100, 50), piece(120, 130, 0)]), "nothing overlaps nothing");
        assert!(!is_sound(&vec![piece(0, 0, 0); Kernel::MAX_PIECES + 1]));
    }

    #[test]
    fn what_is_touched_is_what_is_moved() {
        let gather = Kernel::Gather { pieces: vec![piece(0, 100, 10), piece(3, 200, 0)] };
        let ranges: Vec<_> = gather.touched().collect();
        assert_eq!(ranges, [(DevicePtr(0), 10), (DevicePtr(100), 10)]);
        assert_eq!(gather.bytes_moved(), 20);
        let (src, dst) = (DevicePtr(0), DevicePtr(4096));
        let cast = |count| Kernel::Cast {
            src,
            dst,
            count,
            from: FloatFormat::F8E4M3,
            to: FloatFormat::F32,
            saturate: false,
        };
        assert_eq!(cast(100).bytes_moved(), 500);
        assert!(cast(4096).is_sound());
        assert!(!cast(4097).is_sound(), "the ranges overlap");
        assert!(!cast(u64::MAX).is_sound());
        assert_eq!(Kernel::Checksum { src, bytes: 7, out: dst }.bytes_moved(), 7);
        assert!(!Kernel::Checksum { src, bytes: 9, out: src }.is_sound());
    }
}
