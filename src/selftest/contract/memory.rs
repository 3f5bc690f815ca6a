//! Device memory: alignment, exhaustion, giving back.

use crate::base::{DeviceError, Random};
use crate::device::DevicePtr;
use crate::selftest::check::checks;
use crate::selftest::finding::{Finding, ensure, refused};
use crate::selftest::lab::{Found, Lab};

checks! { "memory":
    allocations_are_aligned_and_apart [],
    what_is_taken_and_freed_shows_in_the_figures [Alone],
    every_byte_belongs_to_one_allocation [Bytes],
    nothing_and_too_much_are_refused [],
    a_full_device_says_so_and_serves_again [Alone],
    threads_take_and_free_side_by_side [],
}

fn sizes(lab: &Lab) -> [u64; 7] {
    let page = lab.page_bytes();
    [1, 511, 4096, page - 1, page, page + 1, 3 * page]
}

fn allocations_are_aligned_and_apart(lab: &Lab) -> Found {
    let mut held = Vec::new();
    for bytes in sizes(lab) {
        let ptr = lab.alloc(bytes)?; // finds overlaps
        ensure!(ptr.0.is_multiple_of(512), "{bytes} bytes at {ptr:?}, not aligned to 512");
        held.push(ptr);
    }
    held.into_iter().try_for_each(|ptr| lab.free(ptr))
}

fn what_is_taken_and_freed_shows_in_the_figures(lab: &Lab) -> Found {
    let before = lab.device().memory()?;
    let held = sizes(lab).map(|bytes| lab.alloc(bytes));
    let after = lab.device().memory()?;
    let held = held.into_iter().collect::<Found<Vec<DevicePtr>>>()?;
    let taken = before.free_bytes.saturating_sub(after.free_bytes);
    let asked = sizes(lab).iter().sum();
    ensure!(taken >= asked, "{asked} bytes were taken, {taken} fewer are free");
    ensure!(after.total_bytes == before.total_bytes, "the device changed its size");
    held.into_iter().try_for_each(|ptr| lab.free(ptr))?;
    let after = lab.device().memory()?;
    ensure!(after == before, "freeing gives everything back: {before:?}, then {after:?}");
    Ok(())
}

fn every_byte_belongs_to_one_allocation(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let mut held = Vec::new();
    for (seed, bytes) in (0..).zip([1, 511, 512, 4097, 65_536, 100_000, lab.page_bytes() + 1]) {
        let ptr = lab.alloc(bytes)?;
        let content = Random::bytes(seed, bytes as usize);
        lab.upload(&stream, ptr, &content)?;
        held.push((ptr, content));
    }
    for (ptr, content) in held {
        let found = lab.download(&stream, ptr, content.len())?;
        ensure!(found == content, "{} bytes at {ptr:?} did not stay as written", content.len());
        lab.free(ptr)?;
    }
    Ok(())
}

fn nothing_and_too_much_are_refused(lab: &Lab) -> Found {
    let before = lab.device().memory()?;
    refused(lab.alloc(0), DeviceError::INVALID_VALUE, "an allocation of nothing")?;
    for bytes in [before.total_bytes + 1, 1 << 60, u64::MAX - 1, u64::MAX] {
        refused(lab.alloc(bytes), DeviceError::OUT_OF_MEMORY, &format!("{bytes} bytes"))?;
    }
    if lab.is_alone() {
        let after = lab.device().memory()?;
        ensure!(after == before, "refused calls took memory: {before:?}, then {after:?}");
    }
    Ok(())
}

fn a_full_device_says_so_and_serves_again(lab: &Lab) -> Found {
    let before = lab.device().memory()?;
    let chunk = (before.total_bytes / 8).next_multiple_of(lab.page_bytes());
    let mut held = Vec::new();
    let failed = loop {
        match lab.alloc(chunk) {
            Ok(ptr) => held.push(ptr),
            Err(finding) => break finding,
        }
        ensure!(held.len() <= 8, "more was given than there is");
    };
    refused::<()>(Err(failed), DeviceError::OUT_OF_MEMORY, "more than there is")?;
    let full = lab.device().memory()?;
    ensure!(full.free_bytes < chunk, "{} are free and {chunk} are refused", full.free_bytes);
    refused(lab.alloc(chunk), DeviceError::OUT_OF_MEMORY, "more than is left")?;
    ensure!(lab.device().memory()? == full, "a refused call took memory");

    let stream = lab.stream()?;
    let bytes = Random::bytes(7, 4096);
    let last = held.pop().ok_or_else(|| Finding::new("an empty device has no eighth"))?;
    let end = last.offset(chunk - 4096);
    lab.upload(&stream, end, &bytes)?;
    ensure!(lab.shows(&stream, end, &bytes)?, "what was given is not all there");
    lab.free(last)?;
    held.push(lab.alloc(chunk)?);
    held.into_iter().try_for_each(|ptr| lab.free(ptr))?;
    ensure!(lab.device().memory()? == before, "not all came back");
    Ok(())
}

fn threads_take_and_free_side_by_side(lab: &Lab) -> Found {
    let before = lab.free_bytes()?;
    let threads = (0..4u64).map(|thread| {
        move || {
            let stream = lab.stream()?;
            for round in 0..25 {
                let ptr = lab.alloc(1000 + round)?;
                let bytes = Random::bytes(thread * 1000 + round, 1000);
                lab.upload(&stream, ptr, &bytes)?;
                ensure!(lab.shows(&stream, ptr, &bytes)?, "bytes changed while others worked");
                lab.free(ptr)?;
            }
            Ok(())
        }
    });
    lab.beside(threads.collect(), || Ok(()))?;
    let after = lab.free_bytes()?;
    ensure!(!lab.is_alone() || after == before, "{before} bytes were free, then {after}");
    Ok(())
}
