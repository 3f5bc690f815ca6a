//! Virtual memory: address space, pages, and the mappings between them.

use crate::base::{DeviceError, Random};
use crate::device::Call;
use crate::selftest::check::checks;
use crate::selftest::finding::{Finding, ensure, refused};
use crate::selftest::lab::{Found, Lab};

checks! { "virtual_memory":
    a_mapped_page_holds_bytes [VirtualMemory, Bytes],
    one_page_at_two_addresses_shows_the_same_bytes [VirtualMemory, Bytes],
    neighbouring_pages_are_one_range [VirtualMemory, Bytes],
    pages_are_mapped_in_a_row [VirtualMemory],
    pages_in_a_row_keep_their_order [VirtualMemory, Bytes],
    a_page_keeps_its_bytes_when_it_moves [VirtualMemory, Bytes],
    address_space_is_used_again [VirtualMemory],
    capacity_counts_a_page_once [VirtualMemory, Alone],
    a_destroyed_page_lives_until_its_last_mapping_is_gone [VirtualMemory],
    pages_run_out_like_memory [VirtualMemory, Alone],
}

fn a_mapped_page_holds_bytes(lab: &Lab) -> Found {
    let space = lab.reserve(2)?;
    let page_bytes = lab.page_bytes();
    ensure!(space.0.is_multiple_of(page_bytes), "{space:?} is not aligned to {page_bytes}");
    let page = lab.create_page(1)?;
    lab.map(space.offset(page_bytes), &[page])?;
    let stream = lab.stream()?;
    let bytes = Random::bytes(3, 10_000);
    let at = space.offset(2 * page_bytes - 10_000);
    lab.upload(&stream, at, &bytes)?;
    ensure!(lab.download(&stream, at, 10_000)? == bytes, "a page did not keep its bytes");
    lab.unmap(space.offset(page_bytes), 1)?;
    lab.destroy_page(page)?;
    lab.release(space)
}

fn one_page_at_two_addresses_shows_the_same_bytes(lab: &Lab) -> Found {
    let space = lab.reserve(3)?;
    let third = space.offset(2 * lab.page_bytes());
    let page = lab.create_page(1)?;
    lab.map(space, &[page])?;
    lab.map(third, &[page])?;
    let stream = lab.stream()?;
    let bytes = Random::bytes(4, 5000);
    lab.upload(&stream, space.offset(77), &bytes)?;
    let seen = lab.download(&stream, third.offset(77), 5000)?;
    ensure!(seen == bytes, "what was written at one address is not at the other");
    // And the other way round, by a kernel.
    lab.fill(&stream, third, 4096, 9)?;
    lab.sync(&stream)?;
    let seen = lab.download(&stream, space, 4096)?;
    ensure!(seen == [9; 4096], "what a kernel wrote at one address is not at the other");
    lab.unmap(space, 1)?;
    let seen = lab.download(&stream, third.offset(5000), 77)?;
    ensure!(seen == bytes[4923..], "one mapping took the other's bytes with it");
    Ok(())
}

fn neighbouring_pages_are_one_range(lab: &Lab) -> Found {
    let space = lab.reserve(3)?;
    let (one, two) = (lab.create_page(2)?, lab.create_page(1)?);
    // Out of order, so that neighbours in space are not neighbours in memory.
    lab.map(space.offset(lab.page_bytes()), &[one])?;
    lab.map(space, &[two])?;
    let stream = lab.stream()?;
    let bytes = Random::bytes(5, 3 * lab.page_bytes() as usize - 2);
    lab.upload(&stream, space.offset(1), &bytes)?;
    let found = lab.download(&stream, space.offset(1), bytes.len())?;
    ensure!(found == bytes, "{} bytes over two mappings changed", bytes.len());
    lab.unmap(space, 3)
}

fn pages_are_mapped_in_a_row(lab: &Lab) -> Found {
    let space = lab.reserve(6)?;
    let (one, two) = (lab.create_page(2)?, lab.create_page(1)?);
    let counts = || [Call::Map, Call::SetAccess].map(|call| lab.device().calls().get(call));
    let before = counts();
    let first = space.offset(lab.page_bytes());
    lab.map(first, &[two, one, two])?;
    let after = counts();
    let counted = [after[0] - before[0], after[1] - before[1]];
    ensure!(counted == [3, 1], "three pages count as {counted:?} calls of map and set_access");
    let stream = lab.stream()?;
    let bytes = Random::bytes(11, 4 * lab.page_bytes() as usize - 2);
    lab.upload(&stream, first.offset(1), &bytes)?;
    let bytes = Random::bytes(12, 100);
    lab.upload(&stream, first, &bytes)?;
    let last = first.offset(3 * lab.page_bytes());
    ensure!(lab.shows(&stream, last, &bytes)?, "the first page is the last one too");
    lab.unmap(first, 4)
}

