//! The expandable policy under several threads: each keeps its own free memory while both are at
//! work and there is room, and all of it serves where there is none.

use std::collections::VecDeque;
use std::sync::Barrier;

use riverbed::device::{Device, Stream};
use riverbed::pool::{Allocator, Buffer};

use crate::support::{MIB, Random, stream};
use crate::{allocator, check};

const CONF: &str = "expandable_segments:True";

/// One thread's program: blocks of all sizes that live for a while.
struct Program<'a> {
    allocator: &'a Allocator,
    stream: Stream,
    random: Random,
    live: VecDeque<Buffer>,
}

impl<'a> Program<'a> {
    fn new(allocator: &'a Allocator, device: &Device, seed: u64) -> Self {
        let (stream, random) = (stream(device), Random::new(seed));
        Self { allocator, stream, random, live: VecDeque::new() }
    }

    fn turn(&mut self) {
        for _ in 0..8 {
            let bytes = 1 + self.random.below(24 * MIB) as usize;
            // Where there is no room, as in one of the tests, the turn goes on without it.
            self.live.extend(self.allocator.alloc::<u8>(bytes, &self.stream).ok());
            if self.live.len() > 12 {
                // Not the oldest alone, so that what is free lies in pieces.
                let at = self.random.below(self.live.len() as u64) as usize;
                self.live.remove(at);
            }
        }
    }
}

/// Two threads take turns: `turns` of each, and a `look` after each.
fn take_turns(device: &Device, allocator: &Allocator, turns: u32, mut look: impl FnMut(u32)) {
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut program = Program::new(allocator, device, 3);
            for _ in 0..turns {
                barrier.wait();
                program.turn();
                barrier.wait();
            }
        });
        let mut program = Program::new(allocator, device, 5);
        for turn in 0..turns {
            program.turn();
            barrier.wait();
            barrier.wait();
            look(turn);
        }
    });
}

#[test]
fn threads_at_work_leave_each_others_free_memory_alone() {
    let device = Device::open("sim:vram=16GiB").unwrap();
    let allocator = allocator(&device, CONF);
    let mut settled = None;
    take_turns(&device, &allocator, 200, |turn| {
        if turn == 40 {
            settled = Some(allocator.stats());
        }
    });
    let (before, after) = (settled.unwrap(), allocator.stats());
    assert!(after.remapped_bytes > before.remapped_bytes, "no misses: the test shows nothing");
    assert_eq!(after.cross_stream_waits, before.cross_stream_waits);
    check(&allocator);
}

#[test]
fn without_room_all_free_memory_serves() {
    let device = Device::open("sim:vram=16GiB").unwrap();
    let allocator = allocator(&device, &format!("{CONF},limit_mb:300"));
    let mut waits = Vec::new();
    take_turns(&device, &allocator, 200, |_| waits.push(allocator.stats().cross_stream_waits));
    assert!(waits[199] > waits[40], "nothing crossed: the test shows nothing");
    check(&allocator);
}
