//! Pinned host memory: taken from the driver, or the caller's own.

use crate::base::Random;
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{Found, Lab};

checks! { "pinned":
    pinned_memory_is_zeroed_and_aligned [],
    pinned_memory_carries_copies [],
    memory_of_ones_own_can_be_pinned [],
    pinned_memory_is_not_device_memory [Alone],
}

const SIZES: [usize; 5] = [1, 4095, 4096, 4097, 100_000];

fn pinned_memory_is_zeroed_and_aligned(lab: &Lab) -> Found {
    // Twice: memory that was used before must be zeroed again.
    for _ in 0..2 {
        for len in SIZES {
            let pinned = lab.pinned(len)?;
            ensure!(pinned.address().is_multiple_of(4096), "{len} bytes at {pinned:?}");
            let zeroed = lab.read(pinned, len)?.iter().all(|&byte| byte == 0);
            ensure!(zeroed, "{len} bytes are not zeroed");
            lab.write(pinned, &vec![0xff; len])?;
            lab.free_pinned(pinned)?;
        }
    }
    Ok(())
}

fn pinned_memory_carries_copies(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let memory = lab.alloc(100_000)?;
    for len in SIZES {
        let bytes = Random::bytes(len as u64, len);
        lab.upload(&stream, memory, &bytes)?;
        ensure!(lab.shows(&stream, memory, &bytes)?, "{len} bytes did not arrive as they left");
    }
    Ok(())
}

fn memory_of_ones_own_can_be_pinned(lab: &Lab) -> Found {
    const LEN: usize = 8192;
    let stream = lab.stream()?;
    let memory = lab.alloc(LEN as u64)?;
    let bytes = Random::bytes(1, LEN);
    for _ in 0..2 {
        let own = lab.registered(LEN)?;
        lab.write(own, &bytes)?;
        lab.h2d(&stream, memory, own.offset(1), LEN as u64 - 1)?;
        lab.sync(&stream)?;
        ensure!(lab.shows(&stream, memory, &bytes[1..])?, "bytes did not arrive as they left");
        lab.write(own, &[0; LEN])?;
        lab.d2h(&stream, own, memory, LEN as u64 - 1)?;
        lab.sync(&stream)?;
        let back = lab.read(own, LEN - 1)?;
        ensure!(lab.info().simulated || back == bytes[1..], "bytes did not come back");
        lab.unregister(own)?;
    }
    Ok(())
}

fn pinned_memory_is_not_device_memory(lab: &Lab) -> Found {
    let before = lab.free_bytes()?;
    let pinned = lab.pinned(100_000)?;
    let after = lab.free_bytes()?;
    ensure!(after == before, "{before} bytes were free, then {after}");
    lab.free_pinned(pinned)
}
