//! Counting: each call of the contract, once.

use std::ptr::NonNull;

use riverbed::device::{Call, Device, Kernel, PoolAttribute, Priority};

/// How often each call was made so far.
fn counts(device: &Device) -> Vec<u64> {
    Call::ALL.iter().map(|&call| device.calls().get(call)).collect()
}

/// Makes every call of the contract once, in its order.
fn each_call_once(device: &Device) {
    let driver = device.driver();
    let page_bytes = device.info().granularity_bytes;
    let mut own = vec![0u8; 8192];
    let own = NonNull::from(&mut own[..]).cast::<u8>();
    // SAFETY: each handle and range is this function's own, used before it is given up, and the
    // stream is synchronized before its memory goes.
    unsafe {
        let memory = driver.alloc(1).unwrap();
        let space = driver.reserve(page_bytes).unwrap();
        let page = driver.create_page(page_bytes).unwrap();
        driver.map(space, page).unwrap();
        let stream = driver.create_stream(Priority::High).unwrap();
        let event = driver.create_event(true).unwrap();
        driver.record_event(event, stream).unwrap();
        driver.synchronize_event(event).unwrap();
        driver.query_event(event).unwrap();
        driver.wait_event(stream, event).unwrap();
        driver.elapsed_ns(event, event).unwrap();
        let gate = driver.create_gate().unwrap();
        driver.open_gate(gate, 1).unwrap();
        driver.wait_gate(stream, gate, 1).unwrap();
        driver.launch_host(stream, Box::new(|| ())).unwrap();
        driver.launch(stream, &Kernel::Busy { ns: 1 }).unwrap();
        let pinned = driver.alloc_pinned(64).unwrap();
        driver.register(own, 64).unwrap();
        driver.copy_h2d(stream, memory, pinned.as_ptr(), 64).unwrap();
        driver.copy_d2h(stream, pinned.as_ptr(), memory, 64).unwrap();
        driver.copy_d2d(stream, memory, space, 64).unwrap();
        driver.synchronize_stream(stream).unwrap();
        let pool = driver.create_pool(0).unwrap();
        let pooled = driver.pool_alloc(pool, 64, stream).unwrap();
        driver.pool_free(pooled, stream).unwrap();
        driver.pool_trim(pool, 0).unwrap();
        driver.pool_get(pool, PoolAttribute::UsedHigh).unwrap();
        driver.pool_set(pool, PoolAttribute::UsedHigh, 0).unwrap();
        driver.destroy_pool(pool).unwrap();
        driver.unregister(own).unwrap();
        driver.free_pinned(pinned).unwrap();
        driver.destroy_gate(gate).unwrap();
        driver.destroy_event(event).unwrap();
        driver.destroy_stream(stream).unwrap();
        driver.unmap(space, page_bytes).unwrap();
        driver.destroy_page(page).unwrap();
        driver.release(space, page_bytes).unwrap();
        driver.free(memory).unwrap();
    }
}

pub(crate) fn every_call_counts_once(device: &Device) {
    if !device.info().virtual_memory || !device.info().memory_pools {
        println!("skipped: {} lacks some of the calls", device.info().name);
        return;
    }
    let before = counts(device);
    each_call_once(device);
    for ((call, before), after) in Call::ALL.iter().zip(before).zip(counts(device)) {
        assert_eq!(after, before + 1, "{call}");
    }
    let all = device.calls().sum(Call::ALL);
    device.memory().unwrap();
    assert_eq!(device.calls().sum(Call::ALL), all, "asking for figures is no call");
}

pub(crate) fn calls_that_fail_count_too(device: &Device) {
    let before = device.calls().get(Call::Alloc);
    device.driver().alloc(0).unwrap_err();
    assert_eq!(device.calls().get(Call::Alloc), before + 1);
}
