//! Stream-ordered pools: who gets freed memory when, and when it goes back to the device. Where a
//! driver's pool places what is its own business, and nothing here looks at it.

use crate::base::{DeviceError, Random};
use crate::device::PoolAttribute::{
    AllowInternalDependencies, AllowOpportunistic, FollowEventDependencies, ReleaseThreshold,
    ReservedCurrent, ReservedHigh, UsedCurrent, UsedHigh,
};
use crate::selftest::check::checks;
use crate::selftest::finding::{ensure, refused};
use crate::selftest::lab::{Found, Lab};

checks! { "pools":
    memory_freed_on_a_stream_is_taken_again_there_at_once [Pools],
    blocks_in_use_keep_their_bytes [Pools, Bytes],
    freed_memory_is_not_written_before_its_stream_is_done [Pools, Bytes],
    a_pool_never_reserves_more_than_its_cap [PoolCaps],
    what_is_kept_and_what_is_trimmed [Pools],
    trimming_leaves_what_is_used [Pools],
    a_pool_given_up_lives_until_its_last_block_is_freed [Pools],
    marks_begin_anew_when_set_to_nothing [Pools],
    memory_of_a_pool_can_be_freed_the_plain_way [Pools],
    a_stream_given_up_still_frees [Pools],
    flags_are_on_at_first_and_stay_as_set [Pools],
}

fn memory_freed_on_a_stream_is_taken_again_there_at_once(lab: &Lab) -> Found {
    let pool = lab.pool(0)?;
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    let bytes = lab.page_bytes();
    let first = lab.pool_alloc(pool, bytes, &stream)?;
    ensure!(first.0.is_multiple_of(512), "{first:?} is not aligned to 512");
    gate.hold(&stream, 1)?;
    lab.pool_free(first, &stream)?;
    let reserved = lab.pool_get(pool, ReservedCurrent)?;
    // More than is reserved, if none of it were taken again.
    for _ in 0..2 * (1 + reserved / bytes) {
        let again = lab.pool_alloc(pool, bytes, &stream)?;
        lab.pool_free(again, &stream)?;
    }
    let after = lab.pool_get(pool, ReservedCurrent)?;
    ensure!(after == reserved, "{reserved} bytes were reserved, then {after}");
    gate.open(1)?;
    lab.sync(&stream)
}

fn blocks_in_use_keep_their_bytes(lab: &Lab) -> Found {
    let pool = lab.pool(0)?;
    let (one, two) = (lab.stream()?, lab.stream()?);
    let mut held = Vec::new();
    for round in 0..24u64 {
        let stream = if round % 2 == 0 { &one } else { &two };
        let bytes = Random::bytes(round, 700 * (round as usize + 1));
        let ptr = lab.pool_alloc(pool, bytes.len() as u64, stream)?;
        lab.upload(stream, ptr, &bytes)?;
        held.push((ptr, bytes, stream));
        if round % 3 == 2 {
            let (ptr, _, stream) = held.swap_remove(0);
            lab.pool_free(ptr, stream)?;
        }
    }
    for (ptr, bytes, stream) in held {
        let found = lab.download(stream, ptr, bytes.len())?;
        ensure!(found == bytes, "{} bytes at {ptr:?} changed while in use", bytes.len());
        lab.pool_free(ptr, stream)?;
    }
    Ok(())
}

