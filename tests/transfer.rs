//! Copies and the pinned pool: right bytes, right order, memory that lives as long as it is
//! used and no longer, and a budget that is never exceeded.

#[path = "support/model_files.rs"]
mod model_files;
#[path = "support/streaming.rs"]
mod streaming;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use riverbed::Error;
use riverbed::conf::Conf;
use riverbed::device::{Device, Event, Gate, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::transfer::Transfer;

use streaming::{KIB, MIB, Random, assert_says, ends, eventually, host, stream, waits};

/// What copies need.
struct Bench {
    device: Device,
    pinned: PinnedPool,
    allocator: Allocator,
    stream: Stream,
    transfer: Transfer,
}

fn bench() -> Bench {
    let (device, _) = host(64);
    Bench {
        pinned: pool(&device, 32 * MIB),
        allocator: Allocator::builder(&device).build().unwrap(),
        stream: stream(&device),
        transfer: Transfer::new(&device).unwrap(),
        device,
    }
}

fn pool(device: &Device, budget_bytes: u64) -> PinnedPool {
    PinnedPool::new(device, &Conf::default().with_pinned_limit_bytes(budget_bytes).unwrap())
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| (random.next() >> 32) as u8).collect()
}

#[test]
fn what_is_uploaded_is_downloaded_at_every_size_and_offset() {
    ends(|| {
        let bench = bench();
        let cases = [(0, 0), (1, 0), (1, 99), (4095, 1), (4096, 4096), (4097, 3), (3_000_001, 777)];
        for (number, (len, offset)) in cases.into_iter().enumerate() {
            let whole = len + offset + 5;
            let buffer = bench.allocator.alloc::<u8>(whole, &bench.stream).unwrap();
            buffer.fill(0xEE, &bench.stream).unwrap();
            let bytes = pattern(number as u64, len);
            let mut block = bench.pinned.alloc(len).unwrap();
            block.copy_from_slice(&bytes);
            let pending = bench.transfer.upload(block, &buffer, offset as u64).unwrap();
            let back = bench.pinned.alloc(len).unwrap();
            let back = bench.transfer.download(&buffer, offset as u64, back).unwrap();
            assert_eq!(&back.wait().unwrap()[..], &bytes[..], "{len} at {offset}");
            assert!(pending.is_done().unwrap(), "the download came after the upload");
            assert_eq!(&pending.wait().unwrap()[..], &bytes[..], "the block comes back as it was");
            let all = bench.transfer.read(&buffer, &bench.pinned).unwrap();
            assert_eq!(&all[offset..offset + len], &bytes[..]);
            let around = all[..offset].iter().chain(&all[offset + len..]);
            assert!(around.into_iter().all(|&byte| byte == 0xEE), "{len} at {offset}");
        }
    });
}

#[test]
fn a_copy_out_of_its_buffer_is_refused_and_changes_nothing() {
    ends(|| {
        let bench = bench();
        let buffer = bench.allocator.alloc::<u32>(25, &bench.stream).unwrap();
        buffer.fill(7, &bench.stream).unwrap();
        for (len, offset) in [(101, 0), (1, 100), (2, 99), (0, 101), (1, u64::MAX), (100, 1)] {
            let text = |error: Error| error.to_string();
            let up = bench.transfer.upload(bench.pinned.alloc(len).unwrap(), &buffer, offset);
            assert_says(&text(up.err().unwrap()), &["copy range", "the buffer has 100 bytes"]);
            let source = bench.pinned.alloc(len).unwrap().freeze();
            assert!(bench.transfer.upload_shared(&source, &buffer, offset).is_err());
            let down = bench.transfer.download(&buffer, offset, bench.pinned.alloc(len).unwrap());
            assert_says(&text(down.err().unwrap()), &["copy range", "the buffer has 100 bytes"]);
        }
        assert_eq!(bench.transfer.read(&buffer, &bench.pinned).unwrap(), [0x0707_0707; 25]);
    });
}

