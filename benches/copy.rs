//! How fast do bytes reach the device, against bare copies in host memory with the same threads,
//! chunks and bytes; and how long does a small copy wait that is wanted now?
//!
//! Medians of seven runs, taken in turns with what they are compared with, and the spread of
//! each. On the host device, where the memory's rate is the limit, or `RIVERBED_BENCH_DEVICE`,
//! where the bare copies are left out; the waits are simulated (PCIe 5) and the same everywhere.
//! `RIVERBED_BENCH_BYTES` sets how much is copied at a time.

mod common;

use std::time::Instant;

use riverbed::conf::Conf;
use riverbed::device::sim::SimDriver;
use riverbed::device::{Call, Device, Event, Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{Driven, Part, Transfer, TransferOptions};

const MIB: usize = 1 << 20;
const RUNS: usize = 7;
const CHUNK: usize = 4 * MIB;

fn threads() -> usize {
    TransferOptions::default().staging_threads
}

/// Rates in GB/s, sorted.
struct Rates(Vec<f64>);

impl Rates {
    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    fn text(&self) -> String {
        let (low, high) = (self.0[0], self.0[self.0.len() - 1]);
        format!("{:6.2} GB/s ({low:.2} to {high:.2})", self.median())
    }
}

/// Runs all of `works` in turns; one run before those that count.
fn in_turns(bytes: usize, works: &mut [&mut dyn FnMut()]) -> Vec<Rates> {
    let mut rates: Vec<Vec<f64>> = works.iter().map(|_| Vec::new()).collect();
    for run in 0..=RUNS {
        for (work, rates) in works.iter_mut().zip(&mut rates) {
            let started = Instant::now();
            work();
            if run > 0 {
                rates.push(bytes as f64 / started.elapsed().as_secs_f64() / 1e9);
            }
        }
    }
    rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
    rates.into_iter().map(Rates).collect()
}

fn compare(what: &str, bar: f64, ours: &Rates, theirs: &Rates, name: &str) {
    let ratio = ours.median() / theirs.median();
    let verdict = if ratio >= bar { "met" } else { "missed" };
    println!("{what}\n  riverbed  {}", ours.text());
    println!("  {name}  {}", theirs.text());
    println!("  ratio     {ratio:6.3}, bar {bar} {verdict}\n");
}

/// A copy by several threads, each of its own part.
fn plain(dst: u64, src: &[u8]) {
    let part = src.len().div_ceil(threads()).max(1);
    std::thread::scope(|scope| {
        for (number, src) in src.chunks(part).enumerate() {
            let dst = dst + (number * part) as u64;
            scope.spawn(move || {
                // SAFETY: the caller owns so much memory at `dst`, and nothing else uses it.
                unsafe {
                    std::ptr::copy_nonoverlapping(src.as_ptr(), dst as *mut u8, src.len());
                }
            });
        }
    });
}

/// A copy in two hops through three slots of a chunk: on each chunk all threads take the first
/// hop together, and then the second.
fn two_hops(dst: u64, src: &[u8], slots: &mut [Vec<u8>]) {
    let barrier = std::sync::Barrier::new(threads());
    let slots: Vec<u64> = slots.iter_mut().map(|slot| slot.as_mut_ptr() as u64).collect();
    std::thread::scope(|scope| {
        for thread in 0..threads() {
            let (barrier, slots) = (&barrier, &slots);
            scope.spawn(move || {
                for (number, chunk) in src.chunks(CHUNK).enumerate() {
                    let slot = slots[number % slots.len()];
                    let part = chunk.len().div_ceil(threads());
                    let start = (thread * part).min(chunk.len());
                    let bytes = part.min(chunk.len() - start);
                    let to = dst + (number * CHUNK + start) as u64;
                    // SAFETY: each thread has its own part of slot and target, which the caller
                    // owns.
                    unsafe {
                        let from = chunk.as_ptr().add(start);
                        std::ptr::copy_nonoverlapping(
                            from,
                            (slot + start as u64) as *mut u8,
                            bytes,
                        );
                    }
                    barrier.wait();
                    // SAFETY: as above.
                    unsafe {
                        let from = (slot + start as u64) as *const u8;
                        std::ptr::copy_nonoverlapping(from, to as *mut u8, bytes);
                    }
                }
            });
        }
    });
}

struct Rig {
    device: Device,
    stream: Stream,
    allocator: Allocator,
    pinned: PinnedPool,
    transfer: Transfer,
}

impl Rig {
    fn new(bytes: usize) -> Self {
        let device = common::device("host");
        let conf = Conf::default().with_pinned_limit_bytes((bytes + 64 * MIB) as u64);
        Self {
            stream: Stream::new(&device, Priority::Normal).expect("a stream"),
            allocator: Allocator::builder(&device).build().expect("an allocator"),
            pinned: PinnedPool::new(&device, &conf.expect("a limit")),
            transfer: Transfer::new(&device).expect("copy streams"),
            device,
        }
    }

    fn buffer(&self, bytes: usize) -> Buffer<u8> {
        let buffer = self.allocator.alloc::<u8>(bytes, &self.stream).expect("room");
        buffer.fill(0, &self.stream).expect("a fill");
        self.stream.synchronize().expect("its end");
        buffer
    }

    fn is_host(&self) -> bool {
        self.device.info().host_accessible
    }
}

fn pinned(bytes: usize) {
    let rig = Rig::new(bytes);
    let buffer = rig.buffer(bytes);
    let mut block = rig.pinned.alloc(bytes).expect("pinned memory");
    block.fill(1);
    let source = block.freeze();
    let mut ours = || {
        let pending = rig.transfer.upload_shared(&source, &buffer, 0).expect("a copy");
        drop(pending.wait().expect("its end"));
    };
    if !rig.is_host() {
        let rates = in_turns(bytes, &mut [&mut ours]);
        println!("pinned to device, one stream\n  riverbed  {}\n", rates[0].text());
        return;
    }
    let target = buffer.ptr().0;
    let rates = in_turns(bytes, &mut [&mut ours, &mut || plain(target, &source)]);
    compare("pinned to device, one stream", 0.95, &rates[0], &rates[1], "memcpy  ");
}

fn pageable(bytes: usize) {
    let rig = Rig::new(bytes);
    let (buffer, source) = (rig.buffer(bytes), vec![2u8; bytes]);
    let mut ours = || {
        let pending = rig.transfer.upload_slice(&source, &buffer, 0).expect("a copy");
        pending.wait().expect("its end");
    };
    let mut back = vec![0u8; bytes];
    let mut down = || rig.transfer.download_into(&buffer, 0, &mut back).expect("a copy");
    if !rig.is_host() {
        let rates = in_turns(bytes, &mut [&mut ours, &mut down]);
        println!("pageable to device\n  riverbed  {}\n", rates[0].text());
        println!("device to pageable\n  riverbed  {}\n", rates[1].text());
        return;
    }
    let target = buffer.ptr().0;
    let mut slots = vec![vec![0u8; CHUNK]; 3];
    let mut bare = || two_hops(target, &source, &mut slots);
    let rates = in_turns(bytes, &mut [&mut ours, &mut bare, &mut down]);
    compare("pageable to device", 0.9, &rates[0], &rates[1], "two hops");
    compare("device to pageable", 0.9, &rates[2], &rates[1], "two hops");
}

/// A layer of 1,000 tensors of 4 to 64 KiB, packed on the device: packed alike in pinned memory, and
/// in no order there.
fn layer() {
    let mut seed = 1u64;
    let mut parts = Vec::new();
    let mut end = 0;
    for _ in 0..1000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let len_bytes = (4 << 10) + (seed >> 33) % (60 << 10);
        parts.push(Part { block_offset: end, buffer_offset: end, len_bytes });
        end += len_bytes;
    }
    let mut scattered = parts.clone();
    let mut from = 0;
    for number in 0..scattered.len() {
        let part = &mut scattered[number * 389 % 1000];
        part.block_offset = from;
        from += part.len_bytes + 64;
    }
    let bytes = end as usize;
    let rig = Rig::new(bytes);
    let buffer = rig.buffer(bytes);
    let mut block = rig.pinned.alloc(from as usize).expect("pinned memory");
    block.fill(3);
    let source = block.freeze();
    let calls = || rig.device.calls().sum(&[Call::CopyH2d, Call::CopyBatch]);
    let upload = |parts: &[Part]| {
        let before = calls();
        let pending = rig.transfer.upload_parts(&source, &buffer, parts).expect("a copy");
        drop(pending.wait().expect("its end"));
        calls() - before
    };
    let (mut made, mut made_scattered) = (0, 0);
    let mut in_parts = || made = upload(&parts).max(made);
    let mut from_anywhere = || made_scattered = upload(&scattered).max(made_scattered);
    let all = [Part { block_offset: 0, buffer_offset: 0, len_bytes: end }];
    let mut whole = || {
        upload(&all);
    };
    let rates = in_turns(bytes, &mut [&mut in_parts, &mut from_anywhere, &mut whole]);
    compare("a layer of 1,000 tensors", 0.85, &rates[0], &rates[2], "in one  ");
    compare("the same from anywhere", 0.85, &rates[1], &rates[2], "in one  ");
    let most = bytes / CHUNK + 2;
    for made in [made, made_scattered] {
        let verdict = if made <= most as u64 { "met" } else { "missed" };
        println!("  {made} copies of {bytes} bytes, bar {most} {verdict}\n");
    }
}

