//! Kernels: bit for bit what the reference in `device/kernel` says.

use crate::base::Random;
use crate::device::{DevicePtr, Kernel, checksum};
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{Found, Lab};

checks! { "kernels":
    checksums_are_those_of_the_reference [Bytes],
    fill_writes_its_range_and_no_more [Bytes],
    kernels_over_nothing_touch_nothing [Bytes],
    a_kernel_reaches_the_end_of_a_large_range [Bytes],
}

fn checksums_are_those_of_the_reference(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let bytes = Random::bytes(1, 300_000);
    let memory = lab.alloc(bytes.len() as u64)?;
    lab.upload(&stream, memory, &bytes)?;
    let long = [255, 256, 1000, 4095, 4096, 4097, 65_535, 262_144, 299_992];
    let lens = (0..=70).chain(long);
    let cases: Vec<(usize, usize)> = lens.flat_map(|len| (0..8).map(move |s| (s, len))).collect();
    let sums = lab.alloc(8 * cases.len() as u64)?;
    for (slot, &(shift, len)) in cases.iter().enumerate() {
        let (src, out) = (memory.offset(shift as u64), sums.offset(8 * slot as u64));
        lab.launch(&stream, &Kernel::Checksum { src, bytes: len as u64, out })?;
    }
    lab.sync(&stream)?;
    let found = lab.download(&stream, sums, 8 * cases.len())?;
    for ((shift, len), sum) in cases.into_iter().zip(found.chunks(8)) {
        let expected = checksum(&bytes[shift..shift + len]).to_le_bytes();
        ensure!(sum == expected, "{len} bytes from {shift}: {sum:02x?}, not {expected:02x?}");
    }
    Ok(())
}

fn fill_writes_its_range_and_no_more(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let memory = lab.alloc(10_000)?;
    let mut expected = Random::bytes(2, 10_000);
    lab.upload(&stream, memory, &expected)?;
    let ranges = [(0, 1), (3, 5), (64, 64), (511, 514), (1999, 4097), (9999, 1), (7, 0)];
    for (value, (at, len)) in (1u8..).zip(ranges) {
        lab.fill(&stream, memory.offset(at as u64), len as u64, value)?;
        expected[at..at + len].fill(value);
    }
    lab.sync(&stream)?;
    let found = lab.download(&stream, memory, 10_000)?;
    let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    ensure!(wrong.is_none(), "byte {} is not what was filled in", wrong.unwrap_or_default());
    Ok(())
}

fn kernels_over_nothing_touch_nothing(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let sums = lab.alloc(8)?;
    let nowhere = DevicePtr::default();
    lab.launch(&stream, &Kernel::Fill { dst: nowhere, bytes: 0, value: 1 })?;
    lab.launch(&stream, &Kernel::Checksum { src: nowhere, bytes: 0, out: sums })?;
    lab.launch(&stream, &Kernel::Busy { ns: 0 })?;
    lab.sync(&stream)?;
    let sum = lab.download(&stream, sums, 8)?;
    ensure!(sum == checksum(&[]).to_le_bytes(), "the checksum of nothing is {sum:02x?}");
    Ok(())
}

fn a_kernel_reaches_the_end_of_a_large_range(lab: &Lab) -> Found {
    const BYTES: u64 = (8 << 20) + 13;
    let stream = lab.stream()?;
    let (memory, sum) = (lab.alloc(BYTES)?, lab.alloc(8)?);
    lab.fill(&stream, memory, BYTES, 3)?;
    // The last byte alone differs.
    lab.fill(&stream, memory.offset(BYTES - 1), 1, 7)?;
    lab.launch(&stream, &Kernel::Checksum { src: memory, bytes: BYTES, out: sum })?;
    let found = lab.download(&stream, sum, 8)?;
    let mut expected = vec![3; BYTES as usize];
    expected[BYTES as usize - 1] = 7;
    let expected = checksum(&expected).to_le_bytes();
    ensure!(found == expected, "{BYTES} bytes: {found:02x?}, not {expected:02x?}");
    Ok(())
}