#[test]
fn another_devices_block_or_buffer_is_refused() {
    let (here, there) = (bench(), bench());
    let buffer = here.allocator.alloc::<u8>(10, &here.stream).unwrap();
    let foreign = there.pinned.alloc(10).unwrap();
    let error = here.transfer.upload(foreign, &buffer, 0).err().unwrap();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    let block = there.pinned.alloc(10).unwrap();
    assert!(there.transfer.upload(block, &buffer, 0).is_err());
    let block = here.pinned.alloc(10).unwrap();
    assert!(there.transfer.download(&buffer, 0, block).is_err());
    let pending = here.transfer.upload(here.pinned.alloc(10).unwrap(), &buffer, 0).unwrap();
    assert!(pending.order_before(&there.stream).is_err());
    drop(pending);
}

#[test]
fn a_download_comes_after_what_produces_the_bytes() {
    ends(|| {
        let bench = bench();
        let buffer = bench.allocator.alloc::<u8>(5000, &bench.stream).unwrap();
        buffer.fill(1, &bench.stream).unwrap();
        let gate = Gate::new(&bench.device).unwrap();
        bench.stream.wait_gate(&gate, 1).unwrap();
        buffer.fill(2, &bench.stream).unwrap();
        let block = bench.pinned.alloc(5000).unwrap();
        let pending = bench.transfer.download(&buffer, 0, block).unwrap();
        assert!(!pending.is_done().unwrap());
        gate.open(1).unwrap();
        assert!(pending.wait().unwrap().iter().all(|&byte| byte == 2));
    });
}

#[test]
fn work_ordered_behind_a_copy_sees_it() {
    ends(|| {
        let bench = bench();
        let bytes = pattern(5, 100_000);
        let buffer = bench.allocator.alloc::<u8>(bytes.len(), &bench.stream).unwrap();
        let out = bench.allocator.alloc::<u64>(1, &bench.stream).unwrap();
        let gate = Gate::new(&bench.device).unwrap();
        // The copy waits for the stream that holds the buffer, and the reader for the copy.
        bench.stream.wait_gate(&gate, 1).unwrap();
        let mut block = bench.pinned.alloc(bytes.len()).unwrap();
        block.copy_from_slice(&bytes);
        let pending = bench.transfer.upload(block, &buffer, 0).unwrap();
        let reader = stream(&bench.device);
        pending.order_before(&reader).unwrap();
        let mark = Event::new(&bench.device).unwrap();
        mark.record(&reader).unwrap();
        buffer.checksum(0, bytes.len() as u64, &out, 0, &reader).unwrap();
        assert!(!mark.query().unwrap(), "the reader ran before the copy");
        gate.open(1).unwrap();
        let sums = bench.transfer.read(&out, &bench.pinned).unwrap();
        assert_eq!(sums, [riverbed::device::checksum(&bytes)]);
        assert!(mark.query().unwrap() && pending.is_done().unwrap());
        drop(pending);
    });
}

#[test]
fn one_source_feeds_many_buffers_and_lives_as_long_as_their_copies() {
    ends(|| {
        let bench = bench();
        let bytes = pattern(6, 70_000);
        let mut block = bench.pinned.alloc(bytes.len()).unwrap();
        block.copy_from_slice(&bytes);
        let source = block.freeze();
        let gate = Gate::new(&bench.device).unwrap();
        bench.stream.wait_gate(&gate, 1).unwrap();
        let buffers: Vec<_> = (0..5)
            .map(|_| bench.allocator.alloc::<u8>(bytes.len(), &bench.stream).unwrap())
            .collect();
        for buffer in &buffers {
            drop(bench.transfer.upload_shared(&source, buffer, 0).unwrap());
        }
        drop(source);
        scribble(&bench);
        gate.open(1).unwrap();
        for buffer in &buffers {
            assert!(bench.transfer.read(buffer, &bench.pinned).unwrap() == bytes);
        }
    });
}