fn freed_memory_is_not_written_before_its_stream_is_done(lab: &Lab) -> Found {
    const BYTES: usize = 4096;
    let pool = lab.pool(0)?;
    let (reader, writer) = (lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let seen = lab.pinned(BYTES)?;
    let old = lab.pool_alloc(pool, BYTES as u64, &reader)?;
    lab.fill(&reader, old, BYTES as u64, 1)?;
    lab.sync(&reader)?;
    gate.hold(&reader, 1)?;
    lab.d2h(&reader, seen, old, BYTES as u64)?;
    lab.pool_free(old, &reader)?;
    // Wherever this lies: its first write comes after the read above.
    for _ in 0..8 {
        let new = lab.pool_alloc(pool, BYTES as u64, &writer)?;
        lab.fill(&writer, new, BYTES as u64, 2)?;
    }
    lab.give_others_a_chance()?;
    gate.open(1)?;
    lab.sync(&reader)?;
    lab.sync(&writer)?;
    ensure!(lab.read(seen, BYTES)? == [1; BYTES], "freed memory was written before it was read");
    Ok(())
}

fn a_pool_never_reserves_more_than_its_cap(lab: &Lab) -> Found {
    let page = lab.page_bytes();
    // Real pools grow by tens of MiB; those of small devices by pages.
    let cap = if lab.info().total_bytes >= 1 << 30 { 64 << 20 } else { 4 * page };
    let pool = lab.pool(cap)?;
    let stream = lab.stream()?;
    let mut held = Vec::new();
    let failed = loop {
        match lab.pool_alloc(pool, page, &stream) {
            Ok(ptr) => held.push(ptr),
            Err(error) => break error,
        }
        let given = held.len() as u64 * page;
        ensure!(given <= cap, "{given} bytes came from a pool of at most {cap}");
    };
    refused::<()>(Err(failed), DeviceError::OUT_OF_MEMORY, "more than the cap")?;
    let reserved = lab.pool_get(pool, ReservedCurrent)?;
    ensure!(reserved <= cap, "{reserved} bytes are reserved by a pool of at most {cap}");
    ensure!(!held.is_empty(), "a pool of {cap} bytes has not {page}");
    for ptr in held {
        lab.pool_free(ptr, &stream)?;
    }
    lab.sync(&stream)?;
    let again = lab.pool_alloc(pool, page, &stream)?;
    lab.pool_free(again, &stream)?;
    let nothing = lab.pool_alloc(pool, 0, &stream);
    refused(nothing, DeviceError::INVALID_VALUE, "a block of nothing")?;
    lab.sync(&stream)
}

fn what_is_kept_and_what_is_trimmed(lab: &Lab) -> Found {
    let before = lab.free_bytes()?;
    let page = lab.page_bytes();
    let pool = lab.pool(0)?;
    let stream = lab.stream()?;
    ensure!(lab.pool_get(pool, ReleaseThreshold)? == 0, "the threshold is 0 at first");
    for threshold in [0, u64::MAX] {
        lab.pool_set(pool, ReleaseThreshold, threshold)?;
        let told = lab.pool_get(pool, ReleaseThreshold)?;
        ensure!(told == threshold, "the threshold was set to {threshold} and is {told}");
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(lab.pool_alloc(pool, page, &stream)?);
        }
        held.into_iter().try_for_each(|ptr| lab.pool_free(ptr, &stream))?;
        let reserved = lab.pool_get(pool, ReservedCurrent)?;
        ensure!(reserved >= 4 * page, "{reserved} bytes are reserved for {}", 4 * page);
        lab.sync(&stream)?;
        let kept = lab.pool_get(pool, ReservedCurrent)?;
        let right = if threshold == 0 { kept < reserved } else { kept == reserved };
        ensure!(right, "{kept} of {reserved} bytes are kept with a threshold of {threshold}");
        lab.pool_trim(pool, 0)?;
        let kept = lab.pool_get(pool, ReservedCurrent)?;
        ensure!(kept == 0, "{kept} bytes are kept by a pool trimmed to nothing");
    }
    let after = lab.free_bytes()?;
    ensure!(!lab.is_alone() || after == before, "{before} bytes were free, then {after}");
    Ok(())
}

fn trimming_leaves_what_is_used(lab: &Lab) -> Found {
    let page = lab.page_bytes();
    let pool = lab.pool(0)?;
    lab.pool_set(pool, ReleaseThreshold, u64::MAX)?;
    let stream = lab.stream()?;
    let (used, freed) =
        (lab.pool_alloc(pool, page, &stream)?, lab.pool_alloc(pool, page, &stream)?);
    let bytes = Random::bytes(1, 5000);
    lab.upload(&stream, used, &bytes)?;
    lab.pool_free(freed, &stream)?;
    lab.sync(&stream)?;
    lab.pool_trim(pool, 0)?;
    let reserved = lab.pool_get(pool, ReservedCurrent)?;
    ensure!(reserved >= page, "{reserved} bytes are reserved with {page} in use");
    ensure!(lab.shows(&stream, used, &bytes)?, "trimming changed a block in use");
    lab.pool_free(used, &stream)?;
    lab.sync(&stream)?;
    lab.pool_trim(pool, 0)?;
    let reserved = lab.pool_get(pool, ReservedCurrent)?;
    ensure!(reserved == 0, "{reserved} bytes are reserved with none in use");
    Ok(())
}

