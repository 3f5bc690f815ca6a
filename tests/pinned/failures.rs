//! The n-th driver call fails, for every n: nothing is leaked and the budget is exact.

use std::sync::Arc;
use std::time::Duration;

use riverbed::base::DeviceError;
use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device, Priority, Stream, settle};

use crate::pool;

/// A program over all the pool does; gives how many calls it made.
fn program(device: &Device) -> u64 {
    let before = device.calls().sum(Call::ALL);
    let pool = pool(device, "pinned_limit_mb:16,pinned_max_cached_size_mb:6");
    let stream = Stream::new(device, Priority::Normal).ok();
    let mut blocks = Vec::new();
    for size in [1, 100_000, 3 << 20, 7 << 20, 70_000, 1 << 20] {
        let block = pool.alloc(size).expect("a refusal to pin is no error");
        if let Some(stream) = &stream {
            block.record_use(stream).unwrap();
        }
        blocks.push(block);
        pool.check().unwrap();
    }
    let adopted = pool.adopt(vec![1u8; 1 << 20]);
    blocks.truncate(2);
    pool.check().unwrap();
    drop((blocks, adopted));
    pool.trim();
    pool.check().unwrap();
    let calls = device.calls().sum(Call::ALL) - before;
    // What was refused once is taken back at another try.
    let all_back = || {
        pool.trim();
        pool.check().unwrap();
        pool.stats().reserved_bytes == 0 && pool.stats().adopted_bytes == 0
    };
    crate::support::wait_until("all is unpinned", all_back);
    calls
}

/// How often something was pinned, less how often it was unpinned.
fn pinned(device: &Device) -> i64 {
    let count = |call| device.calls().get(call) as i64;
    count(Call::Register) + count(Call::AllocPinned)
        - count(Call::Unregister)
        - count(Call::FreePinned)
}

#[test]
fn every_call_may_fail_once() {
    let mut calls = 1;
    let mut nth = 1;
    while nth <= calls {
        let driver = HostDriver::new("host", "host:vram=4MiB".parse().unwrap()).unwrap();
        let device = Device::from_driver(Arc::clone(&driver) as Arc<_>);
        driver.faults().fail_nth(None, nth, DeviceError::UNKNOWN);
        calls = program(&device);
        assert!(settle(Duration::from_secs(30)));
        // A failed pinning was never undone, a failed unpinning was tried twice.
        assert!(pinned(&device).abs() <= 1, "call {nth}");
        nth += 1;
    }
    assert!(nth > 20, "the program made only {nth} calls");
}