/// Takes and overwrites all pinned memory that can be had.
fn scribble(bench: &Bench) -> u64 {
    let mut blocks = Vec::new();
    while let Ok(mut block) = bench.pinned.alloc(64 << 10) {
        block.fill(0xBD);
        blocks.push(block);
    }
    blocks.len() as u64 * 64 * KIB
}

#[test]
fn dropping_everything_early_keeps_the_memory_until_the_copy_has_run() {
    ends(|| {
        for _ in 0..20 {
            let bench = bench();
            let bytes = pattern(7, 200_000);
            let buffer = bench.allocator.alloc::<u8>(bytes.len(), &bench.stream).unwrap();
            let gate = Gate::new(&bench.device).unwrap();
            bench.stream.wait_gate(&gate, 1).unwrap();
            let mut block = bench.pinned.alloc(bytes.len()).unwrap();
            block.copy_from_slice(&bytes);
            let before = waits(&bench.device);
            drop(bench.transfer.upload(block, &buffer, 0).unwrap());
            assert_eq!(waits(&bench.device), before, "nobody waited");
            let retired = bench.pinned.stats().retired_bytes;
            assert_eq!(retired, 200_704, "the block is out of use but not free");
            // Whoever takes pinned memory now does not get the block's.
            assert_eq!(scribble(&bench), 32 * MIB - 256 * KIB);
            gate.open(1).unwrap();
            assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == bytes);
            eventually("every use is over", || bench.pinned.stats().retired_bytes == 0);
            bench.pinned.check().unwrap();
        }
    });
}

#[test]
fn a_buffer_dropped_under_a_copy_is_not_given_to_anyone_before_it_has_run() {
    ends(|| {
        let bench = bench();
        let gate = Gate::new(&bench.device).unwrap();
        let blocked = stream(&bench.device);
        blocked.wait_gate(&gate, 1).unwrap();
        let buffer = bench.allocator.alloc::<u8>(100_000, &bench.stream).unwrap();
        let address = buffer.ptr();
        buffer.use_on(&blocked).unwrap();
        let block = bench.pinned.alloc(100_000).unwrap();
        let pending = bench.transfer.upload(block, &buffer, 0).unwrap();
        drop(buffer);
        assert!(bench.allocator.stats().retired_bytes >= 100_000);
        let other = bench.allocator.alloc::<u8>(100_000, &bench.stream).unwrap();
        assert_ne!(other.ptr(), address);
        gate.open(1).unwrap();
        pending.wait().unwrap();
        eventually("the memory is free again", || bench.allocator.stats().retired_bytes == 0);
        let again = bench.allocator.alloc::<u8>(100_000, &bench.stream).unwrap();
        assert_eq!(again.ptr(), address);
        bench.allocator.check().unwrap();
    });
}

#[test]
fn a_download_that_nobody_waits_for_does_not_scribble_on_reused_memory() {
    ends(|| {
        let bench = bench();
        let gate = Gate::new(&bench.device).unwrap();
        let buffer = bench.allocator.alloc::<u8>(64 << 10, &bench.stream).unwrap();
        buffer.fill(0x11, &bench.stream).unwrap();
        bench.stream.wait_gate(&gate, 1).unwrap();
        buffer.use_on(&bench.stream).unwrap();
        let block = bench.pinned.alloc(64 << 10).unwrap();
        drop(bench.transfer.download(&buffer, 0, block).unwrap());
        let mut taken = Vec::new();
        while let Ok(mut block) = bench.pinned.alloc(64 << 10) {
            block.fill(0x22);
            taken.push(block);
        }
        gate.open(1).unwrap();
        eventually("the download has run", || bench.pinned.stats().retired_bytes == 0);
        assert!(taken.iter().all(|block| block.iter().all(|&byte| byte == 0x22)));
    });
}

