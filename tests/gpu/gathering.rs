//! Copies that go through pinned slots: parts gathered where the driver has no call for many
//! copies, and memory of the caller's own that it does not register.

use std::time::Duration;

use riverbed::device::{Device, settle};
use riverbed::pinned::{PinnedPool, PinnedSource};
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{Driven, Part, Transfer, TransferOptions};

use crate::fake::{FakeDriver, Vendor, fake_cuda, fake_hip};
use crate::open;
use crate::support::{pattern, stream};

const LAYER_BYTES: u64 = 1000 * 34 * 1024;

struct Bench {
    device: Device,
    pinned: PinnedPool,
    buffer: Buffer<u8>,
    source: PinnedSource,
    parts: Vec<Part>,
    wanted: Vec<u8>,
}

/// A layer of 1,000 tensors of 4 to 64 KiB, packed in the buffer, from anywhere in a block, and a
/// large one in their midst.
fn bench(fake: &FakeDriver) -> Bench {
    let device = open(fake);
    let stream = stream(&device);
    let pinned = PinnedPool::new(&device, &"pinned_limit_mb:256".parse().unwrap());
    let mut lens: Vec<u64> =
        (0..1000).map(|at| (4 << 10) + (at * 7919 % 1000) * 60 * 1024 / 999).collect();
    lens.insert(500, 3 << 20);
    let (mut parts, mut end) = (Vec::new(), 0);
    for len_bytes in lens {
        parts.push(Part { block_offset: 0, buffer_offset: end, len_bytes });
        end += len_bytes;
    }
    let (count, mut from) = (parts.len(), 0);
    for number in 0..count {
        let part = &mut parts[number * 389 % count];
        part.block_offset = from;
        from += part.len_bytes + 64;
    }
    let bytes = pattern(from as usize, 9);
    let mut block = pinned.alloc(bytes.len()).unwrap();
    block.copy_from_slice(&bytes);
    let place =
        |part: &Part| part.block_offset as usize..(part.block_offset + part.len_bytes) as usize;
    let wanted = parts.iter().flat_map(|part| &bytes[place(part)]).copied().collect();
    let buffer = Allocator::builder(&device).build().unwrap().alloc(end as usize, &stream).unwrap();
    Bench { device, pinned, buffer, source: block.freeze(), parts, wanted }
}

/// Copies the layer; gives how often these calls were made for that.
fn upload<const N: usize>(
    fake: &FakeDriver,
    options: &TransferOptions,
    calls: [&str; N],
) -> [u64; N] {
    let bench = bench(fake);
    let transfer = Transfer::with_options(&bench.device, options).unwrap();
    let before = calls.map(|call| fake.count(call));
    let pending = transfer.upload_parts(&bench.source, &bench.buffer, &bench.parts).unwrap();
    assert_eq!(pending.total_bytes(), bench.wanted.len() as u64);
    drop(pending.wait().unwrap());
    let made = std::array::from_fn(|call| fake.count(calls[call]) - before[call]);
    assert!(transfer.read(&bench.buffer, &bench.pinned).unwrap() == bench.wanted);
    made
}

#[test]
fn a_layer_of_small_parts_is_few_copies_with_and_without_a_call_for_many() {
    let [new, old, plain] = ["cuMemcpyBatchAsync_v2", "cuMemcpyBatchAsync", "cuMemcpyHtoDAsync_v2"];
    let options = TransferOptions::default();
    // The large one is up to two copies.
    let most = (LAYER_BYTES + (3 << 20)) / (4 << 20) + 2 + 2;
    let without = FakeDriver::new(Vendor::Cuda, "", &[new, old]);
    let [copies] = upload(&without, &options, [plain]);
    assert!((8..=most).contains(&copies), "{copies} copies of {LAYER_BYTES} bytes");
    let made = upload(&fake_cuda(""), &options, [new, plain]);
    assert!(made.iter().sum::<u64>() <= most, "{made:?} copies of {LAYER_BYTES} bytes");
}

#[test]
fn nothing_is_gathered_where_that_would_need_a_thread_or_hold_up_others() {
    let plain = "cuMemcpyHtoDAsync_v2";
    let batches = ["cuMemcpyBatchAsync_v2", "cuMemcpyBatchAsync"];
    let by_caller = TransferOptions { driven: Driven::ByCaller, ..TransferOptions::default() };
    let [copies] = upload(&FakeDriver::new(Vendor::Cuda, "", &batches), &by_caller, [plain]);
    assert!(copies > 1000, "{copies}");
    let [copies] = upload(&fake_hip(""), &TransferOptions::default(), ["hipMemcpyHtoDAsync"]);
    assert!(copies > 1000, "{copies}");
}

#[test]
fn adopted_memory_arrives_whether_the_driver_registers_it_or_not() {
    for settings in ["", "host_register=off", "same_host_pointer=off"] {
        let fake = fake_cuda(settings);
        let device = open(&fake);
        let stream = stream(&device);
        let pool = PinnedPool::new(&device, &"pinned_limit_mb:64".parse().unwrap());
        let transfer = Transfer::new(&device).unwrap();
        let bytes = pattern(9 << 20, 3);
        let memory = pool.adopt_in_background(bytes.clone(), Some(1 << 20)).unwrap();
        let allocator = Allocator::builder(&device).build().unwrap();
        let buffer = allocator.alloc::<u8>(bytes.len(), &stream).unwrap();
        // While it is being registered, and after.
        for _ in 0..2 {
            buffer.fill(0, &stream).unwrap();
            let pending = transfer.upload_adopted(&memory, 0..bytes.len(), &buffer, 0).unwrap();
            drop(pending.wait().unwrap());
            assert!(transfer.read(&buffer, &pool).unwrap() == bytes, "{settings}");
            memory.wait();
        }
        assert_eq!(memory.is_pinned(), settings != "host_register=off");
        drop((memory, buffer, transfer, allocator, pool, stream));
        assert!(settle(Duration::from_secs(60)));
        drop(device);
        fake.assert_no_misuse();
    }
}
