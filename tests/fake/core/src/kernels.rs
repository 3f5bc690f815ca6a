//! What Riverbed's kernels do, read from their one parameter, a struct of 64-bit words, as
//! `kernels/riverbed.cu` has them.

use std::time::Duration;

use riverbed::device::{BlockFormat, FloatFormat, LowRank, cast, checksum, dequantise, patch};

use crate::abi::In;
use crate::entry::{call_name, misuse};
use crate::fake::Fake;
use crate::range::{Owner, Range, Touch};
use crate::status::{Answer, ILLEGAL_ADDRESS, INVALID_HANDLE, INVALID_VALUE, NOT_FOUND};

/// Pieces a gather has room for, and the words of one.
const PIECES: usize = 128;
const PIECE_WORDS: usize = 3;

/// A kernel, decoded.
enum Work {
    ChecksumStart { out: Range, bytes: u64 },
    Checksum { out: Range, src: Option<Range>, bytes: u64 },
    Fill { dst: Range, value: u8 },
    Gather(Vec<(Range, Range)>),
    Cast(Cast),
    Dequantise(Range, Range, BlockFormat, FloatFormat, bool),
    Patch(Patch),
    Busy(Duration),
}

/// A conversion of floats.
struct Cast {
    src: Range,
    dst: Range,
    from: FloatFormat,
    to: FloatFormat,
    saturate: bool,
}

/// A product of two thin matrices, to be added to a wide one.
struct Patch {
    src: Range,
    dst: Range,
    up: Range,
    down: Range,
    scales: Range,
    columns: u64,
    formats: [FloatFormat; 2],
    factors: FloatFormat,
    saturate: bool,
}

fn words_of(function: &str) -> Option<usize> {
    Some(match function {
        "riverbed_checksum_start" => 2,
        "riverbed_checksum" | "riverbed_fill" => 3,
        "riverbed_gather" => 2 + PIECES * PIECE_WORDS,
        "riverbed_cast" | "riverbed_dequantise" => 6,
        "riverbed_patch" | "riverbed_patch_singly" => 12,
        "riverbed_busy" => 1,
        _ => return None,
    })
}

