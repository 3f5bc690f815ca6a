//! A copy in parts: neighbours travel together, others in one call.

use riverbed::device::{Call, Device, Event};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::transfer::{Driven, Part, Transfer, TransferOptions};

use crate::streaming::{MIB, Random, assert_says, ends, stream};
use crate::{CHUNK, bench, pattern};

/// Parts of 4 to 64 KiB that follow each other on both sides, as the tensors of a packed layer.
fn layer(count: usize) -> (Vec<Part>, usize) {
    let mut random = Random::new(1);
    let mut end = 0;
    let mut parts = Vec::new();
    for _ in 0..count {
        let len_bytes = (4 << 10) + random.below(60 << 10) as u64;
        parts.push(Part { block_offset: end, buffer_offset: end, len_bytes });
        end += len_bytes;
    }
    (parts, end as usize)
}

#[test]
fn a_layer_of_small_tensors_travels_as_its_bytes_would() {
    ends(|| {
        let bench = bench();
        let (parts, len) = layer(300);
        let (bytes, buffer) = (pattern(1, len), bench.buffer(len));
        let pending = bench.transfer.upload_parts(&bench.source(&bytes), &buffer, &parts).unwrap();
        pending.wait().unwrap();
        let made = bench.device.calls().sum(&[Call::CopyH2d, Call::CopyBatch]);
        assert!(made <= (len / CHUNK) as u64 + 2, "{made} copies");
        assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == bytes);
    });
}

#[test]
fn scattered_parts_go_in_few_calls_and_touch_nothing_else() {
    ends(|| {
        let bench = bench();
        let mut random = Random::new(2);
        let (bytes, len) = (pattern(2, 40 * CHUNK), 40 * CHUNK);
        let buffer = bench.buffer(len);
        buffer.fill(0, &bench.stream).unwrap();
        let mut wanted = vec![0; len];
        // Every second KiB of the buffer, from anywhere in the block.
        let parts: Vec<_> = (0..len / 2048)
            .map(|number| {
                let block_offset = random.below(len - 1024);
                let len_bytes = 1 + random.below(1024);
                let place = number * 2048;
                wanted[place..][..len_bytes].copy_from_slice(&bytes[block_offset..][..len_bytes]);
                Part {
                    block_offset: block_offset as u64,
                    buffer_offset: place as u64,
                    len_bytes: len_bytes as u64,
                }
            })
            .collect();
        let pending = bench.transfer.upload_parts(&bench.source(&bytes), &buffer, &parts).unwrap();
        pending.wait().unwrap();
        let calls = bench.device.calls();
        let made = calls.sum(&[Call::CopyH2d, Call::CopyBatch]);
        let total: u64 = parts.iter().map(|part| part.len_bytes).sum();
        assert!(made <= total.div_ceil(CHUNK as u64) * 2, "{made} calls for {total} bytes");
        assert!(bench.transfer.read(&buffer, &bench.pinned).unwrap() == wanted);
    });
}

#[test]
fn parts_that_do_not_fit_or_overlap_are_refused_and_change_nothing() {
    ends(|| {
        let bench = bench();
        let (source, buffer) = (bench.source(&[7; 100]), bench.buffer(100));
        buffer.fill(1, &bench.stream).unwrap();
        let part = |block_offset, buffer_offset, len_bytes| Part {
            block_offset,
            buffer_offset,
            len_bytes,
        };
        for (parts, words) in [
            ([part(0, 0, 50), part(51, 50, 50)], "part 1"),
            ([part(0, 51, 50), part(50, 0, 50)], "part 0"),
            ([part(u64::MAX, 0, 1), part(0, 0, 0)], "part 0"),
            ([part(0, 0, 50), part(50, 49, 50)], "overlap"),
        ] {
            let refused = bench.transfer.upload_parts(&source, &buffer, &parts);
            assert_says(&refused.err().unwrap().to_string(), &["copy range", words]);
        }
        bench.transfer.upload_parts(&source, &buffer, &[]).unwrap().wait().unwrap();
        assert_eq!(bench.transfer.read(&buffer, &bench.pinned).unwrap(), [1; 100]);
    });
}

#[test]
fn scattered_small_parts_are_as_few_copies_and_nearly_as_fast_as_their_bytes() {
    ends(|| {
        let device = Device::open("sim:h100").unwrap();
        let stream = stream(&device);
        let pinned = PinnedPool::new(&device, &"pinned_limit_mb:256".parse().unwrap());
        let allocator = Allocator::builder(&device).build().unwrap();
        let options = TransferOptions { driven: Driven::ByCaller, ..Default::default() };
        let transfer = Transfer::with_options(&device, &options).unwrap();
        // A layer of 1,000 tensors, packed in the buffer, at places in no order of the block.
        let (mut parts, len) = layer(1000);
        let mut from = 0;
        for number in 0..1000 {
            let part = &mut parts[number * 389 % 1000];
            part.block_offset = from;
            from += part.len_bytes + 64;
        }
        let source = pinned.alloc(from as usize).unwrap().freeze();
        let buffer = allocator.alloc::<u8>(len, &stream).unwrap();
        let mark = || Event::with_timing(&device).unwrap();
        let time = |parts: &[Part]| {
            let (start, end) = (mark(), mark());
            start.record(&stream).unwrap();
            let made = || device.calls().sum(&[Call::CopyH2d, Call::CopyBatch]);
            let before = made();
            drop(transfer.upload_parts(&source, &buffer, parts).unwrap().wait().unwrap());
            let made = made() - before;
            end.record(&stream).unwrap();
            stream.synchronize().unwrap();
            (made, end.elapsed_ns_since(&start).unwrap())
        };
        let whole = Part { block_offset: 0, buffer_offset: 0, len_bytes: len as u64 };
        let (_, bulk_ns) = time(&[whole]);
        let (made, ns) = time(&parts);
        assert!(made <= len as u64 / (4 * MIB) + 2, "{made} copies");
        assert!(bulk_ns * 100 >= ns * 85, "{ns} ns in parts, {bulk_ns} ns whole");
    });
}
