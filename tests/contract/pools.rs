//! Stream-ordered pools as the devices without a driver model them: to the byte and the address.

use std::sync::mpsc;

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr, Event, Gate, PoolAttribute, PoolId, Stream};

use crate::support::{Pinned, give_others_a_chance, status, stream, wait_until};

use PoolAttribute::{
    AllowInternalDependencies, AllowOpportunistic, FollowEventDependencies, ReleaseThreshold,
    ReservedCurrent, ReservedHigh, UsedCurrent, UsedHigh,
};

/// A pool that is given up at the end of a test.
struct Pool<'a> {
    device: &'a Device,
    id: PoolId,
}

impl<'a> Pool<'a> {
    /// A pool; `None`, said aloud, where the device has none.
    fn new(device: &'a Device, max_bytes: u64) -> Option<Self> {
        if !device.info().memory_pools {
            println!("skipped: {} has no pools", device.info().name);
            return None;
        }
        Some(Self { device, id: device.driver().create_pool(max_bytes).unwrap() })
    }

    /// A pool that takes memory of other streams only as `flags` say, and keeps what it has.
    fn with(device: &'a Device, max_bytes: u64, flags: &[PoolAttribute]) -> Option<Self> {
        let pool = Self::new(device, max_bytes)?;
        for flag in [FollowEventDependencies, AllowOpportunistic, AllowInternalDependencies] {
            assert_eq!(pool.get(flag), 1, "{flag:?} is on at first");
            pool.set(flag, flags.contains(&flag).into());
        }
        pool.set(ReleaseThreshold, u64::MAX);
        Some(pool)
    }

    fn alloc(&self, bytes: u64, stream: &Stream) -> Result<DevicePtr, u32> {
        let allocated = self.device.driver().pool_alloc(self.id, bytes, stream.id());
        allocated.map_err(|error| error.status)
    }

    fn free(&self, ptr: DevicePtr, stream: &Stream) -> Result<(), u32> {
        // SAFETY: the tests enqueue nothing on the memory after this; wrong frees are refused.
        let freed = unsafe { self.device.driver().pool_free(ptr, stream.id()) };
        freed.map_err(|error| error.status)
    }

    fn get(&self, attribute: PoolAttribute) -> u64 {
        self.device.driver().pool_get(self.id, attribute).unwrap()
    }

    fn set(&self, attribute: PoolAttribute, value: u64) {
        self.device.driver().pool_set(self.id, attribute, value).unwrap();
    }

    fn trim(&self, keep_bytes: u64) {
        self.device.driver().pool_trim(self.id, keep_bytes).unwrap();
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and it is going.
        let destroyed = unsafe { self.device.driver().destroy_pool(self.id) };
        if !std::thread::panicking() {
            destroyed.unwrap();
        }
    }
}

fn copy(device: &Device, stream: &Stream, to: DevicePtr, from: &Pinned) -> Result<(), u32> {
    // SAFETY: the tests synchronize before either end goes; wrong copies are refused.
    let copied =
        unsafe { device.driver().copy_h2d(stream.id(), to, from.address(), from.len() as u64) };
    copied.map_err(|error| error.status)
}

pub(crate) fn memory_freed_on_a_stream_is_taken_again_there_at_once(device: &Device) {
    let Some(pool) = Pool::with(device, 0, &[]) else { return };
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    let first = pool.alloc(5000, &stream).unwrap();
    assert_eq!(first.0 % 512, 0);
    let second = pool.alloc(5000, &stream).unwrap();
    assert!(second.0.abs_diff(first.0) >= 5000);
    pool.free(first, &stream).unwrap();
    assert_eq!(pool.alloc(5000, &stream), Ok(first), "although nothing of this has run");
    pool.free(first, &stream).unwrap();
    pool.free(second, &stream).unwrap();
    assert_eq!(pool.alloc(10_000, &stream), Ok(first.min(second)), "neighbours are one");
    pool.free(first.min(second), &stream).unwrap();
    gate.open(1).unwrap();
    stream.synchronize().unwrap();
}

pub(crate) fn an_event_hands_memory_to_another_stream(device: &Device) {
    for follow in [true, false] {
        let flags: &[_] = if follow { &[FollowEventDependencies] } else { &[] };
        let Some(pool) = Pool::with(device, 0, flags) else { return };
        let (one, two) = (stream(device), stream(device));
        let gate = Gate::new(device).unwrap();
        one.wait_gate(&gate, 1).unwrap();
        let memory = pool.alloc(5000, &one).unwrap();
        let early = Event::new(device).unwrap();
        early.record(&one).unwrap();
        pool.free(memory, &one).unwrap();
        two.wait(&early).unwrap();
        let other = pool.alloc(5000, &two).unwrap();
        assert_ne!(other, memory, "the event was before the free");
        let event = Event::new(device).unwrap();
        event.record(&one).unwrap();
        two.wait(&event).unwrap();
        assert_eq!(pool.alloc(5000, &two) == Ok(memory), follow, "follow is {follow}");
        gate.open(1).unwrap();
        two.synchronize().unwrap();
    }
}

