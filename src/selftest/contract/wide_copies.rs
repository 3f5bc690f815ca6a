//! Copies of rows, in batches and between devices.

use crate::base::Random;
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{End, Found, Lab, Rows};

checks! { "wide_copies":
    rows_arrive_where_they_belong [Bytes],
    rows_of_nothing_are_no_copy [],
    every_piece_of_a_batch_arrives [Bytes],
    a_batch_of_nothing_does_nothing [],
    a_device_is_its_own_peer [Bytes],
}

fn rows_arrive_where_they_belong(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    // A width, a height, and the pitches of source, device memory and target.
    let shapes = [(1, 1, 1, 1, 1), (64, 7, 64, 64, 64), (33, 9, 40, 64, 33), (5, 100, 7, 5, 512)];
    for (width, height, outer, inner, back) in shapes {
        let content = Random::bytes(3, outer * height);
        let source = lab.pinned_with(&content)?;
        let untouched = vec![0xee; back * height];
        let target = lab.pinned_with(&untouched)?;
        let (one, two) = (lab.alloc((inner * height) as u64)?, lab.alloc((back * height) as u64)?);
        lab.upload(&stream, two, &untouched)?;
        let rows = |at, pitch: usize| Rows { at, pitch: pitch as u64 };
        let shape = (width as u64, height as u64);
        let on_device = rows(End::Device(one), inner);
        let spread = rows(End::Device(two), back);
        lab.copy_rows(&stream, on_device, rows(End::Host(source), outer), shape)?;
        lab.copy_rows(&stream, spread, on_device, shape)?;
        lab.copy_rows(&stream, rows(End::Host(target), back), on_device, shape)?;
        lab.sync(&stream)?;
        let mut expected = untouched;
        for row in 0..height {
            expected[row * back..][..width].copy_from_slice(&content[row * outer..][..width]);
        }
        let found = lab.read(target, expected.len())?;
        ensure!(found == expected, "{height} rows of {width} did not come back as they went");
        let found = lab.download(&stream, two, expected.len())?;
        ensure!(found == expected, "{height} rows of {width} moved wrongly on the device");
    }
    Ok(())
}

fn rows_of_nothing_are_no_copy(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let (memory, pinned) = (lab.alloc(64)?, lab.pinned(64)?);
    let to = Rows { at: End::Device(memory), pitch: 8 };
    let from = Rows { at: End::Host(pinned), pitch: 8 };
    lab.copy_rows(&stream, to, from, (0, 3))?;
    lab.copy_rows(&stream, to, from, (8, 0))?;
    let narrow = Rows { pitch: 7, ..to };
    ensure!(
        lab.copy_rows(&stream, narrow, from, (8, 2)).is_err(),
        "rows of 8 bytes went 7 bytes apart"
    );
    ensure!(lab.copy_rows(&stream, from, from, (8, 2)).is_err(), "the host copied to itself");
    lab.sync(&stream)
}

fn every_piece_of_a_batch_arrives(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let content = Random::bytes(4, 1 << 16);
    let source = lab.pinned_with(&content)?;
    let memory = lab.alloc(1 << 17)?;
    lab.upload(&stream, memory, &vec![0xee; 1 << 17])?;
    let mut expected = vec![0xee; 1 << 17];
    let mut pieces = Vec::new();
    let (mut from, mut to) = (0, 1 << 17);
    for len in [1, 0, 512, 3, 4096, 20_000, 17, 1000] {
        to -= len + 5;
        pieces.push((memory.offset(to as u64), source.offset(from), len as u64));
        expected[to..to + len].copy_from_slice(&content[from..from + len]);
        from += len;
    }
    lab.batch(&stream, &pieces)?;
    lab.sync(&stream)?;
    let found = lab.download(&stream, memory, expected.len())?;
    ensure!(found == expected, "a batch of {} pieces did not arrive as it left", pieces.len());
    Ok(())
}

fn a_batch_of_nothing_does_nothing(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    lab.batch(&stream, &[])?;
    let (memory, pinned) = (lab.alloc(64)?, lab.pinned(64)?);
    lab.batch(&stream, &[(memory, pinned, 0), (memory, pinned, 0)])?;
    lab.sync(&stream)
}

fn a_device_is_its_own_peer(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let content = Random::bytes(5, 10_000);
    let (one, two) = (lab.alloc(10_000)?, lab.alloc(10_000)?);
    lab.upload(&stream, one, &content)?;
    lab.copy_from_itself(&stream, two.offset(1), one.offset(3), 9_000)?;
    lab.copy_from_itself(&stream, two, one, 0)?;
    lab.sync(&stream)?;
    let found = lab.download(&stream, two.offset(1), 9_000)?;
    ensure!(found == content[3..9_003], "a copy between devices did not arrive as it left");
    Ok(())
}
