//! One thread, several streams, gates: every promise after every step.

use riverbed::device::{Device, DevicePtr, Gate, Stream};
use riverbed::pool::{Allocator, Buffer};

use crate::model::Model;
use crate::support::{MIB, Random, stream, wait_until};
use crate::{CONFS, Named, watched};

const STEPS: usize = 1500;
/// Streams that allocate; the last of a program's streams only uses.
const STREAMS: usize = 3;

/// A live block, however it was asked for.
enum Block {
    Raw(DevicePtr),
    Owned(Buffer),
}

struct Live {
    block: Block,
    used_at_gate: bool,
}

struct Program {
    random: Random,
    allocator: Allocator,
    model: std::sync::Arc<Model>,
    streams: Vec<Stream>,
    user: Stream,
    gate: Gate,
    round: u64,
    held: bool,
    live: Vec<Live>,
    failed: u64,
    /// Memory runs out; then nobody stands at a gate, for the last rung would wait there.
    tight: bool,
}

impl Program {
    fn step(&mut self) {
        match self.random.below(100) {
            0..50 => self.alloc(),
            50..84 => self.free(),
            84..92 => self.use_elsewhere(),
            92..94 if !self.tight && !self.held => {
                self.held = true;
                self.user.wait_gate(&self.gate, self.round + 1).unwrap();
            }
            92..98 => self.open(),
            _ => {
                self.allocator.trim();
            }
        }
        self.compare();
    }

    fn alloc(&mut self) {
        let bits = if self.random.below(4) == 0 { 25 } else { 16 };
        let bytes = self.random.size(bits);
        if !self.tight && self.model.sums().live_bytes + bytes > 128 * MIB {
            return self.free();
        }
        let stream = &self.streams[self.random.below(STREAMS as u64) as usize];
        let served = match self.random.below(20) {
            0 => self.allocator.alloc_dedicated(bytes as usize, stream).map(Block::Owned),
            1..10 => self.allocator.alloc(bytes as usize, stream).map(Block::Owned),
            _ => self.allocator.alloc_raw(bytes, stream).map(Block::Raw),
        };
        match served {
            Ok(block) => {
                self.model.took(block.ptr(), bytes, stream);
                self.live.push(Live { block, used_at_gate: false });
            }
            Err(error) => {
                assert!(self.tight && error.is_retryable(), "{error}");
                self.failed += 1;
            }
        }
    }

    fn free(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let at = self.random.below(self.live.len() as u64) as usize;
        let Live { block, used_at_gate } = self.live.swap_remove(at);
        self.model.frees(block.ptr(), used_at_gate);
        match block {
            Block::Owned(buffer) => drop(buffer),
            // SAFETY: nothing is enqueued on the block.
            Block::Raw(ptr) => unsafe { self.allocator.free_raw(ptr) }.unwrap(),
        }
    }

    fn use_elsewhere(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let at = self.random.below(self.live.len() as u64) as usize;
        let live = &mut self.live[at];
        match &live.block {
            Block::Owned(buffer) => buffer.use_on(&self.user).unwrap(),
            Block::Raw(ptr) => self.allocator.record_use_raw(*ptr, &self.user).unwrap(),
        }
        // What is freed while the stream stands at the gate waits, since whenever it was used.
        live.used_at_gate = true;
    }

    fn open(&mut self) {
        self.held = false;
        self.round += 1;
        self.gate.open(self.round).unwrap();
        self.user.synchronize().unwrap();
        self.model.opened();
    }

    fn compare(&mut self) {
        if !self.held {
            self.user.synchronize().unwrap();
            self.model.opened();
        }
        self.allocator.check().unwrap();
        let reserved = || {
            let stats = self.allocator.stats();
            (stats.segment.all.current, stats.reserved_bytes.all.current)
        };
        // Dedicated segments go back in the background, and count until they are there.
        wait_until("dedicated segments are back", || {
            let (segments, bytes) = reserved();
            self.model.reserved(segments) == (segments, bytes)
        });
        let (stats, sums) = (self.allocator.stats(), self.model.sums());
        for (name, found, expected) in [
            ("live blocks", stats.allocation.all.current, sums.live),
            ("served", stats.allocation.all.allocated, sums.served),
            ("freed", stats.allocation.all.freed, sums.freed),
            (
                "requested bytes",
                stats.requested_bytes.all.current,
                sums.live_bytes + sums.in_flight_bytes,
            ),
            ("failures", stats.num_ooms, self.failed),
        ] {
            assert_eq!(found, expected, "{name}: {stats:?}");
        }
        assert_eq!(stats.retired_bytes > 0, sums.in_flight_bytes > 0, "{stats:?}");
    }

    fn finish(mut self) {
        self.open();
        while !self.live.is_empty() {
            self.free();
        }
        let device = self.allocator.device().clone();
        self.user.synchronize().unwrap();
        self.allocator.close().unwrap();
        assert_eq!(self.model.reserved(0), (0, 0));
        let memory = device.memory().unwrap();
        assert_eq!(memory.free_bytes, memory.total_bytes);
    }
}

impl Block {
    fn ptr(&self) -> DevicePtr {
        match self {
            Block::Raw(ptr) => *ptr,
            Block::Owned(buffer) => buffer.ptr(),
        }
    }
}

fn run(device: &str, conf: &str, tight: bool, seed: u64) {
    let _named = Named(format!("device {device}, conf '{conf}', seed {seed}"));
    let device = Device::open(device).unwrap();
    let (allocator, model) = watched(&device, conf);
    let mut program = Program {
        random: Random::new(seed),
        allocator,
        model,
        streams: (0..STREAMS).map(|_| stream(&device)).collect(),
        user: stream(&device),
        gate: Gate::new(&device).unwrap(),
        round: 0,
        held: false,
        live: Vec::new(),
        failed: 0,
        tight,
    };
    for _ in 0..STEPS {
        program.step();
    }
    assert_eq!(program.failed > 0, tight, "{} requests failed", program.failed);
    program.finish();
}

#[test]
fn on_the_host_device() {
    for (seed, conf) in CONFS.into_iter().enumerate() {
        run("host:vram=4GiB", conf, false, seed as u64);
    }
}

#[test]
fn on_the_simulator() {
    for (seed, conf) in CONFS.into_iter().enumerate() {
        run("sim:4GiB", conf, false, 100 + seed as u64);
    }
}

#[test]
fn where_memory_runs_out() {
    for (seed, conf) in CONFS.into_iter().enumerate() {
        run("sim:vram=40MiB", conf, true, 200 + seed as u64);
        run("host:vram=40MiB", conf, true, 300 + seed as u64);
    }
}