impl Fake {
    /// Launches a function with one parameter.
    pub fn launch(
        &'static self,
        function: u64,
        grid: [u32; 3],
        block: [u32; 3],
        stream: u64,
        parameters: In<In<u64>>,
    ) -> Answer {
        let stream = self.stream_here(stream)?;
        let function = self.function_of(function)?;
        if function.gpu != stream.gpu {
            return Err(misuse("wrong_context", "a function of another device", INVALID_HANDLE));
        }
        let threads: u64 = block.iter().map(|&side| u64::from(side)).product();
        if grid.contains(&0) || threads == 0 || threads > 1024 {
            let words = format!("grid {grid:?}, block {block:?}");
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        let count = words_of(&function.name).ok_or(NOT_FOUND)?;
        let words = parameters.get()?.list(count)?;
        let work = self.decode(&function.name, &words, stream.gpu)?;
        for range in work.ranges() {
            if range.owner == Owner::Pageable {
                let words = format!("the kernel touches {:#x}, no memory of the driver", range.at);
                return Err(self.illegal_address(words));
            }
            self.check_pool_order(&stream, range)?;
        }
        let call = call_name();
        self.enqueue(&stream, move || self.touch(call, &work.ranges(), || work.run()))
    }

    /// A kernel that strays takes the device with it.
    fn illegal_address(&self, words: String) -> u32 {
        misuse("outside_live_memory", words, 0);
        self.faults().lose(ILLEGAL_ADDRESS);
        ILLEGAL_ADDRESS
    }

    fn decode(&self, name: &str, words: &[u64], gpu: usize) -> Answer<Work> {
        let range = |at, bytes, touch| {
            self.range(at, bytes, gpu, touch).inspect_err(|_| self.faults().lose(ILLEGAL_ADDRESS))
        };
        let word = |at: u64| {
            if !at.is_multiple_of(8) {
                return Err(self.illegal_address(format!("{at:#x} is not aligned to 8")));
            }
            range(at, 8, Touch::Write)
        };
        let format = |number: u64| {
            FloatFormat::ALL.get(number as usize).copied().ok_or_else(|| {
                misuse("invalid_argument", format!("format {number}"), INVALID_VALUE)
            })
        };
        Ok(match (name, words) {
            ("riverbed_checksum_start", &[out, bytes]) => {
                Work::ChecksumStart { out: word(out)?, bytes }
            }
            ("riverbed_checksum", &[out, bytes, src]) => {
                let src = (bytes > 0).then(|| range(src, bytes, Touch::Read)).transpose()?;
                Work::Checksum { out: word(out)?, src, bytes }
            }
            ("riverbed_fill", &[dst, bytes, value]) => {
                let [byte, rest @ ..] = value.to_le_bytes();
                if rest.iter().any(|&other| other != byte) {
                    misuse("invalid_argument", format!("{value:#x} is not one byte 8 times"), 0);
                }
                Work::Fill { dst: range(dst, bytes, Touch::Write)?, value: byte }
            }
            ("riverbed_gather", [count, tile_bytes, pieces @ ..]) => {
                if *count as usize > PIECES || *tile_bytes == 0 {
                    let words = format!("{count} pieces in tiles of {tile_bytes}");
                    return Err(misuse("invalid_argument", words, INVALID_VALUE));
                }
                let mut begin = 0;
                let mut copies = Vec::new();
                for piece in pieces.chunks_exact(PIECE_WORDS).take(*count as usize) {
                    let bytes = piece[2].checked_sub(begin).ok_or_else(|| {
                        misuse("invalid_argument", "ends of pieces fall", INVALID_VALUE)
                    })?;
                    begin = piece[2];
                    let src = range(piece[0], bytes, Touch::Read)?;
                    copies.push((src, range(piece[1], bytes, Touch::Write)?));
                }
                Work::Gather(copies)
            }
            ("riverbed_cast", &[src, dst, count, from, to, saturate]) => {
                let (from, to) = (format(from)?, format(to)?);
                let bytes = |format: FloatFormat| count.saturating_mul(format.size_bytes());
                let src = range(src, bytes(from), Touch::Read)?;
                let dst = range(dst, bytes(to), Touch::Write)?;
                Work::Cast(Cast { src, dst, from, to, saturate: saturate != 0 })
            }
            ("riverbed_dequantise", &[src, dst, count, from, to, saturate]) => {
                let from = BlockFormat::ALL.get(from as usize).copied().ok_or_else(|| {
                    misuse("invalid_argument", format!("block format {from}"), INVALID_VALUE)
                })?;
                let to = format(to)?;
                let blocks = count / from.block_numbers() * from.block_bytes();
                let src = range(src, blocks, Touch::Read)?;
                let dst = range(dst, count * to.size_bytes(), Touch::Write)?;
                Work::Dequantise(src, dst, from, to, saturate != 0)
            }
            (
                "riverbed_patch" | "riverbed_patch_singly",
                &[src, dst, rows, columns, from, to, up, down, scales, rank, factors, saturate],
            ) => {
                if name == "riverbed_patch" && (columns % 8 != 0 || (src | dst | down) % 16 != 0) {
                    return Err(self.illegal_address(format!("{columns} columns at {dst:#x}")));
                }
                let (from, to, factors) = (format(from)?, format(to)?, format(factors)?);
                let (count, size) = (rows * columns, factors.size_bytes());
                Work::Patch(Patch {
                    src: range(src, count * from.size_bytes(), Touch::Read)?,
                    dst: range(dst, count * to.size_bytes(), Touch::Write)?,
                    up: range(up, rows * rank * size, Touch::Read)?,
                    down: range(down, rank * columns * size, Touch::Read)?,
                    scales: range(scales, rank * 4, Touch::Read)?,
                    columns,
                    formats: [from, to],
                    factors,
                    saturate: saturate != 0,
                })
            }
            // CUDA's clock counts nanoseconds, HIP's at the rate its attribute tells.
            ("riverbed_busy", &[ticks]) => Work::Busy(Duration::from_nanos(match self.vendor {
                crate::Vendor::Cuda => ticks,
                crate::Vendor::Hip => ticks.saturating_mul(10),
            })),
            _ => return Err(NOT_FOUND),
        })
    }
}

impl Work {
    fn ranges(&self) -> Vec<&Range> {
        match self {
            Self::ChecksumStart { out, .. } => vec![out],
            Self::Checksum { out, src, .. } => src.iter().chain([out]).collect(),
            Self::Fill { dst, .. } => vec![dst],
            Self::Gather(copies) => copies.iter().flat_map(|(src, dst)| [src, dst]).collect(),
            Self::Cast(cast) => vec![&cast.src, &cast.dst],
            Self::Dequantise(src, dst, ..) => vec![src, dst],
            // In place it is one range.
            Self::Patch(patch) if patch.src.at == patch.dst.at => {
                vec![&patch.dst, &patch.up, &patch.down, &patch.scales]
            }
            Self::Patch(patch) => {
                vec![&patch.src, &patch.dst, &patch.up, &patch.down, &patch.scales]
            }
            Self::Busy(_) => Vec::new(),
        }
    }