fn pages_in_a_row_keep_their_order(lab: &Lab) -> Found {
    let page_bytes = lab.page_bytes() as usize;
    let space = lab.reserve(3)?;
    let (large, small) = (lab.create_page(2)?, lab.create_page(1)?);
    let stream = lab.stream()?;
    let bytes = Random::bytes(13, 3 * page_bytes);
    lab.map(space, &[large, small])?;
    lab.upload(&stream, space, &bytes)?;
    lab.unmap(space, 3)?;
    lab.map(space, &[small, large])?;
    let found = lab.download(&stream, space, bytes.len())?;
    let small_first = found[..page_bytes] == bytes[2 * page_bytes..];
    let large_last = found[page_bytes..] == bytes[..2 * page_bytes];
    ensure!(small_first && large_last, "pages do not lie in the order they were mapped in");
    lab.unmap(space, 3)
}

fn a_page_keeps_its_bytes_when_it_moves(lab: &Lab) -> Found {
    let space = lab.reserve(2)?;
    let second = space.offset(lab.page_bytes());
    let page = lab.create_page(1)?;
    lab.map(space, &[page])?;
    let stream = lab.stream()?;
    let bytes = Random::bytes(6, 4097);
    lab.upload(&stream, space, &bytes)?;
    lab.unmap(space, 1)?;
    lab.map(second, &[page])?;
    ensure!(lab.download(&stream, second, 4097)? == bytes, "a page lost its bytes on the way");
    lab.unmap(second, 1)
}

fn address_space_is_used_again(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let space = lab.reserve(2)?;
    for round in 0..8 {
        let page = lab.create_page(2)?;
        lab.map(space, &[page])?;
        let bytes = Random::bytes(round, 1000);
        lab.upload(&stream, space, &bytes)?;
        ensure!(lab.shows(&stream, space, &bytes)?, "round {round}: bytes changed");
        lab.unmap(space, 2)?;
        lab.destroy_page(page)?;
    }
    lab.release(space)
}

fn capacity_counts_a_page_once(lab: &Lab) -> Found {
    let space = lab.reserve(8)?;
    let before = lab.free_bytes()?;
    let page = lab.create_page(2)?;
    let created = lab.free_bytes()?;
    ensure!(before - created == 2 * lab.page_bytes(), "a page takes what it holds");
    for index in [0, 2, 4, 6] {
        lab.map(space.offset(index * lab.page_bytes()), &[page])?;
        ensure!(lab.free_bytes()? == created, "a mapping takes memory");
    }
    lab.unmap(space, 8)?;
    ensure!(lab.free_bytes()? == created, "a page went with its mappings");
    lab.destroy_page(page)?;
    ensure!(lab.free_bytes()? == before, "a destroyed page did not come back");
    Ok(())
}

fn a_destroyed_page_lives_until_its_last_mapping_is_gone(lab: &Lab) -> Found {
    let space = lab.reserve(2)?;
    let second = space.offset(lab.page_bytes());
    let taken = |before: u64| Ok::<_, Finding>(before - lab.free_bytes()?);
    let before = lab.free_bytes()?;
    let page = lab.create_page(1)?;
    lab.map(space, &[page])?;
    lab.map(second, &[page])?;
    let stream = lab.stream()?;
    let bytes = Random::bytes(8, 100);
    lab.upload(&stream, space, &bytes)?;
    lab.destroy_page(page)?;
    let (alone, one) = (lab.is_alone(), lab.page_bytes());
    ensure!(!alone || taken(before)? == one, "a page went while it was mapped twice");
    lab.unmap(space, 1)?;
    ensure!(!alone || taken(before)? == one, "a page went while it was mapped");
    ensure!(lab.shows(&stream, second, &bytes)?, "a mapped page lost its bytes");
    lab.unmap(second, 1)?;
    ensure!(!alone || lab.free_bytes()? == before, "a page stayed without a mapping");
    Ok(())
}

fn pages_run_out_like_memory(lab: &Lab) -> Found {
    let before = lab.free_bytes()?;
    let all = before / lab.page_bytes();
    refused(lab.create_page(all + 1), DeviceError::OUT_OF_MEMORY, "a page of more than there is")?;
    let page = lab.create_page(all / 2)?;
    let rest = (all + 1 - all / 2) * lab.page_bytes();
    refused(lab.alloc(rest), DeviceError::OUT_OF_MEMORY, "more than pages leave")?;
    lab.destroy_page(page)?;
    ensure!(lab.free_bytes()? == before, "not all came back");
    Ok(())
}
