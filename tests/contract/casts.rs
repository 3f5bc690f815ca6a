//! Casts and gathers: bit for bit what the reference says, and nothing beyond their ranges.

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr, FloatFormat, Kernel, Piece, Stream, cast};

use crate::support::{Memory, download, pattern, status, stream, upload};

/// All pairs of formats that can be cast.
fn pairs() -> impl Iterator<Item = (FloatFormat, FloatFormat)> {
    let all = FloatFormat::ALL;
    all.into_iter().flat_map(move |from| all.map(|to| (from, to))).filter(|(from, to)| from != to)
}

/// All codes of a small format; of `F32` all exponents, with fractions around which rounding
/// to any of the others turns.
fn codes(format: FloatFormat) -> Vec<u8> {
    match format.size_bytes() {
        1 => (0..=u8::MAX).collect(),
        2 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        _ => {
            let ends = (0..23).flat_map(|bit| [(1_u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
            let fractions: Vec<u32> = ends.flat_map(|low| [low, !low & 0x007f_ffff]).collect();
            (0..512_u32)
                .flat_map(|high| fractions.iter().map(move |low| high << 23 | low))
                .flat_map(u32::to_le_bytes)
                .collect()
        }
    }
}

fn launch(device: &Device, stream: &Stream, kernel: &Kernel) {
    // SAFETY: the callers keep the memory past `synchronize` and use it on this stream alone.
    unsafe { device.driver().launch(stream.id(), kernel) }.unwrap();
}

pub(crate) fn casts_are_those_of_the_reference(device: &Device) {
    let stream = stream(device);
    let (source, result) = (Memory::new(device, 1 << 19), Memory::new(device, 1 << 19));
    for (from, to) in pairs() {
        let codes = codes(from);
        upload(&stream, source.ptr, &codes);
        let count = codes.len() as u64 / from.size_bytes();
        for saturate in [false, true] {
            let (src, dst) = (source.ptr, result.ptr);
            launch(device, &stream, &Kernel::Cast { src, dst, count, from, to, saturate });
            let mut expected = vec![0; (count * to.size_bytes()) as usize];
            cast(&codes, &mut expected, from, to, saturate);
            let found = download(&stream, dst, expected.len());
            assert!(found == expected, "{from:?} to {to:?}, saturate {saturate}");
        }
    }
}

pub(crate) fn a_cast_writes_its_range_and_no_more(device: &Device) {
    let stream = stream(device);
    let (source, result) = (Memory::new(device, 1 << 16), Memory::new(device, 1 << 16));
    let bytes = pattern(1 << 16, 3);
    let before = pattern(1 << 16, 4);
    upload(&stream, source.ptr, &bytes);
    for (from, to) in pairs() {
        for (first, count) in [(0, 1), (1, 7), (3, 8), (5, 100), (8, 4096), (9, 4111), (2, 0)] {
            upload(&stream, result.ptr, &before);
            let at = |format: FloatFormat, numbers: usize| numbers * format.size_bytes() as usize;
            // Both ends begin at different distances from an aligned address.
            let (read, written) = (at(from, first), at(to, 2 * first));
            let kernel = Kernel::Cast {
                src: source.ptr.offset(read as u64),
                dst: result.ptr.offset(written as u64),
                count: count as u64,
                from,
                to,
                saturate: true,
            };
            launch(device, &stream, &kernel);
            let mut expected = before.clone();
            let written = &mut expected[written..written + at(to, count)];
            cast(&bytes[read..read + at(from, count)], written, from, to, true);
            let found = download(&stream, result.ptr, expected.len());
            assert!(found == expected, "{kernel:?}");
        }
    }
}

pub(crate) fn gathered_pieces_arrive_whole(device: &Device) {
    let stream = stream(device);
    let (source, result) = (Memory::new(device, 1 << 20), Memory::new(device, 1 << 20));
    let bytes = pattern(1 << 20, 5);
    upload(&stream, source.ptr, &bytes);
    for longest in [1, 9, 40, 700, 8000] {
        let mut expected = pattern(1 << 20, 6);
        upload(&stream, result.ptr, &expected);
        let mut pieces = Vec::new();
        let mut to = 1;
        for i in 0..Kernel::MAX_PIECES {
            // Sources overlap; some pieces are empty; gaps between destinations stay.
            let (from, len) = (i * 7919 % 500_000, i * 31 % (longest + 1));
            expected[to..to + len].copy_from_slice(&bytes[from..from + len]);
            pieces.push(Piece {
                src: source.ptr.offset(from as u64),
                dst: result.ptr.offset(to as u64),
                bytes: len as u64,
            });
            to += len + i % 4;
        }
        launch(device, &stream, &Kernel::Gather { pieces });
        let found = download(&stream, result.ptr, expected.len());
        assert!(found == expected, "pieces of up to {longest} bytes");
    }
}

pub(crate) fn casts_and_gathers_of_nothing_touch_nothing(device: &Device) {
    let stream = stream(device);
    let nowhere = DevicePtr::default();
    let empty = Piece { src: nowhere, dst: nowhere, bytes: 0 };
    launch(device, &stream, &Kernel::Gather { pieces: Vec::new() });
    launch(device, &stream, &Kernel::Gather { pieces: vec![empty; 2] });
    for (from, to) in pairs() {
        let (src, dst) = (nowhere, nowhere);
        launch(device, &stream, &Kernel::Cast { src, dst, count: 0, from, to, saturate: false });
    }
    stream.synchronize().unwrap();
}

fn assert_refused(device: &Device, kernels: &[Kernel]) {
    let stream = stream(device);
    for kernel in kernels {
        // SAFETY: nothing is enqueued; the launch is refused.
        let launched = unsafe { device.driver().launch(stream.id(), kernel) };
        assert_eq!(status(launched), DeviceError::INVALID_VALUE, "{kernel:?}");
    }
    stream.synchronize().unwrap();
}

fn widening(src: DevicePtr, dst: DevicePtr, count: u64) -> Kernel {
    let (from, to) = (FloatFormat::F16, FloatFormat::F32);
    Kernel::Cast { src, dst, count, from, to, saturate: false }
}

fn gather(pieces: &[(DevicePtr, DevicePtr, u64)]) -> Kernel {
    let piece = |&(src, dst, bytes): &_| Piece { src, dst, bytes };
    Kernel::Gather { pieces: pieces.iter().map(piece).collect() }
}

pub(crate) fn casts_and_gathers_beyond_the_memory_are_refused(device: &Device) {
    let page = device.info().granularity_bytes;
    let (source, result) = (Memory::new(device, page), Memory::new(device, page));
    let (src, dst, nowhere) = (source.ptr, result.ptr, DevicePtr::default());
    let end = dst.offset(page - 1);
    assert_refused(
        device,
        &[
            widening(nowhere, dst, 1),
            widening(src, nowhere, 1),
            widening(src, dst, u64::MAX),
            widening(src, dst, u64::MAX / 4),
            gather(&[(src, dst, 1), (nowhere, dst.offset(1), 1)]),
            gather(&[(src, dst, 1), (src, nowhere, 1)]),
            gather(&[(src, dst, 1), (src, end, u64::MAX)]),
        ],
    );
}

pub(crate) fn casts_and_gathers_that_make_no_sense_are_refused(device: &Device) {
    let page = device.info().granularity_bytes;
    let (source, result) = (Memory::new(device, page), Memory::new(device, page));
    let (src, dst) = (source.ptr, result.ptr);
    let itself = FloatFormat::ALL.map(|format| {
        let (from, to) = (format, format);
        Kernel::Cast { src, dst, count: 1, from, to, saturate: false }
    });
    assert_refused(device, &itself);
    let single: Vec<_> = (0..=Kernel::MAX_PIECES as u64).map(|i| (src, dst.offset(i), 1)).collect();
    assert_refused(
        device,
        &[
            widening(src.offset(1), dst, 1),
            widening(src, dst.offset(2), 1),
            widening(src, src, 1),
            widening(src, src.offset(64), 33),
            gather(&single),
            gather(&[(src, src.offset(4), 5)]),
            gather(&[(src, dst, 5), (src, dst.offset(4), 5)]),
            gather(&[(src, dst, 5), (dst.offset(4), dst.offset(64), 5)]),
            Kernel::Checksum { src, bytes: 9, out: src.offset(8) },
        ],
    );
}
