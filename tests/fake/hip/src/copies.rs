//! Copies and fills.

use riverbed_fake_core::status::INVALID_VALUE;
use riverbed_fake_core::{Answer, Copy2d, Direction, In, Out, Place, misuse};

use crate::exports;
use crate::structs::CopyAttributes;

exports! {
    fn hipMemcpyHtoDAsync(dst: u64, src: u64, bytes: usize, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, Direction::ToDevice, stream);
    fn hipMemcpyDtoHAsync(dst: u64, src: u64, bytes: usize, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, Direction::ToHost, stream);
    fn hipMemcpyDtoDAsync(dst: u64, src: u64, bytes: usize, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, Direction::OnDevice, stream);
    fn hipMemcpyAsync(dst: u64, src: u64, bytes: usize, kind: u32, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, direction(kind)?, stream);
    fn hipMemcpy2DAsync(dst: u64, dst_pitch: usize, src: u64, src_pitch: usize, width: usize, height: usize, kind: u32, stream: u64) Context |fake| {
        let copy = Copy2d {
            dst: Place { at: dst, pitch: dst_pitch as u64 },
            src: Place { at: src, pitch: src_pitch as u64 },
            width: width as u64,
            height: height as u64,
            direction: direction(kind)?,
        };
        fake.copy_2d(&copy, stream)
    };
    fn hipMemcpyPeerAsync(dst: u64, dst_device: i32, src: u64, src_device: i32, bytes: usize, stream: u64) Context |fake| {
        for (device, at) in [(dst_device, dst), (src_device, src)] {
            let gpu = fake.gpu(device)?;
            if fake.pointer(at).is_some_and(|facts| facts.gpu != gpu) {
                let words = format!("{at:#x} is not of device {device}");
                return Err(misuse("wrong_context", words, INVALID_VALUE));
            }
        }
        fake.copy(dst, src, bytes as u64, Direction::OnDevice, stream)
    };
    fn hipMemcpyBatchAsync(dsts: In<u64>, srcs: In<u64>, sizes: In<usize>, count: usize, attributes: In<CopyAttributes>, first_of: In<usize>, attribute_count: usize, failed: Out<usize>, stream: u64) Context |fake| {
        let _ = (attributes, first_of);
        if count == 0 || attribute_count != 0 {
            let words = "no copies, or attributes, which early runtimes do not take";
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        let (dsts, srcs, sizes) = (dsts.list(count)?, srcs.list(count)?, sizes.list(count)?);
        let copies = dsts.into_iter().zip(srcs).zip(sizes);
        let copies: Vec<_> =
            copies.map(|((dst, src), bytes)| (dst, src, bytes as u64)).collect();
        fake.copy_batch(&copies, stream).inspect_err(|_| {
            // Which one it was is not told.
            let _ = failed.put_if_wanted(usize::MAX);
        })
    };
    fn hipMemsetAsync(dst: u64, value: i32, bytes: usize, stream: u64) Context |fake|
        fake.fill(dst, value as u8, bytes as u64, stream);
    fn hipMemsetD8Async(dst: u64, value: u8, bytes: usize, stream: u64) Context |fake|
        fake.fill(dst, value, bytes as u64, stream);
}

fn direction(kind: u32) -> Answer<Direction> {
    match kind {
        0 => Ok(Direction::HostOnly),
        1 => Ok(Direction::ToDevice),
        2 => Ok(Direction::ToHost),
        3 => Ok(Direction::OnDevice),
        4 => Ok(Direction::Any),
        _ => Err(misuse("invalid_argument", format!("copy kind {kind}"), INVALID_VALUE)),
    }
}
