//! What every policy must do, and a policy of one's own.

use std::sync::Once;

use riverbed::base::MIB;
use riverbed::conf::Conf;
use riverbed::device::{Device, Gate};
use riverbed::ledger::Ledger;
use riverbed::policy::{self, Fit, Policy, Request};
use riverbed::pool::{Allocator, Buffer};

use crate::support::{Random, shows, stream};
use crate::{check, device};

/// The policy the example shows.
#[path = "../../examples/own_policy.rs"]
#[allow(dead_code)]
mod example;

/// Rounds to a power of two and serves each size from segments of its own, never split.
#[derive(Debug)]
struct SizeClasses;

impl Policy for SizeClasses {
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        let block_bytes = requested_bytes.checked_next_power_of_two()?.max(2 * MIB);
        let class = u8::try_from(block_bytes.trailing_zeros()).ok()?;
        Some(Request { requested_bytes, block_bytes, class })
    }

    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        let block = ledger.best_fit(request.class, request.block_bytes)?;
        Some(Fit { block, take_bytes: request.block_bytes })
    }

    fn segment_bytes(&self, request: &Request) -> u64 {
        request.block_bytes
    }

    fn take_of_segment(&self, segment_bytes: u64, _request: &Request) -> u64 {
        segment_bytes
    }
}

const OWN: &str = "size-classes-of-the-test";

fn build(device: &Device, policy: &str, more: &str) -> Allocator {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        policy::register(OWN, |_: &Conf| Ok(Box::new(SizeClasses))).unwrap();
        example::register().unwrap();
    });
    let builder = Allocator::builder(device).conf_str(&format!("policy:{policy}")).unwrap();
    builder.conf_str(more).unwrap().build().unwrap()
}

macro_rules! suite {
    ($($name:ident: $policy:expr, $device:expr);+) => {$(
        mod $name {
            use super::On;

            const ON: On = On { policy: $policy, device: $device };

            #[test]
            fn what_is_freed_is_used_again() { super::what_is_freed_is_used_again(ON); }
            #[test]
            fn live_blocks_never_overlap() { super::live_blocks_never_overlap(ON); }
            #[test]
            fn other_streams_are_waited_for() { super::other_streams_are_waited_for(ON); }
            #[test]
            fn the_limit_holds() { super::the_limit_holds(ON); }
            #[test]
            fn everything_comes_back() { super::everything_comes_back(ON); }
        }
    )+};
}

suite!(
    caching: "caching", "host";
    expandable: "expandable", "host";
    expandable_simulated: "expandable", "sim";
    planned: "planned", "host";
    planned_simulated: "planned", "sim";
    own: super::OWN, "host";
    next_fit: "next-fit", "host";
    mempool: "mempool", "host";
    mempool_simulated: "mempool", "sim"
);

/// What a promise is tested on.
#[derive(Debug, Clone, Copy)]
struct On {
    policy: &'static str,
    device: &'static str,
}

impl On {
    fn device(self, mib: u64) -> Device {
        Device::open(&format!("{}:vram={mib}MiB", self.device)).unwrap()
    }

    fn build(self, device: &Device, more: &str) -> Allocator {
        build(device, self.policy, more)
    }
}

fn what_is_freed_is_used_again(on: On) {
    let device = on.device(64);
    let (allocator, stream) = (on.build(&device, ""), stream(&device));
    for bytes in [1usize, 1000, 3 << 20, 9 << 20] {
        drop(allocator.alloc::<u8>(bytes, &stream).unwrap());
        let before = allocator.stats();
        for _ in 0..50 {
            drop(allocator.alloc::<u8>(bytes, &stream).unwrap());
        }
        let after = allocator.stats();
        assert_eq!(after.num_device_alloc, before.num_device_alloc, "{bytes} bytes");
        assert_eq!(after.reserved_bytes.all, before.reserved_bytes.all, "{bytes} bytes");
    }
    check(&allocator);
}

fn live_blocks_never_overlap(on: On) {
    let device = on.device(512);
    let allocator = on.build(&device, "");
    let streams = [stream(&device), stream(&device)];
    let mut random = Random::new(1);
    let mut live: Vec<(Buffer, u8)> = Vec::new();
    for step in 0..300 {
        let bytes = random.size(20) as usize;
        let stream = &streams[random.below(2) as usize];
        let buffer = allocator.alloc::<u8>(bytes, stream).unwrap();
        assert_eq!(buffer.ptr().0 % 512, 0, "{bytes} bytes are not aligned");
        let (start, end) = (buffer.ptr().0, buffer.ptr().0 + bytes as u64);
        for (other, _) in &live {
            let (from, to) = (other.ptr().0, other.ptr().0 + other.size_bytes());
            assert!(end <= from || to <= start, "step {step}: {buffer:?} over {other:?}");
        }
        let value = step as u8;
        buffer.fill(value, stream).unwrap();
        live.push((buffer, value));
        if live.len() > 24 {
            let (buffer, value) = live.swap_remove(random.below(24) as usize);
            let written = vec![value; buffer.len()];
            assert!(shows(buffer.stream(), buffer.ptr(), &written), "step {step}: {buffer:?}");
        }
        check(&allocator);
    }
    let stats = allocator.stats();
    assert_eq!(stats.allocation.all.current, live.len() as u64);
    let asked: u64 = live.iter().map(|(buffer, _)| buffer.size_bytes()).sum();
    assert_eq!(stats.requested_bytes.all.current, asked);
}

