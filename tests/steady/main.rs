//! What the hot path does not do, shown by counting: no memory from the heap, no call of the
//! driver, nothing asked of an event, while blocks stay on their stream; and for a block that
//! crosses streams, one event and one look at it.

#[path = "../support/allocations.rs"]
mod allocations;
#[path = "../support/around.rs"]
mod around;
#[path = "../support/paced.rs"]
mod paced;
mod passes;
#[path = "../support/mod.rs"]
mod support;

use allocations::allocated_bytes;
use riverbed::device::{Call, Device};
use riverbed::pool::{Allocator, Block};

use support::stream;

/// Every call there is, so that one that is made too often is seen whichever it is.
fn calls(device: &Device) -> u64 {
    device.calls().sum(Call::ALL)
}

fn allocator(device: &Device, policy: &str) -> Allocator {
    let builder = Allocator::builder(device).conf_str(&format!("policy:{policy}")).unwrap();
    builder.build().unwrap()
}

/// Runs `promise` under every policy that keeps it.
fn under_each(promise: impl Fn(&str)) {
    ["caching", "expandable"].into_iter().for_each(promise);
}

/// Sizes of both pools, whole and split.
const SIZES: [u64; 6] = [1, 4096, 700_000, 3 << 20, 11 << 20, 64 << 20];

/// Runs `round` until nothing is new to the allocator, then counts what a thousand more take.
#[track_caller]
fn takes_nothing(device: &Device, mut round: impl FnMut()) {
    for _ in 0..200 {
        round();
    }
    let before = (allocated_bytes(), calls(device));
    for _ in 0..1000 {
        round();
    }
    assert_eq!((allocated_bytes(), calls(device)), before, "bytes of heap and driver calls");
}

#[test]
fn a_large_untouched_allocation_is_counted() {
    let before = allocated_bytes();
    drop(std::hint::black_box(vec![0u8; 1 << 24]));
    assert!(allocated_bytes() - before >= 1 << 24);
}

#[test]
fn blocks_of_a_handle_take_nothing() {
    under_each(|policy| {
        let device = Device::open("sim:8GiB").unwrap();
        let stream = stream(&device);
        let allocator = allocator(&device, policy);
        let on_stream = allocator.on(&stream).unwrap();
        takes_nothing(&device, || {
            let blocks = SIZES.map(|bytes| on_stream.block(bytes).unwrap());
            let [first, second, ..] = &blocks;
            assert_ne!(first.ptr(), second.ptr());
        });
    });
}

#[test]
fn blocks_freed_in_another_order_take_nothing() {
    under_each(|policy| {
        let device = Device::open("sim:8GiB").unwrap();
        let stream = stream(&device);
        let allocator = allocator(&device, policy);
        let on_stream = allocator.on(&stream).unwrap();
        let mut live: [Option<Block<'_>>; 16] = std::array::from_fn(|_| None);
        let mut step = 0usize;
        takes_nothing(&device, || {
            step += 1;
            live[step * 7 % 16] = None;
            live[step * 7 % 16] = Some(on_stream.block(SIZES[step % 6]).unwrap());
        });
    });
}

#[test]
#[expect(unsafe_code, reason = "frees by address")]
fn bare_addresses_take_nothing() {
    under_each(|policy| {
        let device = Device::open("sim:8GiB").unwrap();
        let stream = stream(&device);
        let allocator = allocator(&device, policy);
        takes_nothing(&device, || {
            for ptr in SIZES.map(|bytes| allocator.alloc_raw(bytes, &stream).unwrap()) {
                // SAFETY: nothing was enqueued on the block.
                unsafe { allocator.free_raw(ptr).unwrap() };
            }
        });
    });
}

#[test]
fn buffers_take_nothing() {
    under_each(|policy| {
        let device = Device::open("sim:8GiB").unwrap();
        let stream = stream(&device);
        let allocator = allocator(&device, policy);
        takes_nothing(&device, || {
            drop(SIZES.map(|bytes| allocator.alloc::<u8>(bytes as usize, &stream).unwrap()));
        });
    });
}

#[test]
fn a_block_that_crosses_streams_costs_one_event_and_one_look() {
    under_each(|policy| {
        const BLOCKS: u64 = 1000;
        let device = Device::open("sim:8GiB").unwrap();
        let (home, other) = (stream(&device), stream(&device));
        let allocator = allocator(&device, policy);
        let on_home = allocator.on(&home).unwrap();
        drop(on_home.block(4096).unwrap());
        let count = |call| device.calls().get(call);
        let before = (count(Call::RecordEvent), count(Call::QueryEvent));
        for _ in 0..BLOCKS {
            let block = on_home.block(4096).unwrap();
            block.record_use(&other).unwrap();
        }
        drop(on_home.block(4096).unwrap());
        assert_eq!(count(Call::RecordEvent) - before.0, BLOCKS);
        assert_eq!(count(Call::QueryEvent) - before.1, BLOCKS);
        assert_eq!(count(Call::WaitEvent) + count(Call::SynchronizeEvent), 0);
        assert_eq!(allocator.stats().cross_stream_waits, BLOCKS);
    });
}

#[test]
fn an_iteration_that_is_planned_takes_nothing() {
    let device = Device::open("sim:8GiB").unwrap();
    let stream = stream(&device);
    let allocator = allocator(&device, "planned");
    let on_stream = allocator.on(&stream).unwrap();
    let iteration = || {
        for _ in 0..20 {
            drop(SIZES.map(|bytes| on_stream.block(bytes).unwrap()));
        }
    };
    for _ in 0..3 {
        iteration();
        allocator.settle_plan().unwrap();
    }
    let bound: u64 = SIZES.iter().map(|bytes| bytes.next_multiple_of(512)).sum();
    let planned_bytes = bound.next_multiple_of(2 << 20);
    assert_eq!(allocator.stats().reserved_bytes.all.current, planned_bytes, "no plan in force");
    takes_nothing(&device, iteration);
    assert_eq!(allocator.stats().reserved_bytes.all.current, planned_bytes);
}
