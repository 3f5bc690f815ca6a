//! Memory of the caller's own: pinned whole, in part, not at all, or while it is copied.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use riverbed::Error;
use riverbed::base::DeviceError;
use riverbed::device::{Call, Gate};
use riverbed::pinned::{AdoptedMemory, PinnedPool};
use riverbed::pool::Buffer;
use riverbed::transfer::Transfer;

use crate::heard::Heard;
use crate::streaming::{KIB, MIB, Random, assert_says, ends, eventually};
use crate::{Bench, CHUNK, bench, bench_with, by_caller, options, pattern};

/// Bytes that tell when they are gone.
struct Watched(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

/// Ranges of every kind: nothing, little, over the ends of slices, much, and all.
fn ranges(len: usize) -> Vec<Range<usize>> {
    vec![
        0..0,
        len..len,
        5..6,
        7..100_000,
        CHUNK - 5..CHUNK + 5,
        CHUNK..9 * CHUNK,
        len / 2 - 99..len,
        0..len,
    ]
}

/// Copies all those ranges and checks what arrives.
fn copies_arrive(bench: &Bench, transfer: &Transfer, memory: &AdoptedMemory, buffer: &Buffer<u8>) {
    for range in ranges(memory.len()) {
        buffer.fill(0xEE, &bench.stream).unwrap();
        let pending = transfer.upload_adopted(memory, range.clone(), buffer, 3).unwrap();
        assert_eq!(pending.total_bytes(), range.len() as u64);
        let back = pending.wait().unwrap();
        assert_eq!(back.as_ptr(), memory.as_ptr());
        let content = bench.transfer.read(buffer, &bench.pinned).unwrap();
        let (before, rest) = content.split_at(3);
        let (there, behind) = rest.split_at(range.len());
        assert!(there == &memory[range.clone()], "{range:?}");
        assert!(before.iter().chain(behind).all(|&byte| byte == 0xEE), "{range:?}");
    }
}

#[test]
fn memory_that_is_pinned_is_copied_from_where_it_lies() {
    ends(|| {
        for options in [options(), by_caller()] {
            let bench = bench_with(&options);
            let bytes = pattern(1, 40 * CHUNK + 77);
            let slices = Some(3 * CHUNK as u64);
            let memory = bench.pinned.adopt_in_background(bytes, slices).unwrap();
            memory.wait();
            assert!(memory.is_pinned());
            let buffer = bench.buffer(memory.len() + 9);
            for transfer in [bench.transfer.clone(), bench.transfer.ahead()] {
                copies_arrive(&bench, &transfer, &memory, &buffer);
            }
            drop(memory);
            bench.is_clean();
        }
    });
}

#[test]
fn what_the_system_does_not_pin_goes_through_slots() {
    ends(|| {
        for nth in [1, 2, 5] {
            let bench = bench();
            let faults = bench.driver.faults();
            faults.fail_nth(Some(Call::Register), nth, DeviceError::OUT_OF_MEMORY);
            let (bytes, slices) = (pattern(2, 40 * CHUNK + 77), Some(5 * CHUNK as u64));
            let adopting = PinnedPool::new(&bench.device, &"pinned_limit_mb:64".parse().unwrap());
            let memory = adopting.adopt_in_background(bytes, slices).unwrap();
            memory.wait();
            assert!(memory.pinned_len() <= nth as usize * 5 * CHUNK, "{}", memory.pinned_len());
            assert_eq!(memory.pinned_len() == 0, nth == 1);
            let buffer = bench.buffer(memory.len() + 9);
            for transfer in [bench.transfer.clone(), bench.transfer.ahead()] {
                copies_arrive(&bench, &transfer, &memory, &buffer);
            }
            drop(memory);
            eventually("all is unpinned", || adopting.stats().adopted_bytes == 0);
            bench.is_clean();
        }
    });
}

#[test]
fn one_warning_tells_why_memory_is_not_pinned_and_what_that_costs() {
    let bench = bench();
    let faults = bench.driver.faults();
    for nth in [1, 2] {
        faults.fail_nth(Some(Call::Register), nth, DeviceError::OUT_OF_MEMORY);
    }
    let (heard, lines) = Heard::new();
    // On this thread, whose warnings are heard.
    let adopted = tracing::subscriber::with_default(heard, || {
        [1 << 20, 2 << 20].map(|len| bench.pinned.adopt(vec![0; len]))
    });
    assert!(adopted.iter().all(|memory| memory.pinned_len() == 0 && memory.error().is_some()));
    let lines = lines.lock().unwrap();
    let [line] = &lines[..] else { panic!("one warning was expected: {lines:?}") };
    assert_says(line, &["0 B of 1.00 MiB", "through pinned memory", "pinned_limit_mb", "error="]);
}

#[test]
fn a_copy_moves_over_to_what_is_pinned_while_it_waits() {
    ends(|| {
        let bench = bench();
        let (chunks, gate) = (40, Gate::new(&bench.device).unwrap());
        let adopting = PinnedPool::new(&bench.device, &"pinned_limit_mb:128".parse().unwrap());
        // Some thousand registrations: the last chunks are not pinned at once.
        let bytes = pattern(3, 16 << 20);
        let memory = adopting.adopt_in_background(bytes, Some(4 * KIB)).unwrap();
        let buffer = bench.buffer(chunks * CHUNK);
        bench.stream.wait_gate(&gate, 1).unwrap();
        buffer.fill(0, &bench.stream).unwrap();
        let from = memory.len() - buffer.len();
        let pending =
            bench.transfer.upload_adopted(&memory, from..memory.len(), &buffer, 0).unwrap();
        memory.wait();
        assert!(memory.is_pinned());
        gate.open(1).unwrap();
        drop(pending.wait().unwrap());
        // What is copied from where it lies is cut at slices; slots are one copy each.
        let batches = bench.device.calls().get(Call::CopyBatch);
        assert!(batches >= chunks as u64 - 6, "{batches} of {chunks}");
        assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == memory[from..]);
    });
}

