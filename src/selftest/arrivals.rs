//! Dequantised blocks and patched weights: bit for bit what the references in `device/kernel` say.

use crate::base::Random;
use crate::device::{BlockFormat, FloatFormat, Kernel, LowRank, cast, dequantise, patch};
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{Found, Lab};

checks! { "arrivals":
    dequantised_blocks_are_those_of_the_reference [Bytes],
    patched_weights_are_those_of_the_reference [Bytes],
}

/// What can be dequantised to, and patched.
const RESULTS: [FloatFormat; 3] = [FloatFormat::F16, FloatFormat::Bf16, FloatFormat::F32];

fn dequantised_blocks_are_those_of_the_reference(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let (source, dst) = (lab.alloc(1 << 16)?, lab.alloc(1 << 18)?);
    let bytes = Random::bytes(7, 1 << 16);
    lab.upload(&stream, source, &bytes)?;
    for from in BlockFormat::ALL {
        for (to, (blocks, begin)) in RESULTS.into_iter().zip([(1, 0), (37, 3), (200, 16)]) {
            let count = blocks * from.block_numbers();
            let blocks = &bytes[begin..begin + (blocks * from.block_bytes()) as usize];
            let src = source.offset(begin as u64);
            lab.launch(
                &stream,
                &Kernel::Dequantise { src, dst, count, from, to, saturate: false },
            )?;
            lab.sync(&stream)?;
            let mut expected = vec![0; (count * to.size_bytes()) as usize];
            dequantise(blocks, &mut expected, from, to, false);
            let found = lab.download(&stream, dst, expected.len())?;
            let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
            let number = wrong.unwrap_or_default() / to.size_bytes() as usize;
            ensure!(wrong.is_none(), "{from:?} to {to:?}: number {number} is not the reference's");
        }
    }
    Ok(())
}

/// So many numbers between -2 and 2 in a format.
fn weights(seed: u64, count: u64, format: FloatFormat) -> Vec<u8> {
    let bytes = Random::bytes(seed, 2 * count as usize);
    let pairs = bytes.as_chunks::<2>().0.iter();
    let numbers =
        pairs.flat_map(|&pair| (f32::from(i16::from_le_bytes(pair)) / 16384.0).to_le_bytes());
    let numbers: Vec<u8> = numbers.collect();
    if format == FloatFormat::F32 {
        return numbers;
    }
    let mut codes = vec![0; (count * format.size_bytes()) as usize];
    cast(&numbers, &mut codes, FloatFormat::F32, format, true);
    codes
}

fn patched_weights_are_those_of_the_reference(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let [src, dst, up, down, scales] = [
        lab.alloc(1 << 17)?,
        lab.alloc(1 << 17)?,
        lab.alloc(1 << 16)?,
        lab.alloc(1 << 16)?,
        lab.alloc(1 << 12)?,
    ];
    for (rows, columns, rank) in [(1, 8, 1), (33, 96, 16), (64, 200, 5), (7, 45, 3)] {
        for (to, factors) in RESULTS.into_iter().flat_map(|to| RESULTS.map(|of| (to, of))) {
            for from in [to, FloatFormat::F8E4M3] {
                let source = weights(1, rows * columns, from);
                let low_rank = LowRank {
                    up: &weights(2, rows * rank, factors),
                    down: &weights(3, rank * columns, factors),
                    scales: &weights(4, rank, FloatFormat::F32),
                    factors,
                    columns,
                };
                lab.upload(&stream, src, &source)?;
                lab.upload(&stream, up, low_rank.up)?;
                lab.upload(&stream, down, low_rank.down)?;
                lab.upload(&stream, scales, low_rank.scales)?;
                // In place where the formats are one.
                let dst = if from == to { src } else { dst };
                let saturate = false;
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
                lab.launch(&stream, &kernel)?;
                lab.sync(&stream)?;
                let mut expected = vec![0; (rows * columns * to.size_bytes()) as usize];
                patch(Some(&source), &mut expected, &low_rank, [from, to], saturate);
                let found = lab.download(&stream, dst, expected.len())?;
                ensure!(found == expected, "{kernel:?} is not the reference's");
            }
        }
    }
    Ok(())
}