/// Waits of a 51 KB copy behind 10 GiB, on a simulated card with PCIe 5.
fn urgent() {
    let driver = SimDriver::new("sim:h100", "sim:h100".parse().expect("a card")).expect("it");
    let device = Device::from_driver(driver.clone());
    let conf = Conf::default().with_pinned_limit_bytes(2 << 30).expect("a limit");
    let pinned = PinnedPool::new(&device, &conf);
    let stream = Stream::new(&device, Priority::Normal).expect("a stream");
    let allocator = Allocator::builder(&device).build().expect("an allocator");
    let by_caller = TransferOptions { driven: Driven::ByCaller, ..TransferOptions::default() };
    let transfer = Transfer::with_options(&device, &by_caller).expect("copy streams");
    let source = pinned.alloc(1 << 30).expect("pinned memory").freeze();
    let probe = pinned.alloc(51_000).expect("pinned memory").freeze();
    let buffer = |bytes| allocator.alloc::<u8>(bytes, &stream).expect("room");
    let (bulk, target) = (buffer(1 << 30), buffer(51_000));
    let ahead = || transfer.ahead().upload_shared(&source, &bulk, 0).expect("a copy");
    let copies: Vec<_> = (0..10).map(|_| ahead()).collect();
    let idle = Stream::new(&device, Priority::Normal).expect("a stream");
    let mark = || Event::with_timing(&device).expect("an event");
    let (asked, done) = (mark(), mark());
    let mut waits = Vec::new();
    let mut seed = 1u64;
    while transfer.drive() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        driver.pass((seed >> 33) % 200_000);
        asked.record(&idle).expect("a mark");
        let pending = transfer.upload_shared(&probe, &target, 0).expect("a copy");
        pending.order_before(&idle).expect("an order");
        done.record(&idle).expect("a mark");
        done.synchronize().expect("its end");
        waits.push(done.elapsed_ns_since(&asked).expect("times") as f64 / 1e3);
        drop(pending);
    }
    drop(copies);
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits[(waits.len() * share / 100).min(waits.len() - 1)];
    let verdict = if at(99) <= 400.0 { "met" } else { "missed" };
    println!(
        "51 KB wanted now behind 10 GiB, {}\n  {} copies: p50 {:.0} us, p99 {:.0} us, longest \
         {:.0} us, bar p99 400 {verdict}",
        device.info().name,
        waits.len(),
        at(50),
        at(99),
        at(100)
    );
}

fn main() {
    let bytes = std::env::var("RIVERBED_BENCH_BYTES").ok().and_then(|text| text.parse().ok());
    let bytes = bytes.unwrap_or(512 * MIB);
    println!("{} MiB, {} threads, {RUNS} runs in turns\n", bytes / MIB, threads());
    pinned(bytes);
    pageable(bytes);
    layer();
    urgent();
}