    /// Does it; the ranges are alive meanwhile.
    fn run(&self) {
        match self {
            Self::ChecksumStart { out, bytes } => put(out, mix(*bytes)),
            Self::Checksum { out, src, bytes } => {
                let data = src.as_ref().map_or(&[][..], shown);
                let of_words = checksum(data).wrapping_sub(mix(*bytes));
                put(out, take(out).wrapping_add(of_words));
            }
            Self::Fill { dst, value } => {
                // SAFETY: the range is alive while this runs.
                unsafe {
                    std::ptr::write_bytes(dst.at as *mut u8, *value, dst.bytes as usize);
                }
            }
            Self::Gather(copies) => {
                for (src, dst) in copies {
                    // SAFETY: both are alive while this runs; a kernel's pieces may overlap only
                    // by the caller's mistake, which `copy` bears.
                    unsafe {
                        std::ptr::copy(src.at as *const u8, dst.at as *mut u8, src.bytes as usize);
                    }
                }
            }
            Self::Cast(Cast { src, dst, from, to, saturate }) => {
                cast(shown(src), written(dst), *from, *to, *saturate);
            }
            Self::Dequantise(src, dst, from, to, saturate) => {
                dequantise(shown(src), written(dst), *from, *to, *saturate);
            }
            Self::Patch(of) => {
                let factors = LowRank {
                    up: shown(&of.up),
                    down: shown(&of.down),
                    scales: shown(&of.scales),
                    factors: of.factors,
                    columns: of.columns,
                };
                let src = (of.src.at != of.dst.at).then(|| shown(&of.src));
                patch(src, written(&of.dst), &factors, of.formats, of.saturate);
            }
            Self::Busy(time) => std::thread::sleep(*time),
        }
    }
}

fn shown(range: &Range) -> &[u8] {
    // SAFETY: the range is alive while a kernel runs, and the caller lets nothing write it.
    unsafe { std::slice::from_raw_parts(range.at as *const u8, range.bytes as usize) }
}

#[expect(clippy::mut_from_ref, reason = "a range is an address")]
fn written(range: &Range) -> &mut [u8] {
    // SAFETY: the range is alive while a kernel runs and the caller lets nothing else touch it.
    unsafe { std::slice::from_raw_parts_mut(range.at as *mut u8, range.bytes as usize) }
}

fn put(out: &Range, value: u64) {
    // SAFETY: the word is alive while a kernel runs, and aligned.
    unsafe { (out.at as *mut u64).write(value) };
}

fn take(out: &Range) -> u64 {
    // SAFETY: as in `put`.
    unsafe { (out.at as *const u64).read() }
}

/// The mixing step of the checksum, as its definition has it.
fn mix(x: u64) -> u64 {
    let y = (x ^ (x >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25);
    y ^ (y >> 29)
}
