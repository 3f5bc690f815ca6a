//! The device code itself, compiled for the processor (`kernels/emulate.cpp`) and held against
//! the references, through the same launches a GPU gets. Skipped where there is no C++ compiler.
//!
//! Built so that a misaligned access, a shift too far or an overflow ends the process; memory is
//! followed and preceded by pages that cannot be touched.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use libloading::Library;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::{BlockFormat, FloatFormat, Kernel, LowRank, Piece, cast, checksum, dequantise, patch};
use crate::base::lock;
use crate::device::DevicePtr;

const PAGE: usize = 1 << 16;

/// `riverbed_emulate` of `kernels/emulate.cpp`.
type Emulate = unsafe extern "C" fn(*const c_char, u32, u32, *const c_void, u64) -> c_int;

/// The emulator, which runs one launch at a time; `None` without a compiler.
fn emulator() -> Option<&'static Mutex<Library>> {
    static LIBRARY: OnceLock<Option<Mutex<Library>>> = OnceLock::new();
    LIBRARY.get_or_init(|| build().map(Mutex::new)).as_ref()
}

fn build() -> Option<Library> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("emulate.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/emulate.cpp");
    for compiler in ["c++", "g++", "clang++"] {
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-std=c++17", "-fno-strict-aliasing"])
            .arg("-ffp-contract=off")
            .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"])
            .arg(&source)
            .arg("-o")
            .arg(&library)
            .output();
        let Ok(output) = built else { continue };
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{compiler}: {complaint}");
        // SAFETY: the library was built just now and has no initializers.
        return Some(unsafe { Library::new(&library) }.unwrap());
    }
    let _ = writeln!(std::io::stderr(), "skipped: no C++ compiler to build the kernels with");
    None
}

/// Runs a kernel on the processor. False where that is skipped.
fn run(kernel: &Kernel) -> bool {
    let Some(library) = emulator() else { return false };
    assert!(kernel.is_sound(), "{kernel:?}");
    let library = lock(library);
    // SAFETY: the symbol has this type.
    let emulate = unsafe { library.get::<Emulate>(c"riverbed_emulate") }.unwrap();
    for launch in kernel.launches(None) {
        let function: &CStr = launch.function;
        let bytes = size_of_val(&*launch.args) as u64;
        // SAFETY: the tests keep all memory the kernel names valid and to themselves; the
        // emulator is locked.
        let result = unsafe {
            emulate(
                function.as_ptr(),
                launch.grid,
                launch.block,
                launch.args.as_ptr().cast(),
                bytes,
            )
        };
        assert_eq!(result, 0, "{function:?}");
    }
    true
}

/// Memory between pages that cannot be touched.
struct Fenced {
    start: *mut u8,
    bytes: usize,
}

impl Fenced {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(PAGE);
        // SAFETY: a mapping of its own, where the system likes.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes + 2 * PAGE,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )
        };
        let start = start.unwrap().cast::<u8>().wrapping_add(PAGE);
        // SAFETY: inside of what was just mapped.
        unsafe { mprotect(start.cast(), bytes, MprotectFlags::READ | MprotectFlags::WRITE) }
            .unwrap();
        Self { start, bytes }
    }

    fn slice(&mut self) -> &mut [u8] {
        // SAFETY: valid from `new` to `drop`; kernels run while no slice is held.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    fn at(&self, offset: usize) -> DevicePtr {
        DevicePtr(self.start.wrapping_add(offset) as u64)
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nobody uses any more.
        let _ = unsafe { munmap(self.start.wrapping_sub(PAGE).cast(), self.bytes + 2 * PAGE) };
    }
}

/// A sequence of numbers that looks random and is the same every time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.next() as u8);
    }
}

/// Every place of `len` bytes that lies apart from all others modulo 16, and flush at the end.
fn places(memory: &Fenced, len: usize) -> impl Iterator<Item = usize> + use<> {
    (0..16).chain([memory.bytes - len])
}