pub(crate) fn an_event_hands_memory_on_through_a_third_stream(device: &Device) {
    let Some(pool) = Pool::with(device, 0, &[FollowEventDependencies]) else { return };
    let (one, two, three) = (stream(device), stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    one.wait_gate(&gate, 1).unwrap();
    let memory = pool.alloc(5000, &one).unwrap();
    pool.free(memory, &one).unwrap();
    let (first, second) = (Event::new(device).unwrap(), Event::new(device).unwrap());
    first.record(&one).unwrap();
    two.wait(&first).unwrap();
    second.record(&two).unwrap();
    three.wait(&second).unwrap();
    assert_eq!(pool.alloc(5000, &three), Ok(memory));
    gate.open(1).unwrap();
    three.synchronize().unwrap();
}

pub(crate) fn memory_whose_free_has_run_is_for_everybody(device: &Device) {
    for opportunistic in [true, false] {
        let flags: &[_] = if opportunistic { &[AllowOpportunistic] } else { &[] };
        let Some(pool) = Pool::with(device, 0, flags) else { return };
        let (one, two) = (stream(device), stream(device));
        let gate = Gate::new(device).unwrap();
        one.wait_gate(&gate, 1).unwrap();
        let memory = pool.alloc(5000, &one).unwrap();
        pool.free(memory, &one).unwrap();
        let (sender, ran) = mpsc::channel();
        one.launch_host(Box::new(move || sender.send(()).unwrap())).unwrap();
        let other = pool.alloc(5000, &two).unwrap();
        assert_ne!(other, memory, "the free has not run");
        gate.open(1).unwrap();
        ran.recv().unwrap();
        let third = pool.alloc(5000, &two).unwrap();
        assert_eq!(third == memory, opportunistic, "opportunistic is {opportunistic}");
        one.synchronize().unwrap();
        if !opportunistic {
            assert_eq!(pool.alloc(5000, &two), Ok(memory), "the host has seen the free");
        }
        two.synchronize().unwrap();
    }
}

pub(crate) fn a_stream_may_be_made_to_wait_for_another_ones_free(device: &Device) {
    let page = device.info().granularity_bytes;
    for internal in [true, false] {
        let flags: &[_] = if internal { &[AllowInternalDependencies] } else { &[] };
        let Some(pool) = Pool::with(device, page, flags) else { return };
        let (one, two) = (stream(device), stream(device));
        let gate = Gate::new(device).unwrap();
        one.wait_gate(&gate, 1).unwrap();
        let memory = pool.alloc(page, &one).unwrap();
        assert_eq!(pool.alloc(512, &two), Err(DeviceError::OUT_OF_MEMORY), "it is in use");
        pool.free(memory, &one).unwrap();
        let behind = Event::new(device).unwrap();
        if internal {
            assert_eq!(pool.alloc(page, &two), Ok(memory));
            behind.record(&two).unwrap();
            give_others_a_chance(device);
            assert!(!behind.query().unwrap(), "the stream waits for the other's free");
        } else {
            assert_eq!(pool.alloc(page, &two), Err(DeviceError::OUT_OF_MEMORY));
        }
        gate.open(1).unwrap();
        one.synchronize().unwrap();
        two.synchronize().unwrap();
        if internal {
            pool.free(memory, &two).unwrap();
            two.synchronize().unwrap();
        }
    }
}

pub(crate) fn a_pool_never_reserves_more_than_its_cap(device: &Device) {
    let page = device.info().granularity_bytes;
    let Some(pool) = Pool::new(device, 3 * page) else { return };
    let stream = stream(device);
    let held: Vec<_> = (0..3).map(|_| pool.alloc(page, &stream).unwrap()).collect();
    let before = device.memory().unwrap();
    assert_eq!(pool.alloc(1, &stream), Err(DeviceError::OUT_OF_MEMORY));
    assert_eq!(device.memory().unwrap(), before);
    assert_eq!((pool.get(ReservedCurrent), pool.get(UsedCurrent)), (3 * page, 3 * page));
    for ptr in held {
        pool.free(ptr, &stream).unwrap();
    }
    stream.synchronize().unwrap();
    // What lies idle in small pieces makes room for one large block.
    let large = pool.alloc(3 * page, &stream).unwrap();
    pool.free(large, &stream).unwrap();
    assert_eq!(pool.alloc(4 * page, &stream), Err(DeviceError::OUT_OF_MEMORY));
    assert_eq!(pool.alloc(u64::MAX, &stream), Err(DeviceError::OUT_OF_MEMORY));
    assert_eq!(pool.alloc(0, &stream), Err(DeviceError::INVALID_VALUE));
    stream.synchronize().unwrap();
}

pub(crate) fn unused_memory_above_the_threshold_goes_back_at_a_synchronize(device: &Device) {
    let page = device.info().granularity_bytes;
    let before = device.memory().unwrap();
    let Some(pool) = Pool::new(device, 0) else { return };
    let stream = stream(device);
    let event = Event::new(device).unwrap();
    for (threshold, kept) in [(0, 0), (page, page), (3 * page - 1, 2 * page), (u64::MAX, 4 * page)]
    {
        pool.set(ReleaseThreshold, threshold);
        assert_eq!(pool.get(ReleaseThreshold), threshold);
        let held: Vec<_> = (0..4).map(|_| pool.alloc(page, &stream).unwrap()).collect();
        held.into_iter().for_each(|ptr| pool.free(ptr, &stream).unwrap());
        assert_eq!(pool.get(ReservedCurrent), 4 * page, "nobody has synchronized");
        event.record(&stream).unwrap();
        event.synchronize().unwrap();
        let reserved = pool.get(ReservedCurrent);
        assert!(reserved >= kept && reserved <= threshold.min(4 * page).max(kept) + page);
        assert_eq!(before.free_bytes - device.memory().unwrap().free_bytes, reserved);
        pool.trim(0);
        assert_eq!(pool.get(ReservedCurrent), 0);
    }
    assert_eq!(device.memory().unwrap(), before);
}

pub(crate) fn trimming_leaves_what_is_used_or_not_seen_freed(device: &Device) {
    let page = device.info().granularity_bytes;
    let Some(pool) = Pool::with(device, 0, &[]) else { return };
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    let held: Vec<_> = (0..3).map(|_| pool.alloc(page, &stream).unwrap()).collect();
    stream.wait_gate(&gate, 1).unwrap();
    pool.free(held[0], &stream).unwrap();
    pool.free(held[1], &stream).unwrap();
    pool.trim(0);
    assert_eq!(pool.get(ReservedCurrent), 3 * page, "the frees have not run");
    gate.open(1).unwrap();
    stream.synchronize().unwrap();
    pool.trim(2 * page);
    assert_eq!(pool.get(ReservedCurrent), 2 * page);
    pool.trim(0);
    assert_eq!(pool.get(ReservedCurrent), page, "one is in use");
    pool.free(held[2], &stream).unwrap();
    stream.synchronize().unwrap();
    pool.trim(0);
    assert_eq!(pool.get(ReservedCurrent), 0);
}

pub(crate) fn a_pool_given_up_lives_until_its_last_block_is_freed(device: &Device) {
    let before = device.memory().unwrap();
    let Some(pool) = Pool::with(device, 0, &[]) else { return };
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    let memory = pool.alloc(5000, &stream).unwrap();
    let pinned = Pinned::new(device, 5000);
    let dead = pool.id;
    drop(pool); // does not wait: the gate is closed
    assert!(device.driver().pool_alloc(dead, 1, stream.id()).is_err());
    assert_ne!(device.memory().unwrap(), before);
    copy(device, &stream, memory, &pinned).expect("the block is still good");
    // SAFETY: from the pool, after its last use on this stream.
    unsafe { device.driver().pool_free(memory, stream.id()) }.unwrap();
    gate.open(1).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(device.memory().unwrap(), before);
}

pub(crate) fn marks_begin_anew_when_set_to_nothing(device: &Device) {
    let page = device.info().granularity_bytes;
    let Some(pool) = Pool::new(device, 0) else { return };
    let stream = stream(device);
    let (one, two) = (pool.alloc(page, &stream).unwrap(), pool.alloc(1, &stream).unwrap());
    assert_eq!((pool.get(UsedCurrent), pool.get(UsedHigh)), (page + 512, page + 512));
    assert_eq!((pool.get(ReservedCurrent), pool.get(ReservedHigh)), (2 * page, 2 * page));
    pool.free(one, &stream).unwrap();
    stream.synchronize().unwrap();
    assert_eq!((pool.get(UsedCurrent), pool.get(UsedHigh)), (512, page + 512));
    assert_eq!((pool.get(ReservedCurrent), pool.get(ReservedHigh)), (page, 2 * page));
    pool.set(UsedHigh, 0);
    pool.set(ReservedHigh, 0);
    assert_eq!((pool.get(UsedHigh), pool.get(ReservedHigh)), (512, page));
    let driver = device.driver();
    for (attribute, value) in [
        (UsedHigh, 1),
        (ReservedHigh, 1),
        (UsedCurrent, 0),
        (ReservedCurrent, 0),
        (AllowOpportunistic, 2),
    ] {
        let set = driver.pool_set(pool.id, attribute, value);
        assert_eq!(status(set), DeviceError::INVALID_VALUE, "{attribute:?} to {value}");
    }
    pool.free(two, &stream).unwrap();
    stream.synchronize().unwrap();
}

pub(crate) fn memory_is_freed_once_and_by_its_address(device: &Device) {
    let Some(pool) = Pool::new(device, 0) else { return };
    let stream = stream(device);
    let memory = pool.alloc(5000, &stream).unwrap();
    for wrong in [DevicePtr::default(), memory.offset(512), memory.offset(1 << 30)] {
        assert_eq!(pool.free(wrong, &stream), Err(DeviceError::INVALID_VALUE), "{wrong:?}");
    }
    pool.free(memory, &stream).unwrap();
    assert_eq!(pool.free(memory, &stream), Err(DeviceError::INVALID_VALUE), "freed twice");
    // SAFETY: refused.
    let again = unsafe { device.driver().free(memory) };
    assert_eq!(status(again), DeviceError::INVALID_VALUE, "freed twice, the other way");
    let memory = pool.alloc(5000, &stream).unwrap();
    stream.synchronize().unwrap();
    // SAFETY: nothing is in flight on it.
    unsafe { device.driver().free(memory) }.expect("the plain way takes it too");
    assert_eq!(pool.get(UsedCurrent), 0);
    stream.synchronize().unwrap();
}

/// Real drivers leave these undefined; devices without a driver report them.
pub(crate) fn uses_out_of_order_are_refused(device: &Device) {
    let Some(pool) = Pool::with(device, 0, &[]) else { return };
    let (one, two) = (stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let pinned = Pinned::new(device, 5000);
    one.wait_gate(&gate, 1).unwrap();
    let memory = pool.alloc(5000, &one).unwrap();
    let early = copy(device, &two, memory, &pinned);
    assert_eq!(early, Err(DeviceError::INVALID_VALUE), "the allocation has not run");
    let early = pool.free(memory, &two);
    assert_eq!(early, Err(DeviceError::INVALID_VALUE), "the allocation has not run");
    copy(device, &one, memory, &pinned).expect("its own stream is in order");
    let event = Event::new(device).unwrap();
    event.record(&one).unwrap();
    two.wait(&event).unwrap();
    copy(device, &two, memory, &pinned).expect("the event orders them");
    let past = copy(device, &two, memory.offset(512), &pinned);
    assert_eq!(past, Err(DeviceError::INVALID_VALUE), "past the block");
    pool.free(memory, &two).unwrap();
    let late = copy(device, &two, memory, &pinned);
    assert_eq!(late, Err(DeviceError::INVALID_VALUE), "it is freed");
    gate.open(1).unwrap();
    two.synchronize().unwrap();
}

pub(crate) fn a_pool_that_is_given_up_returns_its_memory_though_nobody_waits(device: &Device) {
    let Some(pool) = Pool::new(device, 0) else { return };
    let before = device.memory().unwrap().free_bytes;
    let (stream, gate) = (stream(device), Gate::new(device).unwrap());
    stream.wait_gate(&gate, 1).unwrap();
    let memory = pool.alloc(5000, &stream).unwrap();
    pool.free(memory, &stream).unwrap();
    let freed = Event::new(device).unwrap();
    freed.record(&stream).unwrap();
    drop(pool);
    assert!(device.memory().unwrap().free_bytes < before, "its free has not run");
    gate.open(1).unwrap();
    wait_until("the free has run", || freed.query().unwrap());
    assert_eq!(device.memory().unwrap().free_bytes, before);
}

pub(crate) fn the_default_pool_stays_and_only_pools_become_current(device: &Device) {
    let driver = device.driver();
    let (default, stream) = (driver.default_pool().unwrap(), stream(device));
    // SAFETY: refused.
    let destroyed = unsafe { driver.destroy_pool(default) };
    assert_eq!(status(destroyed), DeviceError::INVALID_VALUE);
    let memory = driver.pool_alloc(default, 5000, stream.id()).expect("it is still there");
    // SAFETY: no call uses this handle but to refuse it.
    let none = unsafe { PoolId::from_raw(4711) };
    assert_eq!(status(driver.set_current_pool(none)), DeviceError::INVALID_HANDLE);
    assert_eq!(driver.current_pool().unwrap(), default);
    // SAFETY: from the pool; nothing was enqueued on it.
    unsafe { driver.pool_free(memory, stream.id()) }.unwrap();
    stream.synchronize().unwrap();
}
