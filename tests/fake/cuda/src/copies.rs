//! Copies and fills.

use riverbed_fake_core::status::{INVALID_VALUE, NOT_SUPPORTED};
use riverbed_fake_core::{Answer, Direction, Fake, In, Out, Place, misuse};

use crate::exports;
use crate::structs::{Copy2d, CopyAttributes};

exports! {
    fn cuMemcpyHtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, Direction::ToDevice, stream);
    fn cuMemcpyDtoHAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, Direction::ToHost, stream);
    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, Direction::OnDevice, stream);
    fn cuMemcpyAsync(dst: u64, src: u64, bytes: usize, stream: u64) Context |fake|
        fake.copy(dst, src, bytes as u64, Direction::Any, stream);
    fn cuMemcpyPeerAsync(dst: u64, dst_context: u64, src: u64, src_context: u64, bytes: usize, stream: u64) Context |fake| {
        for (context, at) in [(dst_context, dst), (src_context, src)] {
            let gpu = fake.device_of_context(context)?;
            if fake.pointer(at).is_some_and(|facts| facts.gpu != gpu) {
                let words = format!("{at:#x} is not of that context");
                return Err(misuse("wrong_context", words, INVALID_VALUE));
            }
        }
        fake.copy(dst, src, bytes as u64, Direction::OnDevice, stream)
    };
    fn cuMemcpy2DAsync_v2(copy: In<Copy2d>, stream: u64) Context |fake|
        copy_2d(fake, &copy.get()?, stream);
    fn cuMemsetD8Async(dst: u64, value: u8, bytes: usize, stream: u64) Context |fake|
        fake.fill(dst, value, bytes as u64, stream);
    fn cuMemcpyBatchAsync(dsts: In<u64>, srcs: In<u64>, sizes: In<usize>, count: usize, attributes: In<CopyAttributes>, first_of: In<usize>, attribute_count: usize, failed: Out<usize>, stream: u64) Context |fake| {
        let copies = batch(dsts, srcs, sizes, count, attributes, first_of, attribute_count)?;
        fake.copy_batch(&copies, stream).inspect_err(|_| {
            // Which one it was is not told.
            let _ = failed.put_if_wanted(usize::MAX);
        })
    };
    newer fn cuMemcpyBatchAsync_v2(dsts: In<u64>, srcs: In<u64>, sizes: In<usize>, count: usize, attributes: In<CopyAttributes>, first_of: In<usize>, attribute_count: usize, stream: u64) Context |fake| {
        let copies = batch(dsts, srcs, sizes, count, attributes, first_of, attribute_count)?;
        fake.copy_batch(&copies, stream)
    };
}

/// The copies of a batch, after checking how they are described.
fn batch(
    dsts: In<u64>,
    srcs: In<u64>,
    sizes: In<usize>,
    count: usize,
    attributes: In<CopyAttributes>,
    first_of: In<usize>,
    attribute_count: usize,
) -> Answer<Vec<(u64, u64, u64)>> {
    let bad = |words: &str| Err(misuse("invalid_argument", words, INVALID_VALUE));
    if count == 0 || attribute_count == 0 || attribute_count > count {
        return bad("no copies, no attributes, or more of them than copies");
    }
    let attributes = attributes.list(attribute_count)?;
    if attributes.iter().any(|one| !(1..=3).contains(&one.order) || one.flags > 1) {
        return bad("an access order or flags there are none of");
    }
    let first_of = first_of.list(attribute_count)?;
    let rising = first_of.windows(2).all(|pair| pair[0] < pair[1]);
    if first_of[0] != 0 || !rising || first_of[attribute_count - 1] >= count {
        return bad("attributes must begin at copy 0 and rise");
    }
    let (dsts, srcs, sizes) = (dsts.list(count)?, srcs.list(count)?, sizes.list(count)?);
    if sizes.contains(&0) {
        return bad("a copy of nothing in a batch");
    }
    let copies = dsts.into_iter().zip(srcs).zip(sizes);
    Ok(copies.map(|((dst, src), bytes)| (dst, src, bytes as u64)).collect())
}

fn copy_2d(fake: &'static Fake, copy: &Copy2d, stream: u64) -> Answer {
    let (src, src_host) = side(copy.src_type, copy.src_host, copy.src_device)?;
    let (dst, dst_host) = side(copy.dst_type, copy.dst_host, copy.dst_device)?;
    let place = |at: u64, x: usize, y: usize, pitch: usize| Place {
        at: at + (x + y * pitch) as u64,
        // A pitch of 0 means rows without gaps.
        pitch: if pitch == 0 { copy.width as u64 } else { pitch as u64 },
    };
    let direction = match (dst_host, src_host) {
        (None, _) | (_, None) => Direction::Any,
        (Some(false), Some(true)) => Direction::ToDevice,
        (Some(true), Some(false)) => Direction::ToHost,
        (Some(false), Some(false)) => Direction::OnDevice,
        (Some(true), Some(true)) => Direction::HostOnly,
    };
    let copy = riverbed_fake_core::Copy2d {
        dst: place(dst, copy.dst_x, copy.dst_y, copy.dst_pitch),
        src: place(src, copy.src_x, copy.src_y, copy.src_pitch),
        width: copy.width as u64,
        height: copy.height as u64,
        direction,
    };
    fake.copy_2d(&copy, stream)
}

/// Where one side is, and whether it is the host's; `None` when the address tells.
fn side(kind: u32, host: u64, device: u64) -> Answer<(u64, Option<bool>)> {
    match kind {
        1 => Ok((host, Some(true))),
        2 => Ok((device, Some(false))),
        3 => Err(misuse("unsupported_by_fake", "copies of arrays", NOT_SUPPORTED)),
        4 => Ok((device, None)),
        _ => Err(misuse("invalid_argument", format!("memory type {kind}"), INVALID_VALUE)),
    }
}