#[test]
fn checksums_are_those_of_the_reference() {
    let mut memory = Fenced::new(5 * PAGE);
    let mut sum = Fenced::new(8);
    Numbers(1).fill(memory.slice());
    let long = [255, 256, 4095, 4096, 4097, 8200, 4 * PAGE + 3];
    for len in (0..34).chain(long) {
        for at in places(&memory, len) {
            let kernel = Kernel::Checksum { src: memory.at(at), bytes: len as u64, out: sum.at(0) };
            if !run(&kernel) {
                return;
            }
            let expected = checksum(&memory.slice()[at..at + len]);
            assert_eq!(sum.slice()[..8], expected.to_le_bytes(), "{len} bytes from {at}");
        }
    }
}

#[test]
fn fills_write_their_range_and_no_more() {
    let mut memory = Fenced::new(5 * PAGE);
    let long = [255, 4095, 4096, 4097, 4 * PAGE + 3];
    for len in (0..50).chain(long) {
        for at in places(&memory, len) {
            let value = (len + at) as u8 | 1;
            memory.slice().fill(0);
            let kernel = Kernel::Fill { dst: memory.at(at), bytes: len as u64, value };
            if !run(&kernel) {
                return;
            }
            let found = memory.slice();
            assert!(found[at..at + len].iter().all(|&byte| byte == value), "{len} from {at}");
            let written = found.iter().filter(|&&byte| byte != 0).count();
            assert_eq!(written, len, "{len} bytes from {at}");
        }
    }
}

/// Runs a gather of (source, destination, length) and compares all of the destination.
fn check_gather(src: &mut Fenced, dst: &mut Fenced, pieces: &[(usize, usize, usize)]) -> bool {
    dst.slice().fill(0xee);
    let mut expected = dst.slice().to_vec();
    for &(from, to, len) in pieces {
        expected[to..to + len].copy_from_slice(&src.slice()[from..from + len]);
    }
    let piece = |&(from, to, len): &(usize, usize, usize)| Piece {
        src: src.at(from),
        dst: dst.at(to),
        bytes: len as u64,
    };
    let ran = run(&Kernel::Gather { pieces: pieces.iter().map(piece).collect() });
    assert!(!ran || *dst.slice() == expected, "{pieces:?}");
    ran
}

#[test]
fn pieces_of_any_alignment_arrive_whole() {
    let (mut src, mut dst) = (Fenced::new(PAGE), Fenced::new(PAGE));
    Numbers(2).fill(src.slice());
    for len in [1, 2, 7, 8, 15, 16, 31, 32, 33, 47, 64, 100, 1025, 9001, 20_000] {
        for from in places(&src, len) {
            for to in places(&dst, len) {
                if !check_gather(&mut src, &mut dst, &[(from, to, len)]) {
                    return;
                }
            }
        }
    }
}

#[test]
fn many_pieces_arrive_whole() {
    let (mut src, mut dst) = (Fenced::new(16 * PAGE), Fenced::new(16 * PAGE));
    let mut numbers = Numbers(3);
    numbers.fill(src.slice());
    for round in 0..60 {
        let longest = [8, 40, 300, 3000, 8000][round % 5];
        let count = 1 + numbers.below(Kernel::MAX_PIECES as u64);
        let mut pieces = Vec::new();
        let mut to = 0;
        for _ in 0..count {
            let len = numbers.below(longest) as usize;
            let from = numbers.below((src.bytes - len) as u64) as usize;
            to += numbers.below(20) as usize;
            pieces.push((from, to, len));
            to += len;
        }
        if !check_gather(&mut src, &mut dst, &pieces) {
            return;
        }
    }
}

