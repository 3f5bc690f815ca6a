//! What several test crates need: memory with an owner, patterns, random numbers, bounded waits.
// Each test crate compiles this file for itself and uses a part of it.
#![allow(dead_code)]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use riverbed::base::{DeviceError, Error};
use riverbed::device::{Device, DevicePtr, Priority, Stream};

pub(crate) const MIB: u64 = 1 << 20;

/// A stream of normal priority.
pub(crate) fn stream(device: &Device) -> Stream {
    Stream::new(device, Priority::Normal).unwrap()
}

/// Device memory straight from the driver, freed with its owner. Whoever enqueued work on it
/// synchronizes before the owner goes.
#[derive(Debug)]
pub(crate) struct Memory {
    device: Device,
    pub(crate) ptr: DevicePtr,
    pub(crate) bytes: u64,
}

impl Memory {
    pub(crate) fn new(device: &Device, bytes: u64) -> Self {
        let ptr = device.driver().alloc(bytes).unwrap();
        Self { device: device.clone(), ptr, bytes }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the memory is from `alloc`, this is its only owner, and the tests synchronize
        // whatever touches it before they drop it.
        let freed = unsafe { self.device.driver().free(self.ptr) };
        if !std::thread::panicking() {
            freed.unwrap();
        }
    }
}

/// Pinned host memory, freed with its owner. Whoever enqueued copies on it synchronizes before
/// the owner reads, writes or goes.
#[derive(Debug)]
pub(crate) struct Pinned {
    device: Device,
    start: NonNull<u8>,
    len: usize,
}

impl Pinned {
    pub(crate) fn new(device: &Device, len: usize) -> Self {
        let start = device.driver().alloc_pinned(len as u64).unwrap();
        Self { device: device.clone(), start, len }
    }

    pub(crate) fn with(device: &Device, bytes: &[u8]) -> Self {
        let mut pinned = Self::new(device, bytes.len().max(1));
        pinned[..bytes.len()].copy_from_slice(bytes);
        pinned
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is this owner's, zeroed when made, and nothing enqueued writes it now.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and nothing enqueued reads it now.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the memory is from `alloc_pinned`, this is its only owner, and the tests
        // synchronize whatever touches it before they drop it.
        let freed = unsafe { self.device.driver().free_pinned(self.start) };
        if !std::thread::panicking() {
            freed.unwrap();
        }
    }
}

/// Copies `bytes` to the device and waits.
pub(crate) fn upload(stream: &Stream, at: DevicePtr, bytes: &[u8]) {
    let pinned = Pinned::with(stream.device(), bytes);
    let driver = stream.device().driver();
    // SAFETY: `at` is memory of the calling test, and both ends live past `synchronize`.
    unsafe { driver.copy_h2d(stream.id(), at, pinned.address(), bytes.len() as u64) }.unwrap();
    stream.synchronize().unwrap();
}

/// Copies `len` bytes from the device and waits.
pub(crate) fn download(stream: &Stream, at: DevicePtr, len: usize) -> Vec<u8> {
    let pinned = Pinned::new(stream.device(), len.max(1));
    let driver = stream.device().driver();
    // SAFETY: `at` is memory of the calling test, and both ends live past `synchronize`.
    unsafe { driver.copy_d2h(stream.id(), pinned.address(), at, len as u64) }.unwrap();
    stream.synchronize().unwrap();
    pinned[..len].to_vec()
}

/// True when the device holds `bytes` at `at`, or holds no bytes at all because it is simulated.
pub(crate) fn shows(stream: &Stream, at: DevicePtr, bytes: &[u8]) -> bool {
    let found = download(stream, at, bytes.len());
    stream.device().info().simulated || found == bytes
}

/// `len` bytes that differ from place to place and from seed to seed.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// The driver's status in `result`.
#[track_caller]
pub(crate) fn status<T: std::fmt::Debug>(result: Result<T, DeviceError>) -> u32 {
    result.expect_err("the call should have failed").status
}

/// The driver error in `error`.
#[track_caller]
pub(crate) fn device_status<T: std::fmt::Debug>(result: Result<T, Error>) -> u32 {
    match result {
        Err(Error::Device(error)) => error.status,
        other => panic!("a driver error was expected, not {other:?}"),
    }
}

/// A log that stream callbacks and threads write to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    pub(crate) fn push(&self, word: &'static str) {
        self.0.lock().unwrap().push(word);
    }

    pub(crate) fn words(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    /// Enqueues the writing of `word` on `stream`.
    pub(crate) fn push_on(&self, stream: &Stream, word: &'static str) {
        let log = self.clone();
        stream.launch_host(Box::new(move || log.push(word))).unwrap();
    }
}

/// Gives other threads every chance to do what they must not do: a bounded number of round
/// trips through a stream of their own.
pub(crate) fn give_others_a_chance(device: &Device) {
    let own = stream(device);
    for _ in 0..50 {
        own.launch_host(Box::new(std::thread::yield_now)).unwrap();
        own.synchronize().unwrap();
    }
}

/// Waits, without sleeping, for something another thread is sure to do.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// Waits until the device has all its memory again.
#[track_caller]
pub(crate) fn wait_until_all_memory_is_back(device: &Device) {
    wait_until("all memory is back with the device", || {
        let memory = device.memory().unwrap();
        memory.free_bytes == memory.total_bytes
    });
}

/// Marsaglia's xorshift64*.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike, and 0 would stay 0.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A size above 0 of at most about 2^`bits` bytes; every order of magnitude is as likely.
    pub(crate) fn size(&mut self, bits: u64) -> u64 {
        let magnitude = 1 + self.below(bits);
        1 + self.below(1 << magnitude)
    }
}