#[test]
fn copies_are_right_while_memory_is_being_pinned() {
    ends(|| {
        let bench = bench();
        let adopting = PinnedPool::new(&bench.device, &"pinned_limit_mb:128".parse().unwrap());
        let mut random = Random::new(5);
        for round in 0..6 {
            let memory =
                adopting.adopt_in_background(pattern(round, 8 << 20), Some(4 * KIB)).unwrap();
            let buffers = [0, 1, 2].map(|_| bench.buffer(20 * CHUNK));
            let mut asked = 0;
            // The last ones are asked for once no more is pinned.
            while asked < 8 || !memory.is_settled() {
                asked += 1;
                let buffer = &buffers[asked % 3];
                let start = random.below(memory.len());
                let end = (start + 1 + random.below(20 * CHUNK)).min(memory.len());
                let transfer =
                    if asked % 2 == 0 { bench.transfer.clone() } else { bench.transfer.ahead() };
                let pending = transfer.upload_adopted(&memory, start..end, buffer, 0).unwrap();
                if asked % 3 == 0 {
                    drop(pending);
                } else {
                    drop(pending.wait().unwrap());
                }
                let mut back = vec![0; end - start];
                bench.transfer.download_into(buffer, 0, &mut back).unwrap();
                assert!(back == memory[start..end], "{start}..{end}");
            }
        }
        eventually("all is unpinned", || adopting.stats().adopted_bytes == 0);
        bench.is_clean();
    });
}

#[test]
fn everything_may_be_dropped_in_any_order() {
    ends(|| {
        let mut random = Random::from_env(6);
        for round in 0..24 {
            let bench = bench();
            let gate = Gate::new(&bench.device).unwrap();
            let gone = Arc::new(AtomicBool::new(false));
            let owner = Watched(pattern(round, 30 * CHUNK), Arc::clone(&gone));
            // Pinned whole, in part, or not at all.
            let limit = ["pinned_limit_mb:8", "pinned_limit_mb:1", "pinned_limit_mb:0.125"];
            let adopting =
                PinnedPool::new(&bench.device, &limit[round as usize % 3].parse().unwrap());
            let memory = adopting.adopt_in_background(owner, Some(4 * CHUNK as u64)).unwrap();
            let buffer = bench.buffer(memory.len());
            bench.stream.wait_gate(&gate, 1).unwrap();
            buffer.fill(0, &bench.stream).unwrap();
            if round % 2 == 0 {
                memory.wait();
            }
            let transfer =
                if random.below(2) == 0 { bench.transfer.clone() } else { bench.transfer.ahead() };
            let pending = transfer.upload_adopted(&memory, 0..memory.len(), &buffer, 0).unwrap();
            if random.below(3) == 0 {
                pending.cancel();
            }
            let Bench { device, driver, pinned, allocator, stream, transfer: second } = bench;
            let mut drops: Vec<Box<dyn FnOnce()>> = vec![
                Box::new(|| drop(memory)),
                Box::new(|| drop(buffer)),
                Box::new(|| drop(pending)),
                Box::new(|| drop((transfer, second))),
                Box::new(|| drop(adopting)),
                Box::new(|| drop((pinned, allocator))),
                Box::new(|| gate.open(1).unwrap()),
            ];
            while !drops.is_empty() {
                drops.swap_remove(random.below(drops.len()))();
            }
            eventually("the owner is gone", || gone.load(Ordering::SeqCst));
            let calls = |call| device.calls().get(call);
            eventually("all is unpinned", || calls(Call::Register) == calls(Call::Unregister));
            drop((stream, driver));
        }
    });
}