/// Casts `codes` and compares; the codes lie `shifts` elements behind an aligned place, and
/// flush at the end where a shift is `None`.
fn check_cast(
    codes: &[u8],
    formats: [FloatFormat; 2],
    saturate: bool,
    shifts: [Option<usize>; 2],
    memory: &mut [Fenced; 2],
) -> bool {
    let [from, to] = formats;
    let sizes = formats.map(|format| format.size_bytes() as usize);
    let count = codes.len() / sizes[0];
    let mut expected = vec![0; count * sizes[1]];
    cast(codes, &mut expected, from, to, saturate);
    let [src, dst] = memory;
    let place = |memory: &Fenced, size: usize, shift: Option<usize>| {
        shift.map_or(memory.bytes - count * size, |shift| shift * size)
    };
    let (src_at, dst_at) = (place(src, sizes[0], shifts[0]), place(dst, sizes[1], shifts[1]));
    src.slice()[src_at..src_at + codes.len()].copy_from_slice(codes);
    let mut whole = vec![0xee; dst.bytes];
    dst.slice().fill(0xee);
    whole[dst_at..dst_at + expected.len()].copy_from_slice(&expected);
    let kernel = Kernel::Cast {
        src: src.at(src_at),
        dst: dst.at(dst_at),
        count: count as u64,
        from,
        to,
        saturate,
    };
    let ran = run(&kernel);
    if ran && *dst.slice() != whole {
        let found = &dst.slice()[dst_at..dst_at + expected.len()];
        let wrong = (0..count)
            .find(|i| found[i * sizes[1]..][..sizes[1]] != expected[i * sizes[1]..][..sizes[1]]);
        let code = wrong.map(|i| &codes[i * sizes[0]..][..sizes[0]]);
        panic!("{formats:?}, saturate {saturate}, at {shifts:?}: {wrong:?} of {count}: {code:x?}");
    }
    ran
}

/// All pairs of formats that can be cast.
fn pairs() -> impl Iterator<Item = [FloatFormat; 2]> {
    let all = FloatFormat::ALL;
    all.into_iter().flat_map(move |from| all.map(|to| [from, to])).filter(|[from, to]| from != to)
}

/// All codes of a format of up to 16 bits; of `F32`, all exponents with the fractions around
/// which rounding turns, and some more.
fn codes(format: FloatFormat) -> Vec<u8> {
    let mut numbers = Numbers(4);
    match format.size_bytes() {
        1 => (0..=u8::MAX).collect(),
        2 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        _ => {
            let bits = (0..23).flat_map(|bit| [1_u32 << bit, (1 << bit) - 1, (1 << bit) + 1]);
            let ends = bits.flat_map(|low| [low, low | 0x0040_0000, low | 0x0060_0000, !low]);
            let fractions: Vec<u32> = ends.chain([0]).map(|code| code & 0x007f_ffff).collect();
            let edges =
                (0..512_u32).flat_map(|high| fractions.iter().map(move |low| high << 23 | low));
            let some = (0..100_000).map(|_| numbers.next() as u32);
            edges.chain(some).flat_map(u32::to_le_bytes).collect()
        }
    }
}

#[test]
fn every_code_becomes_what_the_reference_makes_of_it() {
    let mut memory = [Fenced::new(1 << 20), Fenced::new(1 << 20)];
    for formats in pairs() {
        let codes = codes(formats[0]);
        for saturate in [false, true] {
            if !check_cast(&codes, formats, saturate, [Some(0), None], &mut memory) {
                return;
            }
        }
    }
}

#[test]
fn casts_of_any_length_and_alignment_write_their_range_and_no_more() {
    let mut memory = [Fenced::new(PAGE), Fenced::new(PAGE)];
    let mut codes = vec![0; 5000 * 4];
    Numbers(5).fill(&mut codes);
    for formats in pairs() {
        let size = formats[0].size_bytes() as usize;
        for count in [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 100, 5000] {
            let shifts = [None, Some(0), Some(1), Some(2), Some(3), Some(5), Some(8), Some(13)];
            for (src, dst) in shifts.iter().flat_map(|src| shifts.map(|dst| (*src, dst))) {
                let codes = &codes[..count * size];
                if !check_cast(codes, formats, false, [src, dst], &mut memory) {
                    return;
                }
            }
        }
    }
}

const RESULTS: [FloatFormat; 3] = [FloatFormat::F16, FloatFormat::Bf16, FloatFormat::F32];

#[test]
fn dequantised_numbers_are_those_of_the_reference() {
    let (mut src, mut dst) = (Fenced::new(4 * PAGE), Fenced::new(4 * PAGE));
    let mut numbers = Numbers(6);
    for from in BlockFormat::ALL {
        for (to, blocks) in RESULTS.into_iter().flat_map(|to| [0, 1, 3, 40].map(|n| (to, n))) {
            let (read, count) = (blocks * from.block_bytes(), blocks * from.block_numbers());
            for at in places(&src, read as usize) {
                // All bytes: also scales that are infinite or no numbers.
                numbers.fill(&mut src.slice()[at..at + read as usize]);
                let saturate = at % 2 == 0;
                let mut whole = vec![0xee; dst.bytes];
                dst.slice().fill(0xee);
                let written = 48..48 + (count * to.size_bytes()) as usize;
                let blocks = &src.slice()[at..at + read as usize];
                dequantise(blocks, &mut whole[written], from, to, saturate);
                let (src, place) = (src.at(at), dst.at(48));
                let kernel = Kernel::Dequantise { src, dst: place, count, from, to, saturate };
                if !run(&kernel) {
                    return;
                }
                assert!(*dst.slice() == whole, "{kernel:?}");
            }
        }
    }
}

