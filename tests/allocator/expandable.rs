//! The expandable policy: free memory is mapped together, each byte is one block's alone, and
//! streams are ordered where it changes hands.

use std::collections::VecDeque;

use riverbed::Error;
use riverbed::device::{Call, Device, Gate};
use riverbed::pool::{Allocator, Buffer};

use crate::support::{
    MIB, Random, download, give_others_a_chance, stream, wait_until_all_memory_is_back,
};
use crate::{allocator, check, device};

const CONF: &str = "expandable_segments:True";

/// An expandable allocator of at most so many MiB.
fn limited(device: &Device, mib: u64) -> Allocator {
    allocator(device, &format!("{CONF},limit_mb:{mib}"))
}

#[test]
fn free_pieces_are_mapped_together() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 32), stream(&device));
    let mut pieces: Vec<Option<Buffer>> =
        (0..16).map(|_| Some(allocator.alloc::<u8>(2 << 20, &stream).unwrap())).collect();
    for (at, piece) in pieces.iter_mut().enumerate() {
        match piece {
            Some(piece) if at % 2 == 1 => piece.fill(at as u8, &stream).unwrap(),
            _ => *piece = None,
        }
    }
    let before = allocator.stats();
    let whole = allocator.alloc::<u8>(16 << 20, &stream).unwrap();
    whole.fill(0xee, &stream).unwrap();
    let stats = allocator.stats();
    assert_eq!(stats.reserved_bytes.all.current, 32 * MIB, "nothing new was taken");
    assert_eq!(stats.remapped_bytes - before.remapped_bytes, 16 * MIB);
    assert_eq!(stats.mappings, 24);
    check(&allocator);
    for (at, piece) in pieces.iter().enumerate() {
        let Some(piece) = piece else { continue };
        let found = download(&stream, piece.ptr(), piece.len());
        assert!(found.iter().all(|&byte| byte == at as u8), "piece {at} was written over");
    }
    assert!(download(&stream, whole.ptr(), whole.len()).iter().all(|&byte| byte == 0xee));
}

#[test]
fn what_repeats_asks_the_driver_for_nothing() {
    let device = device(256);
    let (allocator, stream) = (limited(&device, 64), stream(&device));
    let round = || {
        let mut random = Random::new(11);
        let mut live = VecDeque::new();
        for _ in 0..600 {
            let bytes = 1 + random.below(6 << 20) as usize;
            live.push_back(allocator.alloc::<u8>(bytes, &stream).unwrap());
            // Most requests of real programs find a free block.
            for small in [1000, 5000, 3000, 1 << 14] {
                drop(allocator.alloc::<u8>(small, &stream).unwrap());
            }
            if live.len() > 12 {
                live.swap_remove_back(random.below(12) as usize);
            }
        }
    };
    // Nearly full and all of it random: it takes a few rounds to settle.
    (0..6).for_each(|_| round());
    assert!(allocator.stats().remapped_bytes > 0, "the program shows nothing");
    let calls = |call| device.calls().get(call);
    let of = [Call::CreatePage, Call::Map, Call::SetAccess, Call::Unmap, Call::Reserve];
    let before = of.map(calls);
    (0..3).for_each(|_| round());
    assert_eq!(of.map(calls), before);
    check(&allocator);
}