#[test]
fn pinned_blocks_have_the_size_asked_for_and_waste_less_than_a_page() {
    let (device, _) = host(2);
    let pool = pool(&device, 64 * MIB);
    let mut asked = 0;
    let sizes = [1, 4096, 4097, 100_000, 3_000_000, 5_000_001, (8 << 20) + 1, 0];
    let blocks: Vec<_> = sizes
        .iter()
        .map(|&len| {
            let block = pool.alloc(len).unwrap();
            assert_eq!(block.len(), len);
            assert_eq!(block.as_ptr() as usize % 4096, 0);
            assert!(block.iter().all(|&byte| byte == 0), "a new block is zeroed");
            asked += len as u64;
            let active = pool.stats().active_bytes;
            assert!(active - asked <= 4096 * sizes.len() as u64, "{active} for {asked}");
            block
        })
        .collect();
    let stats = pool.stats();
    let exact: u64 = sizes.iter().map(|&len| (len.max(1) as u64).next_multiple_of(4096)).sum();
    assert_eq!(stats.active_bytes, exact);
    // Small blocks share slabs of 2 MiB; large ones have slabs of their own size.
    assert!(stats.reserved_bytes - exact <= 2 * MIB, "{stats:?}");
    drop(blocks);
    assert_eq!(pool.stats().active_bytes, 0);
    pool.check().unwrap();
}

#[test]
fn a_slow_stream_holds_up_only_its_own_pinned_blocks() {
    ends(|| {
        let bench = bench();
        let (slow, fast) = (stream(&bench.device), stream(&bench.device));
        let gate = Gate::new(&bench.device).unwrap();
        slow.wait_gate(&gate, 1).unwrap();
        let size = 3 << 20;
        let (held, quick) = (bench.pinned.alloc(size).unwrap(), bench.pinned.alloc(size).unwrap());
        let (held_at, quick_at) = (held.as_ptr(), quick.as_ptr());
        held.record_use(&slow).unwrap();
        quick.record_use(&fast).unwrap();
        drop(held); // First in line, last to be free.
        drop(quick);
        fast.synchronize().unwrap();
        let reserved = bench.pinned.stats().reserved_bytes;
        let again = bench.pinned.alloc(size).unwrap();
        assert_eq!(again.as_ptr(), quick_at);
        assert_eq!(bench.pinned.stats().reserved_bytes, reserved, "nothing new was pinned");
        let other = bench.pinned.alloc(size).unwrap();
        assert_ne!(other.as_ptr(), held_at);
        gate.open(1).unwrap();
        slow.synchronize().unwrap();
        assert_eq!(bench.pinned.alloc(size).unwrap().as_ptr(), held_at);
    });
}

#[test]
fn freed_neighbours_merge_and_large_blocks_are_split_again() {
    let (device, _) = host(2);
    let pool = pool(&device, 2 * MIB);
    let parts: Vec<_> = (0..8).map(|_| pool.alloc(256 << 10).unwrap()).collect();
    assert!(pool.alloc(1).is_err());
    drop(parts);
    let whole = pool.alloc(2 << 20).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 2 * MIB);
    drop(whole);
    let first = pool.alloc(4096).unwrap();
    let rest = pool.alloc((2 << 20) - 4096).unwrap();
    assert!(pool.alloc(1).is_err());
    pool.check().unwrap();
    drop((first, rest));
    assert_eq!(pool.trim(), 2 * MIB);
    assert_eq!(pool.stats().reserved_bytes, 0);
    assert_eq!(pool.trim(), 0);
}

#[test]
fn trimming_keeps_what_is_in_use_and_what_a_stream_still_reads() {
    ends(|| {
        let bench = bench();
        let gate = Gate::new(&bench.device).unwrap();
        bench.stream.wait_gate(&gate, 1).unwrap();
        let kept = bench.pinned.alloc(3 << 20).unwrap();
        let read = bench.pinned.alloc(4 << 20).unwrap();
        drop(bench.pinned.alloc(5 << 20).unwrap());
        read.record_use(&bench.stream).unwrap();
        drop(read);
        assert_eq!(bench.pinned.trim(), 5 * MIB);
        assert_eq!(bench.pinned.stats().reserved_bytes, 7 * MIB);
        gate.open(1).unwrap();
        bench.stream.synchronize().unwrap();
        assert_eq!(bench.pinned.trim(), 4 * MIB);
        drop(kept);
        assert_eq!(bench.pinned.trim(), 3 * MIB);
        bench.pinned.check().unwrap();
    });
}