fn other_streams_are_waited_for(on: On) {
    let device = on.device(64);
    let (home, other) = (stream(&device), stream(&device));
    let allocator = on.build(&device, "");
    let gate = Gate::new(&device).unwrap();
    let buffer = allocator.alloc::<u8>(1000, &home).unwrap();
    let address = buffer.ptr();
    other.wait_gate(&gate, 1).unwrap();
    buffer.use_on(&other).unwrap();
    drop(buffer);
    let meanwhile = allocator.alloc::<u8>(1000, &home).unwrap();
    assert_ne!(meanwhile.ptr(), address);
    assert!(allocator.stats().retired_bytes >= 1000);
    gate.open(1).unwrap();
    other.synchronize().unwrap();
    // Free for whoever the policy gives it to, at once or when it comes round to it.
    assert_eq!(allocator.stats().retired_bytes, 0);
    check(&allocator);
}

fn the_limit_holds(on: On) {
    let device = on.device(64);
    let (allocator, stream) = (on.build(&device, "limit_mb:40"), stream(&device));
    let mut live = Vec::new();
    let error = loop {
        match allocator.alloc::<u8>(4 << 20, &stream) {
            Ok(buffer) => live.push(buffer),
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable(), "{error}");
    assert!((8..=10).contains(&live.len()), "{} blocks of 4 MiB", live.len());
    let memory = device.memory().unwrap();
    assert!(memory.total_bytes - memory.free_bytes <= 40 * MIB);
    drop(live);
    let _other = allocator.alloc::<u8>(16 << 20, &stream).expect("what is cached makes room");
    assert!(allocator.stats().reserved_bytes.all.peak <= 40 * MIB);
    check(&allocator);
}

fn everything_comes_back(on: On) {
    let device = on.device(64);
    let allocator = on.build(&device, "");
    let streams = [stream(&device), stream(&device)];
    for (index, bytes) in [1usize, 5000, 3 << 20, 12 << 20].into_iter().enumerate() {
        let buffer = allocator.alloc::<u8>(bytes, &streams[index % 2]).unwrap();
        buffer.fill(1, &streams[(index + 1) % 2]).unwrap();
    }
    allocator.close().unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 64 * MIB);
}

#[test]
fn names_are_taken_once() {
    let device = device(64);
    drop(build(&device, OWN, ""));
    for name in [OWN, "caching", "expandable", "mempool", "planned"] {
        let error = policy::register(name, |_: &Conf| Ok(Box::new(SizeClasses))).unwrap_err();
        assert!(error.to_string().contains("it is taken"), "{name}: {error}");
    }
    assert!(policy::names().iter().any(|name| name == OWN));
}

#[test]
fn a_policy_that_is_not_there_is_named_with_those_that_are() {
    let device = device(64);
    let builder = Allocator::builder(&device).conf_str("policy:nobody").unwrap();
    let error = builder.build().unwrap_err().to_string();
    for words in ["nobody registered it", "available: caching, expandable, mempool"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_policys_own_failure_comes_through() {
    let device = device(64);
    let name = "never-there";
    policy::register(name, |_: &Conf| Err(riverbed::Error::Cancelled)).unwrap();
    let builder = Allocator::builder(&device).conf_str("policy:never-there").unwrap();
    assert!(matches!(builder.build(), Err(riverbed::Error::Cancelled)));
}

/// Says what must not be believed: blocks in use, more than a block has, segments too small.
#[derive(Debug, Default)]
struct Rogue {
    turns: u64,
    last: Option<Fit>,
}

impl Policy for Rogue {
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        let block_bytes = requested_bytes.next_multiple_of(512);
        Some(Request { requested_bytes, block_bytes, class: 0 })
    }

    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        self.turns += 1;
        let found = ledger.best_fit(0, 0);
        let lie = match (self.turns % 4, found) {
            // The block it gave out last, in use or gone by now.
            (0, _) => self.last?,
            (1, Some(block)) => Fit { block, take_bytes: ledger[block].bytes + 512 },
            (2, Some(block)) => Fit { block, take_bytes: 1 },
            (_, Some(block)) => Fit { block, take_bytes: request.block_bytes },
            (_, None) => return None,
        };
        self.last = Some(lie);
        Some(lie)
    }

    fn segment_bytes(&self, _request: &Request) -> u64 {
        1
    }

    fn take_of_segment(&self, segment_bytes: u64, _request: &Request) -> u64 {
        segment_bytes * 2
    }
}

#[test]
fn a_policy_that_lies_hands_out_nothing_twice() {
    policy::register("rogue-of-the-test", |_: &Conf| Ok(Box::new(Rogue::default()))).unwrap();
    let device = device(64);
    let stream = stream(&device);
    let allocator =
        Allocator::builder(&device).conf_str("policy:rogue-of-the-test").unwrap().build().unwrap();
    let mut random = Random::new(7);
    let mut live: Vec<Buffer<u8>> = Vec::new();
    let mut served = 0;
    for _ in 0..400 {
        if let Ok(buffer) = allocator.alloc::<u8>(1 + random.below(100_000) as usize, &stream) {
            let (start, end) = (buffer.ptr().0, buffer.ptr().0 + buffer.size_bytes());
            let apart = |other: &Buffer<u8>| {
                other.ptr().0 >= end || other.ptr().0 + other.size_bytes() <= start
            };
            assert!(live.iter().all(apart), "a buffer lies over another one");
            live.push(buffer);
            served += 1;
        }
        if random.below(3) == 0 && !live.is_empty() {
            live.swap_remove(random.below(live.len() as u64) as usize);
        }
        check(&allocator);
    }
    assert!(served > 20, "only {served} requests were served: the test shows little");
}