/// Fills every block, and looks at it again when it is freed: physical bytes are never shared.
fn every_byte_is_one_blocks_alone(seed: u64, mib: u64, streams: usize) {
    let device = device(64);
    let allocator = limited(&device, mib);
    let streams: Vec<_> = (0..streams).map(|_| stream(&device)).collect();
    let mut random = Random::new(seed);
    let mut live: Vec<(Buffer, u8)> = Vec::new();
    let verify = |(buffer, value): (Buffer, u8), step: u64| {
        let found = download(buffer.stream(), buffer.ptr(), buffer.len());
        assert!(found.iter().all(|&byte| byte == value), "seed {seed}, step {step}: {buffer:?}");
    };
    for step in 0..500u64 {
        let large = random.below(4) == 0;
        let bytes = random.size(if large { 24 } else { 19 }) as usize;
        let at = random.below(streams.len() as u64) as usize;
        match allocator.alloc::<u8>(bytes, &streams[at]) {
            Ok(buffer) => {
                buffer.fill(step as u8, &streams[at]).unwrap();
                live.push((buffer, step as u8));
            }
            Err(Error::OutOfMemory(_)) if !live.is_empty() => {
                for _ in 0..live.len().div_ceil(3) {
                    verify(live.swap_remove(random.below(live.len() as u64) as usize), step);
                }
            }
            Err(error) => panic!("seed {seed}, step {step}: {error}"),
        }
        if live.len() > 20 {
            verify(live.swap_remove(random.below(20) as usize), step);
        }
        if random.below(90) == 0 {
            allocator.trim();
        }
        check(&allocator);
    }
    assert!(allocator.stats().remapped_bytes > 0, "seed {seed} shows nothing");
    live.drain(..).for_each(|block| verify(block, 500));
    check(&allocator);
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn no_byte_is_handed_out_twice_on_one_stream() {
    (0..4).for_each(|seed| every_byte_is_one_blocks_alone(seed, 24, 1));
}

#[test]
fn no_byte_is_handed_out_twice_on_three_streams() {
    (10..14).for_each(|seed| every_byte_is_one_blocks_alone(seed, 40, 3));
}

#[test]
fn another_streams_free_memory_is_taken_behind_its_work() {
    let device = device(64);
    let (giver, taker) = (stream(&device), stream(&device));
    let allocator = limited(&device, 16);
    let gate = Gate::new(&device).unwrap();
    giver.wait_gate(&gate, 1).unwrap();
    let given = allocator.alloc::<u8>(16 << 20, &giver).unwrap();
    given.fill(1, &giver).unwrap();
    drop(given);
    let taken = allocator.alloc::<u8>(12 << 20, &taker).unwrap();
    taken.fill(2, &taker).unwrap();
    assert_eq!(allocator.stats().cross_stream_waits, 1, "one order for all the bytes");
    give_others_a_chance(&device);
    gate.open(1).unwrap();
    giver.synchronize().unwrap();
    assert!(download(&taker, taken.ptr(), taken.len()).iter().all(|&byte| byte == 2));
    check(&allocator);
}

#[test]
fn small_requests_of_one_stream_are_served_by_large_handles_of_another() {
    let device = Device::open("sim:vram=2TiB").unwrap();
    let (allocator, loads) = (allocator(&device, CONF), stream(&device));
    // A program that loads takes handles far larger than the requests that follow.
    let loaded: Vec<Buffer> =
        (0..40).map(|_| allocator.alloc::<u8>(1 << 30, &loads).unwrap()).collect();
    drop(loaded);
    let reserved_bytes = allocator.stats().reserved_bytes.all.current;
    let others: Vec<_> = (0..3).map(|_| stream(&device)).collect();
    let mut live = Vec::new();
    for step in 0..60 {
        for other in &others {
            live.push(allocator.alloc::<u8>((1 + step) << 20, other).unwrap());
        }
        check(&allocator);
    }
    assert_eq!(allocator.stats().reserved_bytes.all.current, reserved_bytes);
}

#[test]
fn a_dedicated_block_freed_elsewhere_hides_nothing_that_is_in_use() {
    let device = device(256);
    let (allocator, stream) = (limited(&device, 160), stream(&device));
    let take = |mib: usize| allocator.alloc::<u8>(mib << 20, &stream).unwrap();
    let pieces: Vec<_> = (0..16).map(|_| take(4)).collect();
    let dedicated = allocator.alloc_dedicated::<u8>(80 << 20, &stream).unwrap();
    let kept: Vec<_> = pieces.into_iter().step_by(2).collect();
    kept.iter().for_each(|piece| piece.fill(7, &stream).unwrap());
    // Something was mapped together, and much was done since.
    drop(take(32));
    for _ in 0..2000 {
        drop((take(1), take(2)));
    }
    std::thread::scope(|scope| scope.spawn(move || drop(dedicated)).join().unwrap());
    let whole = take(40);
    whole.fill(8, &stream).unwrap();
    check(&allocator);
    for piece in &kept {
        let found = download(&stream, piece.ptr(), piece.len());
        assert!(found.iter().all(|&byte| byte == 7), "{piece:?} was written over");
    }
}

#[test]
fn whatever_is_free_can_be_had_where_handles_are_pages() {
    let device = Device::open("sim:vram=1GiB").unwrap();
    for (seed, mib) in [(1, 128), (2, 256), (3, 1000)] {
        let (allocator, stream) = (limited(&device, mib), stream(&device));
        let mut random = Random::new(seed);
        let mut live: Vec<Buffer> = Vec::new();
        let mut probes = 0;
        for step in 0..1500 {
            let held = allocator.stats().allocated_bytes.all.current;
            if !live.is_empty() && (random.below(20) < 9 || held > mib * MIB / 10 * 9) {
                live.swap_remove(random.below(live.len() as u64) as usize);
            } else if let Ok(buffer) =
                allocator.alloc::<u8>(1 + random.below(mib * MIB / 12) as usize, &stream)
            {
                live.push(buffer);
            }
            if step % 25 == 24 {
                // However they lie, blocks keep no more pages from being used than this.
                let pages = |buffer: &Buffer| buffer.size_bytes().div_ceil(2 * MIB) + 1;
                let spoilt = live.iter().map(pages).sum::<u64>() * 2 * MIB;
                if let Some(free) = (mib * MIB).checked_sub(spoilt).filter(|&free| free > 0) {
                    probes += 1;
                    let whole = allocator.alloc::<u8>(free as usize, &stream);
                    drop(whole.unwrap_or_else(|error| panic!("step {step} of {seed}: {error}")));
                }
            }
        }
        assert!(probes > 5, "only {probes} probes");
        check(&allocator);
        live.clear();
        allocator.close().unwrap();
    }
}

#[test]
fn trimming_gives_back_what_is_free_and_nothing_else() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 48), stream(&device));
    let low = allocator.alloc::<u8>(10 << 20, &stream).unwrap();
    let kept = allocator.alloc::<u8>(3 << 20, &stream).unwrap();
    let high = allocator.alloc::<u8>(9 << 20, &stream).unwrap();
    kept.fill(5, &stream).unwrap();
    drop((low, high));
    let reserved = allocator.stats().reserved_bytes.all.current;
    let released = allocator.trim();
    assert_eq!(reserved - released, 4 * MIB, "two pages hold what is in use");
    let memory = device.memory().unwrap();
    assert_eq!(memory.total_bytes - memory.free_bytes, 4 * MIB);
    check(&allocator);
    let again = allocator.alloc::<u8>(40 << 20, &stream).unwrap();
    again.fill(6, &stream).unwrap();
    assert!(download(&stream, kept.ptr(), kept.len()).iter().all(|&byte| byte == 5));
    check(&allocator);
    drop((kept, again));
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn streams_without_memory_are_let_go() {
    let device = device(64);
    let allocator = limited(&device, 32);
    for _ in 0..200 {
        let streams = [stream(&device), stream(&device)];
        let blocks = streams.each_ref().map(|stream| allocator.alloc::<u8>(5000, stream).unwrap());
        drop((blocks, streams));
        allocator.trim();
    }
    check(&allocator);
    let calls = device.calls();
    let kept = calls.get(Call::CreateStream) - calls.get(Call::DestroyStream);
    assert!(kept <= 2, "{kept} streams are kept");
    assert_eq!(calls.get(Call::Reserve), calls.get(Call::Release), "address space is kept");
}

