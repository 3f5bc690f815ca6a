//! Copies: every byte, no other byte, at every size.

use crate::base::Random;
use crate::device::DevicePtr;
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{Found, Lab};

checks! { "copies":
    bytes_arrive_as_they_left_at_every_size [Bytes],
    copies_cross_pages [Bytes],
    a_copy_of_nothing_does_nothing [],
}

const SIZES: [usize; 20] = [
    1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 511, 512, 513, 4095, 4096, 4097, 8191, 65_535, 65_536,
    65_537,
];
/// Bytes on both sides that must stay as they are.
const GUARD: usize = 64;

fn bytes_arrive_as_they_left_at_every_size(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let room = 65_537 + 2 * GUARD + 8;
    let (one, two) = (lab.alloc(room as u64)?, lab.alloc(room as u64)?);
    let content = Random::bytes(1, room);
    let (source, target) = (lab.pinned_with(&content)?, lab.pinned(room)?);
    // Two values, so that what spills from one into the other shows.
    let untouched = [vec![0xee; room], vec![0x11; room]];
    for (len, shift) in SIZES.into_iter().flat_map(|len| [0, 1, 5].map(|shift| (len, shift))) {
        lab.upload(&stream, one, &untouched[0])?;
        lab.upload(&stream, two, &untouched[1])?;
        let (at, bytes) = (GUARD + shift, len as u64);
        let (first, second) = (one.offset(at as u64), two.offset(at as u64 - 1));
        lab.h2d(&stream, first, source.offset(shift), bytes)?;
        lab.d2d(&stream, second, first, bytes)?;
        lab.d2h(&stream, target.offset(3), second, bytes)?;
        lab.sync(&stream)?;
        let sent = &content[shift..shift + len];
        ensure!(lab.read(target.offset(3), len)? == sent, "{len} bytes, shifted by {shift}");
        for (memory, at, before) in [(one, at, &untouched[0]), (two, at - 1, &untouched[1])] {
            let mut expected = before.clone();
            expected[at..at + len].copy_from_slice(sent);
            let found = lab.download(&stream, memory, room)?;
            ensure!(found == expected, "{len} bytes at {at} left a mark elsewhere");
        }
    }
    Ok(())
}

fn copies_cross_pages(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let page = lab.page_bytes();
    let (one, two) = (lab.alloc(3 * page)?, lab.alloc(3 * page)?);
    let bytes = Random::bytes(2, 2 * page as usize + 1);
    let start = one.offset(page - 1);
    lab.upload(&stream, start, &bytes)?;
    let len = bytes.len() - 2;
    lab.d2d(&stream, two.offset(1), start, len as u64)?;
    lab.sync(&stream)?;
    let found = lab.download(&stream, two.offset(1), len)?;
    ensure!(found == bytes[..len], "{len} bytes over pages did not arrive as they left");
    Ok(())
}

fn a_copy_of_nothing_does_nothing(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let (memory, pinned) = (lab.alloc(64)?, lab.pinned(64)?);
    let content = Random::bytes(3, 64);
    lab.upload(&stream, memory, &content)?;
    lab.h2d(&stream, memory, pinned, 0)?;
    lab.d2h(&stream, pinned, memory, 0)?;
    lab.d2d(&stream, memory, memory.offset(32), 0)?;
    lab.d2d(&stream, DevicePtr::default(), DevicePtr::default(), 0)?;
    lab.sync(&stream)?;
    ensure!(lab.shows(&stream, memory, &content)?, "a copy of nothing changed device memory");
    ensure!(lab.read(pinned, 64)? == [0; 64], "a copy of nothing changed host memory");
    Ok(())
}
