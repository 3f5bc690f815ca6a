//! Chunks come when there is room for them; what is enqueued around the copy never sees that.

use riverbed::device::{Call, Gate, checksum};
use riverbed::transfer::Urgency;

use crate::streaming::{MIB, Random, ends, eventually, stream};
use crate::{Bench, CHUNK, bench, bench_with, by_caller, pattern};

#[test]
fn large_copies_arrive_whole_both_ways_whoever_drives() {
    for options in [crate::options(), by_caller()] {
        ends(move || {
            let bench = bench_with(&options);
            for (number, len) in [3 * CHUNK, 4 * CHUNK, 20 * CHUNK + 777].into_iter().enumerate() {
                for transfer in [bench.transfer.clone(), bench.transfer.ahead()] {
                    let bytes = pattern(number as u64, len);
                    let buffer = bench.buffer(len + 9);
                    buffer.fill(0xEE, &bench.stream).unwrap();
                    let up = transfer.upload(bench.block(&bytes), &buffer, 5).unwrap();
                    let back = bench.pinned.alloc(len).unwrap();
                    let down = transfer.download(&buffer, 5, back).unwrap();
                    assert_eq!(up.total_bytes(), len as u64);
                    assert!(up.wait().unwrap()[..] == bytes[..], "the block comes back");
                    assert!(down.wait().unwrap()[..] == bytes[..]);
                    let all = bench.transfer.read(&buffer, &bench.pinned).unwrap();
                    let around = all[..5].iter().chain(&all[5 + len..]);
                    assert!(around.into_iter().all(|&byte| byte == 0xEE));
                }
            }
            bench.is_clean();
        });
    }
}

#[test]
fn chunks_are_given_to_the_device_only_as_those_before_them_are_done() {
    ends(|| {
        let bench = bench();
        let (gate, len) = (Gate::new(&bench.device).unwrap(), 40 * CHUNK);
        let buffer = bench.buffer(len);
        bench.stream.wait_gate(&gate, 1).unwrap();
        let source = bench.source(&pattern(1, len));
        let copies = || bench.device.calls().get(Call::CopyH2d);
        let pending = bench.transfer.ahead().upload_shared(&source, &buffer, 0).unwrap();
        let more = bench.transfer.ahead().upload_shared(&source, &buffer, 0).unwrap();
        assert_eq!(copies(), 3, "three are under way, and stand behind the buffer's stream");
        assert_eq!(bench.transfer.progress().h2d.submitted_bytes, 3 * CHUNK as u64);
        gate.open(1).unwrap();
        pending.wait().unwrap();
        more.wait().unwrap();
        assert_eq!(copies(), 80);
        let progress = bench.transfer.progress().h2d;
        assert_eq!(
            (progress.submitted_bytes, progress.requested_bytes),
            (80 * CHUNK as u64, 80 * CHUNK as u64)
        );
        assert_eq!(progress.copies, 80);
    });
}

#[test]
fn work_on_any_stream_after_the_call_comes_after_the_last_chunk() {
    ends(|| {
        let bench = bench();
        let len = 30 * CHUNK + 1;
        for round in 0..20 {
            let bytes = pattern(round, len);
            let buffer = bench.buffer(len);
            let sums = bench.allocator.alloc::<u64>(1, &bench.stream).unwrap();
            drop(bench.transfer.ahead().upload(bench.block(&bytes), &buffer, 0).unwrap());
            let reader = if round % 2 == 0 { bench.stream.clone() } else { stream(&bench.device) };
            buffer.checksum(0, len as u64, &sums, 0, &reader).unwrap();
            buffer.fill(1, &bench.stream).unwrap();
            assert_eq!(bench.transfer.read(&sums, &bench.pinned).unwrap(), [checksum(&bytes)]);
        }
        bench.is_clean();
    });
}

#[test]
fn memory_dropped_at_once_is_kept_until_the_last_chunk() {
    ends(|| {
        let bench = bench();
        let gate = Gate::new(&bench.device).unwrap();
        let len = 30 * CHUNK;
        let buffer = bench.buffer(len);
        let address = buffer.ptr();
        bench.stream.wait_gate(&gate, 1).unwrap();
        drop(bench.transfer.upload(bench.block(&pattern(3, len)), &buffer, 0).unwrap());
        drop(buffer);
        drop(bench.transfer.clone());
        assert_eq!(bench.pinned.stats().retired_bytes, len as u64);
        let other = bench.buffer(len);
        assert_ne!(other.ptr(), address, "chunks are still to come");
        gate.open(1).unwrap();
        bench.is_clean();
        drop(other);
    });
}

