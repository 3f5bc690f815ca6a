//! The n-th driver call fails, for every n: nothing leaks, nothing is skewed, nobody panics.

mod support;

use riverbed::Error;
use riverbed::base::DeviceError;
use riverbed::device::host::{HostDriver, HostSpec};
use riverbed::device::{Call, Device, Priority, Stream};
use riverbed::pool::Allocator;

use support::{MIB, wait_until, wait_until_all_memory_is_back};

const VRAM_BYTES: u64 = 64 * MIB;

/// Confs the program runs under: all with the same limit.
const CACHING: &str = "limit_mb:48,max_split_size_mb:21";
const EXPANDABLE: &str = "limit_mb:48,policy:expandable";
const PLANNED: &str = "limit_mb:48,policy:planned";
const MEMPOOL: &str = "limit_mb:48,policy:mempool";

/// A run of the program, and what it was told.
#[derive(Debug)]
struct Run {
    conf: &'static str,
    errors: Vec<Error>,
}

impl Run {
    fn under(conf: &'static str) -> Self {
        Self { conf, errors: Vec::new() }
    }

    /// Notes a failure and goes on: every step is allowed to fail, and none to break the rest.
    fn step<T>(&mut self, result: riverbed::Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    /// A program over everything the allocator does. Gives the allocator, with nothing alive.
    fn program(&mut self, device: &Device) -> Option<(Allocator, Stream)> {
        let builder = Allocator::builder(device).conf_str(self.conf).unwrap();
        let allocator = self.step(builder.build())?;
        let mut stream = || self.step(Stream::new(device, Priority::Normal));
        let (home, other, third) = (stream()?, stream()?, stream()?);

        // Small blocks, some of them crossing streams.
        let mut small = Vec::new();
        for round in 0..6usize {
            let stream = if round % 2 == 0 { &home } else { &other };
            if let Some(buffer) = self.step(allocator.alloc::<u8>(300 << round, stream)) {
                self.step(buffer.fill(round as u8, stream));
                self.step(buffer.fill(1, &third));
                small.push(buffer);
            }
            allocator.check().unwrap();
        }
        small.truncate(3);
        allocator.check().unwrap();

        // A split segment, and raw blocks in it.
        let large = self.step(allocator.alloc::<u8>(5 << 20, &home));
        if let Some(raw) = self.step(allocator.alloc_raw(5 << 20, &home)) {
            self.step(allocator.record_use_raw(raw, &other));
            // SAFETY: nothing but the recorded use is enqueued on it.
            unsafe { allocator.free_raw(raw) }.expect("a live block can always be freed");
        }
        self.step(allocator.alloc::<u8>(5 << 20, &home));
        allocator.check().unwrap();

        // A segment of its own, and oversize ones that make room for each other.
        drop(self.step(allocator.alloc_dedicated::<u8>(3 << 20, &other)));
        drop(self.step(allocator.alloc::<u8>(22 << 20, &home)));
        drop(self.step(allocator.alloc::<u8>(24 << 20, &home)));
        drop(self.step(allocator.alloc::<u8>(12 << 20, &home)));
        allocator.check().unwrap();
        drop(large);

        // The last rung: everything cached has to go.
        let whole = self.step(allocator.alloc::<u8>(39 << 20, &third));
        allocator.check().unwrap();
        drop(whole);
        drop(small);
        allocator.trim();
        allocator.check().unwrap();
        drop(self.step(allocator.alloc::<u8>(1 << 20, &home)));
        Some((allocator, home))
    }
}

/// A host device whose `nth` call from now on fails with `status`.
fn failing(nth: u64, status: u32) -> (std::sync::Arc<HostDriver>, Device) {
    let spec: HostSpec = "host:vram=64MiB".parse().unwrap();
    let driver = HostDriver::new("failing", spec).unwrap();
    driver.faults().fail_nth(None, nth, status);
    (driver.clone(), Device::from_driver(driver))
}

/// At a quiet point nothing is counted as handed out or in flight.
fn assert_quiet(allocator: &Allocator, what: &str) {
    wait_until("blocks in flight come back", || allocator.stats().active.all.current == 0);
    allocator.check().unwrap_or_else(|error| panic!("{what}: {error}"));
    let stats = allocator.stats();
    for (name, figure) in [
        ("allocation", stats.allocation),
        ("active", stats.active),
        ("allocated_bytes", stats.allocated_bytes),
        ("active_bytes", stats.active_bytes),
        ("requested_bytes", stats.requested_bytes),
    ] {
        assert_eq!(figure.all.current, 0, "{what}: {name} is skewed: {stats:?}");
        assert_eq!(figure.all.allocated, figure.all.freed, "{what}: {name} is skewed: {stats:?}");
    }
    assert_eq!((stats.retired_bytes, stats.stranded_blocks), (0, 0), "{what}: {stats:?}");
    assert!(stats.reserved_bytes.all.peak <= 48 * MIB, "{what}: above the limit: {stats:?}");
}

/// Every error is the injected one, or a shortage that it brought about.
fn assert_explained(errors: &[Error], status: u32, what: &str) {
    for error in errors {
        let explained = match error {
            Error::Device(error) => error.status == status,
            Error::OutOfMemory(_) => true,
            _ => false,
        };
        assert!(explained, "{what}: {error}");
    }
}

/// Runs the program under each n until a run is not struck; `end` gives the allocator up.
fn fail_each_call(conf: &'static str, status: u32, end: fn(Allocator)) {
    for nth in 1.. {
        let what = format!("{conf}: call {nth} failing with {status}");
        let (driver, device) = failing(nth, status);
        let mut run = Run::under(conf);
        let ended = run.program(&device);
        assert_explained(&run.errors, status, &what);
        let mut struck = false;
        if let Some((allocator, stream)) = ended {
            assert_quiet(&allocator, &what);
            if driver.faults().clear() == 0 {
                struck = true;
                let again = allocator.alloc::<u8>(20 << 20, &stream);
                drop(again.unwrap_or_else(|error| panic!("{what}, and then: {error}")));
            } else {
                assert!(run.errors.is_empty(), "{what}: not struck, yet {:?}", run.errors);
            }
            end(allocator);
        } else {
            struck = true;
        }
        wait_until_all_memory_is_back(&device);
        if !struck {
            assert!(nth > 50, "only {nth} calls were made");
            return;
        }
        assert!(nth < 5000, "the program has no end");
    }
}

#[test]
fn any_call_may_fail_as_out_of_memory() {
    for conf in [CACHING, EXPANDABLE, PLANNED, MEMPOOL] {
        fail_each_call(conf, DeviceError::OUT_OF_MEMORY, |allocator| allocator.close().unwrap());
    }
}

#[test]
fn any_call_may_fail_for_no_known_reason() {
    for conf in [CACHING, EXPANDABLE, PLANNED, MEMPOOL] {
        fail_each_call(conf, DeviceError::UNKNOWN, |allocator| allocator.close().unwrap());
    }
}

#[test]
fn any_call_may_fail_before_the_allocator_is_dropped() {
    for conf in [CACHING, EXPANDABLE, PLANNED, MEMPOOL] {
        fail_each_call(conf, DeviceError::UNKNOWN, drop);
    }
}

#[test]
fn any_call_of_close_may_fail() {
    for conf in [CACHING, EXPANDABLE, PLANNED, MEMPOOL] {
        fail_each_call_of_close(conf);
    }
}

fn fail_each_call_of_close(conf: &'static str) {
    for nth in 1.. {
        let (driver, device) = failing(u64::MAX, DeviceError::UNKNOWN);
        let ended = Run::under(conf).program(&device);
        let (allocator, stream) = ended.expect("nothing fails yet");
        // Something cached, something in flight, something dedicated.
        let other = Stream::new(&device, Priority::Normal).unwrap();
        let used = allocator.alloc::<u8>(1000, &stream).unwrap();
        used.use_on(&other).unwrap();
        drop(used);
        drop(allocator.alloc_dedicated::<u8>(1000, &stream).unwrap());
        driver.faults().clear();
        driver.faults().fail_nth(None, nth, DeviceError::UNKNOWN);
        // Whether it succeeds or not, the memory goes back when the last handle does.
        let closed = allocator.close();
        if let Err(error) = &closed {
            assert!(matches!(error, Error::Device(error) if error.status == 999), "{error}");
        }
        wait_until_all_memory_is_back(&device);
        if driver.faults().clear() == 1 {
            closed.expect("nothing failed");
            assert!(nth > 4, "close makes more calls than {nth}");
            return;
        }
    }
}

/// From some call on every call fails: a lost device. Nothing panics or hangs, and when it
/// comes back so does all the memory.
#[test]
fn every_call_may_fail_from_some_point_on() {
    for conf in [CACHING, EXPANDABLE, PLANNED, MEMPOOL] {
        fail_from_each_call_on(conf);
    }
}

fn fail_from_each_call_on(conf: &'static str) {
    const FAILURES: u64 = 600;
    for first in (1..).step_by(3) {
        let (driver, device) = failing(first, DeviceError::UNKNOWN);
        for nth in first + 1..first + FAILURES {
            driver.faults().fail_nth(None, nth, DeviceError::UNKNOWN);
        }
        let mut run = Run::under(conf);
        let ended = run.program(&device);
        let what = format!("{conf}: all calls from {first} on failing");
        assert_explained(&run.errors, DeviceError::UNKNOWN, &what);
        let left = driver.faults().clear() as u64;
        assert!(left > 0, "{what}: the device came back too early");
        if left == FAILURES {
            assert!(first > 40, "only {first} calls were made");
            return;
        }
        if let Some((allocator, stream)) = ended {
            assert_quiet(&allocator, &what);
            let again = allocator.alloc::<u8>(20 << 20, &stream);
            drop(again.unwrap_or_else(|error| panic!("{what}, and back again: {error}")));
            allocator.close().unwrap();
        }
        wait_until_all_memory_is_back(&device);
        assert_eq!(device.memory().unwrap().free_bytes, VRAM_BYTES);
    }
}

#[test]
fn a_failed_call_of_the_device_changes_nothing() {
    for &call in &[Call::Alloc, Call::Reserve, Call::CreatePage, Call::AllocPinned] {
        let (driver, device) = failing(u64::MAX, DeviceError::UNKNOWN);
        driver.faults().clear();
        driver.faults().fail_nth(Some(call), 1, DeviceError::OUT_OF_MEMORY);
        let before = device.memory().unwrap();
        let failed = match call {
            Call::Alloc => device.driver().alloc(1).map(drop),
            Call::Reserve => device.driver().reserve(2 * MIB).map(drop),
            Call::CreatePage => device.driver().create_page(2 * MIB).map(drop),
            _ => device.driver().alloc_pinned(1).map(drop),
        };
        let error = failed.unwrap_err();
        assert_eq!((error.call, error.status), (call.name(), DeviceError::OUT_OF_MEMORY));
        assert_eq!(device.memory().unwrap(), before, "{call}");
        assert_eq!(driver.faults().clear(), 0, "{call} struck");
    }
}
