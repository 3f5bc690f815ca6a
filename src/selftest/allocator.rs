//! The allocator on the device: a walk of random requests under each policy, with the books
//! proved and every byte looked at.

use crate::base::{MIB, Random};
use crate::conf::Conf;
use crate::device::{Stream, checksum};
use crate::pinned::PinnedPool;
use crate::pool::{Allocator, Buffer};
use crate::selftest::check::checks;
use crate::selftest::finding::{Finding, ensure};
use crate::selftest::lab::{Found, Lab};
use crate::transfer::Transfer;

checks! { "allocator":
    caching_keeps_its_books_and_every_byte [],
    expandable_keeps_its_books_and_every_byte [VirtualMemory],
    planned_keeps_its_books_and_every_byte [VirtualMemory],
    mempool_keeps_its_books_and_every_byte [PoolCaps],
}

const STEPS: usize = 120;
/// Live at most at once.
const LIVE: usize = 16;
/// Requests of every size up to this power of two, and now and then a whole segment.
const BITS: u32 = 17;
const LARGE_BYTES: u64 = 3 * MIB;
const LIMIT_BYTES: u64 = 40 * MIB;

fn caching_keeps_its_books_and_every_byte(lab: &Lab) -> Found {
    walk(lab, "policy:caching")
}

fn expandable_keeps_its_books_and_every_byte(lab: &Lab) -> Found {
    walk(lab, "policy:expandable")
}

fn planned_keeps_its_books_and_every_byte(lab: &Lab) -> Found {
    walk(lab, "policy:planned")
}

fn mempool_keeps_its_books_and_every_byte(lab: &Lab) -> Found {
    walk(lab, "policy:mempool")
}

/// A buffer full of one value.
struct Filled {
    buffer: Buffer<u8>,
    value: u8,
}

/// Everything a walk needs.
struct Walk<'a> {
    lab: &'a Lab,
    allocator: Allocator,
    streams: [Stream; 2],
    /// A checksum for each buffer that was freed, on the device.
    sums: Buffer<u64>,
    expected: Vec<u64>,
}

fn walk(lab: &Lab, conf: &str) -> Found {
    lab.gives_back_later();
    let allocator = Allocator::builder(lab.device()).conf_str(conf)?.limit_bytes(LIMIT_BYTES)?;
    let allocator = allocator.build()?;
    let streams = [lab.stream()?, lab.stream()?];
    let sums = allocator.alloc(STEPS, &streams[0])?;
    let mut walk = Walk { lab, allocator, streams, sums, expected: Vec::new() };
    let mut random = Random::new(1);
    let mut live: Vec<Filled> = Vec::new();
    for step in 0..STEPS {
        if live.len() < LIVE && random.below(5) > 1 || live.is_empty() {
            live.push(walk.take(&mut random)?);
        } else {
            let at = random.below(live.len() as u64) as usize;
            walk.verify(&live.swap_remove(at), &mut random)?;
        }
        if step % 16 == 0 {
            walk.allocator.check().map_err(Finding::new)?;
        }
    }
    for filled in live {
        walk.verify(&filled, &mut random)?;
    }
    walk.finish()
}

impl Walk<'_> {
    fn take(&self, random: &mut Random) -> Found<Filled> {
        let bytes = if random.below(20) == 0 { LARGE_BYTES } else { random.size(BITS) };
        let stream = &self.streams[random.below(2) as usize];
        let buffer = self.allocator.alloc(bytes as usize, stream)?;
        let value = random.next() as u8;
        buffer.fill(value, stream)?;
        Ok(Filled { buffer, value })
    }

    /// Enqueues a checksum of the buffer, on its own stream or the other one.
    fn verify(&mut self, filled: &Filled, random: &mut Random) -> Found {
        let len = filled.buffer.size_bytes();
        let stream = &self.streams[random.below(2) as usize];
        filled.buffer.checksum(0, len, &self.sums, self.expected.len(), stream)?;
        let sum = match self.lab.info().simulated {
            true => 0,
            false => checksum(&vec![filled.value; len as usize]),
        };
        self.expected.push(sum);
        Ok(())
    }

    fn finish(self) -> Found {
        let Self { lab, allocator, streams, sums, expected } = self;
        allocator.check().map_err(Finding::new)?;
        if !lab.info().simulated {
            let pinned = PinnedPool::new(lab.device(), &Conf::default());
            let found = Transfer::new(lab.device())?.read(&sums, &pinned)?;
            let wrong = expected.iter().zip(&found).position(|(expected, found)| expected != found);
            ensure!(wrong.is_none(), "buffer {} changed while in use", wrong.unwrap_or_default());
        }
        drop(sums);
        for stream in &streams {
            lab.sync(stream)?;
        }
        let peak = allocator.stats().reserved_bytes.all.peak;
        ensure!(peak <= LIMIT_BYTES, "{peak} bytes were reserved under a limit of {LIMIT_BYTES}");
        allocator.check().map_err(Finding::new)?;
        Ok(allocator.close()?)
    }
}
