//! Casts and gathers that are refused, and those of nothing.

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr, FloatFormat, Kernel, Piece, Stream};

use crate::support::{Memory, status, stream};

/// All pairs of formats that can be cast.
fn pairs() -> impl Iterator<Item = (FloatFormat, FloatFormat)> {
    let all = FloatFormat::ALL;
    all.into_iter().flat_map(move |from| all.map(|to| (from, to))).filter(|(from, to)| from != to)
}

fn launch(device: &Device, stream: &Stream, kernel: &Kernel) {
    // SAFETY: the callers keep the memory past `synchronize` and use it on this stream alone.
    unsafe { device.driver().launch(stream.id(), kernel) }.unwrap();
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