fn a_pool_given_up_lives_until_its_last_block_is_freed(lab: &Lab) -> Found {
    let before = lab.free_bytes()?;
    let pool = lab.pool(0)?;
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    gate.hold(&stream, 1)?;
    let memory = lab.pool_alloc(pool, 5000, &stream)?;
    let bytes = Random::bytes(1, 5000);
    let (there, back) = (lab.pinned_with(&bytes)?, lab.pinned(5000)?);
    lab.destroy_pool(pool)?; // does not wait: the gate is closed
    lab.h2d(&stream, memory, there, 5000)?;
    lab.d2h(&stream, back, memory, 5000)?;
    lab.pool_free(memory, &stream)?;
    gate.open(1)?;
    lab.sync(&stream)?;
    let right = lab.info().simulated || lab.read(back, 5000)? == bytes;
    ensure!(right, "a block lost its bytes when its pool was given up");
    let after = lab.free_bytes()?;
    ensure!(!lab.is_alone() || after == before, "{before} bytes were free, then {after}");
    Ok(())
}

fn marks_begin_anew_when_set_to_nothing(lab: &Lab) -> Found {
    let page = lab.page_bytes();
    let pool = lab.pool(0)?;
    let stream = lab.stream()?;
    let (one, two) = (lab.pool_alloc(pool, page, &stream)?, lab.pool_alloc(pool, 1, &stream)?);
    let used = lab.pool_get(pool, UsedCurrent)?;
    ensure!(used > page, "{used} bytes are used, {page} and one more were taken");
    ensure!(lab.pool_get(pool, UsedHigh)? == used, "the mark is the most that was used");
    lab.pool_free(one, &stream)?;
    lab.sync(&stream)?;
    let left = lab.pool_get(pool, UsedCurrent)?;
    ensure!((1..=used - page).contains(&left), "{left} bytes are used, {page} of {used} freed");
    ensure!(lab.pool_get(pool, UsedHigh)? == used, "the mark stays");
    lab.pool_set(pool, UsedHigh, 0)?;
    lab.pool_set(pool, ReservedHigh, 0)?;
    let high = lab.pool_get(pool, UsedHigh)?;
    ensure!(high == left, "the mark begins anew at {left}, not at {high}");
    let (high, now) = (lab.pool_get(pool, ReservedHigh)?, lab.pool_get(pool, ReservedCurrent)?);
    ensure!(high == now, "the mark begins anew at {now}, not at {high}");
    lab.pool_free(two, &stream)?;
    lab.sync(&stream)
}

fn memory_of_a_pool_can_be_freed_the_plain_way(lab: &Lab) -> Found {
    let pool = lab.pool(0)?;
    let stream = lab.stream()?;
    let memory = lab.pool_alloc(pool, 5000, &stream)?;
    lab.sync(&stream)?;
    lab.pool_free_now(memory)?;
    let used = lab.pool_get(pool, UsedCurrent)?;
    ensure!(used == 0, "{used} bytes are used, and all was freed");
    lab.sync(&stream)
}

fn a_stream_given_up_still_frees(lab: &Lab) -> Found {
    let before = lab.free_bytes()?;
    let pool = lab.pool(0)?;
    let (going, staying) = (lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let freed = lab.event()?;
    gate.hold(&going, 1)?;
    let memory = lab.pool_alloc(pool, 5000, &going)?;
    lab.pool_free(memory, &going)?;
    freed.record(&going)?;
    lab.give_up(going)?;
    gate.open(1)?;
    lab.reach(&freed)?;
    lab.sync(&staying)?;
    let used = lab.pool_get(pool, UsedCurrent)?;
    ensure!(used == 0, "{used} bytes are used, and all was freed");
    let after = lab.free_bytes()?;
    ensure!(!lab.is_alone() || after == before, "{before} bytes were free, then {after}");
    Ok(())
}

fn flags_are_on_at_first_and_stay_as_set(lab: &Lab) -> Found {
    let pool = lab.pool(0)?;
    for flag in [FollowEventDependencies, AllowOpportunistic, AllowInternalDependencies] {
        let first = lab.pool_get(pool, flag)?;
        ensure!(first == 1, "{flag:?} is {first} at first");
        for value in [0, 1, 0] {
            lab.pool_set(pool, flag, value)?;
            let told = lab.pool_get(pool, flag)?;
            ensure!(told == value, "{flag:?} was set to {value} and is {told}");
        }
    }
    Ok(())
}