#[test]
fn what_is_held_back_goes_on_when_the_transfer_is_gone() {
    ends(|| {
        let bench = bench();
        let (gate, len) = (Gate::new(&bench.device).unwrap(), 30 * CHUNK);
        let (bytes, buffer) = (pattern(4, len), bench.buffer(len));
        bench.stream.wait_gate(&gate, 1).unwrap();
        let Bench { device, pinned, transfer, allocator, driver: _driver, stream: home } = bench;
        let mut block = pinned.alloc(len).unwrap();
        block.copy_from_slice(&bytes);
        let pending = transfer.upload(block, &buffer, 0).unwrap();
        drop(transfer);
        gate.open(1).unwrap();
        assert!(pending.wait().unwrap()[..] == bytes[..]);
        let transfer = riverbed::transfer::Transfer::new(&device).unwrap();
        assert!(transfer.read(&buffer, &pinned).unwrap() == bytes);
        drop((buffer, home, allocator));
    });
}

#[test]
fn nobody_drives_any_more_and_streams_behind_the_copy_go_on() {
    ends(|| {
        let bench = bench_with(&by_caller());
        let len = 30 * CHUNK;
        let buffer = bench.buffer(len);
        let pending = bench.transfer.upload(bench.block(&pattern(5, len)), &buffer, 0).unwrap();
        buffer.use_on(&bench.stream).unwrap();
        drop(pending);
        let (allocator, pinned) = (bench.allocator, bench.pinned);
        drop(bench.transfer);
        bench.stream.synchronize().unwrap();
        drop(buffer);
        eventually("every use is over", || {
            pinned.stats().retired_bytes == 0 && allocator.stats().retired_bytes == 0
        });
    });
}

/// Demand that depends on speculation: it overtakes, and must not stand in its way.
#[test]
fn demand_that_waits_for_speculation_does_not_hold_it_up() {
    ends(|| {
        let bench = bench();
        let len = 40 * CHUNK;
        let (first, second) = (pattern(6, len), pattern(7, len));
        let (a, b) = (bench.buffer(len), bench.buffer(len));
        let sums = bench.allocator.alloc::<u64>(1, &bench.stream).unwrap();
        let compute = stream(&bench.device);
        let gate = Gate::new(&bench.device).unwrap();
        bench.stream.wait_gate(&gate, 1).unwrap();
        for round in 0..30 {
            let ahead = bench.transfer.ahead().upload(bench.block(&first), &a, 0).unwrap();
            a.checksum(0, len as u64, &sums, 0, &compute).unwrap();
            b.fill(round, &compute).unwrap();
            let demand = bench.transfer.upload(bench.block(&second), &b, 0).unwrap();
            let small = bench.transfer.upload(bench.block(&second[..99]), &b, 0).unwrap();
            gate.open(1).unwrap();
            small.wait().unwrap();
            demand.wait().unwrap();
            ahead.wait().unwrap();
            assert_eq!(bench.transfer.read(&sums, &bench.pinned).unwrap(), [checksum(&first)]);
            assert!(bench.transfer.read(&b, &bench.pinned).unwrap() == second);
        }
    });
}

/// Any mix, from several threads, that depend on each other through their buffers and streams.
#[test]
fn threads_that_copy_both_ways_between_shared_buffers_never_wait_for_ever() {
    ends(|| {
        let bench = bench();
        let buffers: Vec<_> = (0..4).map(|_| bench.buffer(12 * CHUNK)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (bench, buffers) = (&bench, &buffers);
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    let own = stream(&bench.device);
                    let mut kept = Vec::new();
                    for _ in 0..60 {
                        let buffer = &buffers[random.below(4)];
                        let len = 1 + random.below(12 * CHUNK);
                        let urgency = [Urgency::Demand, Urgency::Ahead][random.below(2)];
                        let transfer = match urgency {
                            Urgency::Demand => bench.transfer.clone(),
                            Urgency::Ahead => bench.transfer.ahead(),
                        };
                        let Ok(block) = bench.pinned.alloc(len) else {
                            kept.clear();
                            continue;
                        };
                        match random.below(5) {
                            0 => buffer.fill(thread as u8, &own).unwrap(),
                            1 => kept.push(transfer.download(buffer, 0, block).unwrap()),
                            2 => drop(transfer.upload(block, buffer, 0).unwrap()),
                            3 => transfer.upload(block, buffer, 0).unwrap().cancel(),
                            _ => kept.push(transfer.upload(block, buffer, 0).unwrap()),
                        }
                        if kept.len() > 5 {
                            let pending = kept.swap_remove(random.below(kept.len()));
                            pending.order_before(&own).unwrap();
                            pending.wait().unwrap();
                        }
                    }
                });
            }
        });
        drop(buffers);
        bench.is_clean();
        assert!(bench.pinned.stats().reserved_bytes <= 32 * MIB);
    });
}