#[test]
fn a_full_budget_is_an_error_that_says_what_is_held_and_what_to_do() {
    let (device, _) = host(2);
    let pool = pool(&device, 10 * MIB);
    let held = pool.alloc(8 << 20).unwrap();
    let error = pool.alloc(3 << 20).unwrap_err();
    let Error::PinnedBudget { requested_bytes, reserved_bytes, budget_bytes } = &error else {
        panic!("{error}")
    };
    assert_eq!((*requested_bytes, *reserved_bytes, *budget_bytes), (3 * MIB, 8 * MIB, 10 * MIB));
    assert!(error.is_retryable());
    assert_says(
        &error.to_string(),
        &["pinned", "3.00 MiB", "8.00 MiB", "10.00 MiB", "raise the budget"],
    );
    pool.alloc(2 << 20).unwrap();
    drop(held);
    // What is free is unpinned where another size is wanted.
    pool.alloc(10 << 20).unwrap();
    assert_eq!(pool.stats().reserved_peak_bytes, 10 * MIB);
    assert!(matches!(pool.alloc(usize::MAX), Err(Error::InvalidArgument { .. })));
}

#[test]
fn the_budget_holds_under_four_threads_and_nobody_shares_a_block() {
    ends(|| {
        let (device, _) = host(2);
        let pool = pool(&device, 5 * MIB);
        let refused = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|number: u64| {
                let (pool, device, refused) = (pool.clone(), device.clone(), Arc::clone(&refused));
                std::thread::spawn(move || {
                    let mut random = Random::new(number);
                    let own = stream(&device);
                    let mut held: Vec<(u8, riverbed::pinned::PinnedBlock)> = Vec::new();
                    for step in 0..400 {
                        if held.len() > 6 || (random.below(3) == 0 && !held.is_empty()) {
                            let (mark, block) = held.swap_remove(random.below(held.len()));
                            assert!(block.iter().step_by(509).all(|&byte| byte == mark));
                            block.record_use(&own).unwrap();
                            continue;
                        }
                        match pool.alloc(1 + random.below(700_000)) {
                            Ok(mut block) => {
                                let mark = (number * 61 + step) as u8;
                                block.fill(mark);
                                held.push((mark, block));
                            }
                            Err(Error::PinnedBudget { .. }) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        assert!(pool.stats().reserved_bytes <= 5 * MIB);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        pool.check().unwrap();
        let stats = pool.stats();
        assert!(stats.reserved_peak_bytes <= 5 * MIB, "{stats:?}");
        assert!(refused.load(Ordering::Relaxed) > 0, "the budget was never reached");
        eventually("every use is over", || pool.stats().retired_bytes == 0);
        assert_eq!(pool.stats().active_bytes, 0);
    });
}

#[test]
fn a_block_outlives_its_pool_and_a_stream_outlives_both() {
    ends(|| {
        let bench = bench();
        let gate = Gate::new(&bench.device).unwrap();
        bench.stream.wait_gate(&gate, 1).unwrap();
        let freed = || bench.device.calls().get(riverbed::device::Call::Unregister);
        let block = bench.pinned.alloc(1 << 20).unwrap();
        block.record_use(&bench.stream).unwrap();
        let before = waits(&bench.device);
        drop(bench.pinned);
        assert_eq!(freed(), 0);
        drop(block);
        assert!(waits(&bench.device) <= before + 1, "only the background may wait");
        assert_eq!(freed(), 0, "the stream still uses it");
        gate.open(1).unwrap();
        eventually("the slab is unpinned", || freed() == 1);
    });
}