/// Random numbers of a size that weights have, in a format; now and then anything at all.
fn weights(numbers: &mut Numbers, count: u64, format: FloatFormat) -> Vec<u8> {
    let mut codes = vec![0; (count * format.size_bytes()) as usize];
    for code in codes.chunks_exact_mut(format.size_bytes() as usize) {
        let number = (numbers.below(2001) as f32 - 1000.0) / 700.0;
        match numbers.below(100) {
            0 => numbers.fill(code),
            _ if format == FloatFormat::F32 => code.copy_from_slice(&number.to_le_bytes()),
            _ => cast(&number.to_le_bytes(), code, FloatFormat::F32, format, true),
        }
    }
    codes
}

/// Patches a matrix of random numbers `shift` elements behind an aligned place.
fn check_patch(
    [rows, columns, rank]: [u64; 3],
    [from, to, factors]: [FloatFormat; 3],
    shift: u64,
    memory: &mut [Fenced; 5],
) -> bool {
    let mut numbers = Numbers(rows << 32 | columns << 16 | rank);
    let source = weights(&mut numbers, rows * columns, from);
    let up = weights(&mut numbers, rows * rank, factors);
    let down = weights(&mut numbers, rank * columns, factors);
    let mut scales = weights(&mut numbers, rank, FloatFormat::F32);
    // Strengths of 0 among them.
    scales.chunks_exact_mut(4).skip(1).step_by(3).for_each(|scale| scale.fill(0));
    let formats = [from, to, factors, factors, FloatFormat::F32];
    let at = formats.map(|format| (shift * format.size_bytes()) as usize);
    let contents = [&source[..], &[], &up, &down, &scales];
    for ((memory, bytes), at) in memory.iter_mut().zip(contents).zip(at) {
        memory.slice().fill(0xee);
        memory.slice()[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let mut whole = vec![0xee; memory[1].bytes];
    let written = at[1]..at[1] + (rows * columns * to.size_bytes()) as usize;
    let low_rank = LowRank { up: &up, down: &down, scales: &scales, factors, columns };
    patch(Some(&source), &mut whole[written.clone()], &low_rank, [from, to], true);
    let places: Vec<DevicePtr> = memory.iter().zip(at).map(|(memory, at)| memory.at(at)).collect();
    let [src, dst, up, down, scales] = places[..] else { return false };
    let saturate = true;
    let kernel = Kernel::Patch {
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
    };
    let ran = run(&kernel);
    assert!(!ran || *memory[1].slice() == whole, "{kernel:?}");
    if ran && from == to {
        // In place.
        memory[1].slice()[written.clone()].copy_from_slice(&source);
        let kernel = Kernel::Patch {
            src: dst,
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
        };
        run(&kernel);
        assert!(memory[1].slice()[written.clone()] == whole[written], "in place: {kernel:?}");
    }
    ran
}

#[test]
fn patched_numbers_are_those_of_the_reference() {
    let mut memory = [(); 5].map(|()| Fenced::new(2 * PAGE));
    let shapes = [[1, 8, 1], [2, 16, 4], [7, 72, 3], [33, 24, 16], [5, 9, 2], [3, 1, 5], [4, 8, 0]];
    for shape in shapes.into_iter().chain([[0, 8, 2], [8, 0, 2], [130, 200, 4]]) {
        for from in FloatFormat::ALL {
            for (to, factors) in RESULTS.into_iter().flat_map(|to| RESULTS.map(|f| (to, f))) {
                for shift in [0, 1] {
                    if !check_patch(shape, [from, to, factors], shift, &mut memory) {
                        return;
                    }
                }
            }
        }
    }
}

#[test]
fn busy_comes_to_its_end() {
    run(&Kernel::Busy { ns: 1000 });
}