#[test]
fn a_dedicated_request_gets_what_is_cached() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 32), stream(&device));
    drop(allocator.alloc::<u8>(30 << 20, &stream).unwrap());
    let dedicated = allocator.alloc_dedicated::<u8>(20 << 20, &stream).unwrap();
    check(&allocator);
    let rest = allocator.alloc::<u8>(12 << 20, &stream).unwrap();
    let error = allocator.alloc::<u8>(1 << 20, &stream).unwrap_err();
    assert!(error.to_string().contains("free memory mapped together"), "{error}");
    drop((dedicated, rest));
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn raw_blocks_are_found_by_every_address_they_have() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 16), stream(&device));
    let pieces: Vec<_> = (0..8).map(|_| allocator.alloc_raw(2 << 20, &stream).unwrap()).collect();
    // SAFETY: nothing is enqueued on any of these blocks.
    let free = |ptr| unsafe { allocator.free_raw(ptr) };
    pieces.iter().step_by(2).for_each(|&ptr| free(ptr).unwrap());
    let whole = allocator.alloc_raw(8 << 20, &stream).unwrap();
    assert!(free(pieces[0]).is_err(), "it is free, whoever has its bytes now");
    free(whole).unwrap();
    check(&allocator);
    pieces.iter().skip(1).step_by(2).for_each(|&ptr| free(ptr).unwrap());
    drop(allocator);
    wait_until_all_memory_is_back(&device);
}

#[test]
fn raw_blocks_that_are_never_freed_keep_their_handles() {
    let device = device(64);
    let (allocator, stream) = (limited(&device, 32), stream(&device));
    let ptr = allocator.alloc_raw(3 << 20, &stream).unwrap();
    drop(allocator.alloc::<u8>(20 << 20, &stream).unwrap());
    drop(allocator);
    crate::support::wait_until("the rest is back", || {
        device.memory().unwrap().free_bytes == 60 * MIB
    });
    assert_eq!(download(&stream, ptr, 3 << 20).len(), 3 << 20, "still mapped");
}

#[test]
fn where_memory_cannot_be_mapped_caching_stands_in() {
    let device = Device::open("sim:vram=1GiB,vmm=off").unwrap();
    let (allocator, stream) = (allocator(&device, CONF), stream(&device));
    drop(allocator.alloc::<u8>(3 << 20, &stream).unwrap());
    let stats = allocator.stats();
    assert_eq!((stats.segment.all.current, stats.reserved_bytes.all.current), (1, 20 * MIB));
    assert_eq!(stats.mappings, 0);
    check(&allocator);
}
