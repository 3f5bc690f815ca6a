//! Casts and gathers: bit for bit what the reference in `device/kernel` says.

use crate::base::Random;
use crate::device::{FloatFormat, Kernel, Piece, cast};
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{Found, Lab};

checks! { "casts":
    casts_are_those_of_the_reference [Bytes],
    a_cast_writes_its_range_and_no_more [Bytes],
    gathered_pieces_arrive_whole [Bytes],
}

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

fn casts_are_those_of_the_reference(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let (src, dst) = (lab.alloc(1 << 19)?, lab.alloc(1 << 19)?);
    for (from, to) in pairs() {
        let codes = codes(from);
        lab.upload(&stream, src, &codes)?;
        let count = codes.len() as u64 / from.size_bytes();
        for saturate in [false, true] {
            lab.launch(&stream, &Kernel::Cast { src, dst, count, from, to, saturate })?;
            lab.sync(&stream)?;
            let mut expected = vec![0; (count * to.size_bytes()) as usize];
            cast(&codes, &mut expected, from, to, saturate);
            let found = lab.download(&stream, dst, expected.len())?;
            let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
            let number = wrong.unwrap_or_default() / to.size_bytes() as usize;
            ensure!(
                wrong.is_none(),
                "{from:?} to {to:?}, saturate {saturate}: number {number} is not the reference's"
            );
        }
    }
    Ok(())
}

fn a_cast_writes_its_range_and_no_more(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let (source, result) = (lab.alloc(1 << 16)?, lab.alloc(1 << 16)?);
    let bytes = Random::bytes(3, 1 << 16);
    let before = Random::bytes(4, 1 << 16);
    lab.upload(&stream, source, &bytes)?;
    for (from, to) in pairs() {
        for (first, count) in [(0, 1), (1, 7), (3, 8), (5, 100), (8, 4096), (9, 4111), (2, 0)] {
            lab.upload(&stream, result, &before)?;
            let at = |format: FloatFormat, numbers: usize| numbers * format.size_bytes() as usize;
            // Both ends begin at different distances from an aligned address.
            let (read, written) = (at(from, first), at(to, 2 * first));
            let kernel = Kernel::Cast {
                src: source.offset(read as u64),
                dst: result.offset(written as u64),
                count: count as u64,
                from,
                to,
                saturate: true,
            };
            lab.launch(&stream, &kernel)?;
            lab.sync(&stream)?;
            let mut expected = before.clone();
            let written = &mut expected[written..written + at(to, count)];
            cast(&bytes[read..read + at(from, count)], written, from, to, true);
            let found = lab.download(&stream, result, expected.len())?;
            ensure!(found == expected, "{kernel:?} wrote something else");
        }
    }
    Ok(())
}

fn gathered_pieces_arrive_whole(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let (source, result) = (lab.alloc(1 << 20)?, lab.alloc(1 << 20)?);
    let bytes = Random::bytes(5, 1 << 20);
    lab.upload(&stream, source, &bytes)?;
    for longest in [1, 9, 40, 700, 8000] {
        let mut expected = Random::bytes(6, 1 << 20);
        lab.upload(&stream, result, &expected)?;
        let mut pieces = Vec::new();
        let mut to = 1;
        for i in 0..Kernel::MAX_PIECES {
            // Sources overlap; some pieces are empty; gaps between destinations stay.
            let (from, len) = (i * 7919 % 500_000, i * 31 % (longest + 1));
            expected[to..to + len].copy_from_slice(&bytes[from..from + len]);
            let (src, dst) = (source.offset(from as u64), result.offset(to as u64));
            pieces.push(Piece { src, dst, bytes: len as u64 });
            to += len + i % 4;
        }
        lab.launch(&stream, &Kernel::Gather { pieces })?;
        lab.sync(&stream)?;
        let found = lab.download(&stream, result, expected.len())?;
        ensure!(found == expected, "pieces of up to {longest} bytes did not all arrive");
    }
    Ok(())
}