#[test]
fn a_cancelled_copy_ends_and_what_is_behind_it_goes_on() {
    ends(|| {
        let bench = bench();
        let adopting = PinnedPool::new(&bench.device, &"pinned_limit_mb:1".parse().unwrap());
        let (memory, gate) = (
            adopting.adopt_in_background(pattern(7, 40 * CHUNK), Some(4 * KIB)),
            Gate::new(&bench.device).unwrap(),
        );
        let memory = memory.unwrap();
        memory.wait();
        let pinned = memory.pinned_len();
        assert!(pinned > 0 && pinned < memory.len());
        let buffer = bench.buffer(memory.len());
        bench.stream.wait_gate(&gate, 1).unwrap();
        buffer.fill(0, &bench.stream).unwrap();
        let mut pending =
            bench.transfer.upload_adopted(&memory, 0..memory.len(), &buffer, 0).unwrap();
        let progress = pending.progress().unwrap();
        progress.cancel();
        gate.open(1).unwrap();
        assert!(matches!(pending.wait(), Err(Error::Cancelled)));
        assert!(progress.done_bytes() < memory.len() as u64);
        buffer.fill(9, &bench.stream).unwrap();
        let content = bench.transfer.read(&buffer, &bench.pinned).unwrap();
        assert!(content.iter().all(|&byte| byte == 9));
        bench.is_clean();
    });
}

#[test]
fn ranges_outside_either_end_are_refused() {
    let bench = bench();
    let memory = bench.pinned.adopt(pattern(8, MIB as usize));
    let buffer = bench.buffer(CHUNK);
    let len = memory.len();
    #[expect(clippy::reversed_empty_ranges, reason = "what is refused")]
    for (range, offset) in [
        (0..CHUNK + 1, 0),
        (len - 1..len + 1, 0),
        (9..8, 0),
        (0..1, u64::MAX),
        (usize::MAX..usize::MAX, 0),
    ] {
        let refused = bench.transfer.upload_adopted(&memory, range, &buffer, offset);
        assert_says(&refused.err().unwrap().to_string(), &["copy range"]);
    }
}

/// Copies that go through slots in part and whole, alone and beside others.
fn program(bench: &Bench, bytes: &[u8]) -> Vec<Error> {
    let mut errors = Vec::new();
    let buffer = match bench.allocator.alloc::<u8>(bytes.len(), &bench.stream) {
        Ok(buffer) => buffer,
        Err(error) => return vec![error],
    };
    // The first half is pinned, unless that fails.
    let adopting = PinnedPool::new(&bench.device, &"pinned_limit_mb:0.5".parse().unwrap());
    let memory = match adopting.adopt_in_background(bytes.to_vec(), Some(CHUNK as u64)) {
        Ok(memory) => memory,
        Err(error) => return vec![error],
    };
    memory.wait();
    for range in [0..bytes.len(), 0..3 * CHUNK, bytes.len() / 2..bytes.len()] {
        let sent = bench.transfer.upload_adopted(&memory, range.clone(), &buffer, 0);
        match sent.and_then(|pending| pending.wait()) {
            Err(error) => errors.push(error),
            Ok(_) => {
                let mut back = vec![0; range.len()];
                match bench.transfer.download_into(&buffer, 0, &mut back) {
                    Ok(()) => assert!(back == bytes[range]),
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    errors
}

#[test]
fn every_call_may_fail_once() {
    let bytes = pattern(9, 16 * CHUNK);
    let mut told = 0;
    for nth in 1.. {
        let bytes = bytes.clone();
        let (left, errors) = ends(move || {
            let bench = bench();
            bench.driver.faults().fail_nth(None, nth, DeviceError::UNKNOWN);
            let errors = program(&bench, &bytes);
            bench.stream.synchronize().ok();
            let left = bench.driver.faults().clear();
            assert!(program(&bench, &bytes).is_empty(), "call {nth}");
            bench.is_clean();
            (left, errors)
        });
        if left > 0 {
            assert!(nth > 60 && told > 30, "{nth} calls, {told} told");
            break;
        }
        assert!(errors.len() <= 1, "call {nth}: {errors:?}");
        told += errors.len();
    }
}
