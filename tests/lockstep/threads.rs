//! Several threads, each with a stream it mostly feeds alone, and blocks that are freed by
//! others than took them.

use std::sync::mpsc::{Receiver, Sender, channel};

use riverbed::device::{Device, DevicePtr, Stream};
use riverbed::pool::{Allocator, Buffer};

use crate::model::Model;
use crate::support::{Random, stream};
use crate::{CONFS, Named, watched};

const THREADS: usize = 4;
const LIVE_MOST: usize = 64;

enum Block {
    Raw(DevicePtr),
    Owned(Buffer),
}

/// One thread's part of a program.
struct Worker<'a> {
    random: Random,
    allocator: &'a Allocator,
    model: &'a Model,
    streams: &'a [Stream],
    own: usize,
    live: Vec<Block>,
    others: Vec<Sender<Block>>,
    inbox: Receiver<Block>,
}

impl Worker<'_> {
    fn step(&mut self) {
        match self.random.below(100) {
            0..48 => self.alloc(),
            48..80 => self.free(),
            80..90 => self.hand_over(),
            90..94 => self.use_elsewhere(),
            94..99 => self.free_handed(),
            _ if self.random.below(64) == 0 => {
                self.allocator.trim();
            }
            _ => self.free(),
        }
    }

    fn alloc(&mut self) {
        if self.live.len() >= LIVE_MOST {
            return self.free();
        }
        let bits = if self.random.below(16) == 0 { 23 } else { 14 };
        let bytes = self.random.size(bits);
        // Now and then somebody else's stream, so that heaps change hands.
        let foreign = self.random.below(200) == 0;
        let at = if foreign { self.random.below(THREADS as u64) as usize } else { self.own };
        let stream = &self.streams[at];
        let served = match self.random.below(2) {
            0 => self.allocator.alloc(bytes as usize, stream).map(Block::Owned),
            _ => self.allocator.alloc_raw(bytes, stream).map(Block::Raw),
        };
        match served {
            Ok(block) => {
                self.model.took(block.ptr(), bytes, stream);
                self.live.push(block);
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                self.free();
            }
        }
    }

    fn pick(&mut self) -> Option<Block> {
        let count = self.live.len() as u64;
        (count > 0).then(|| self.live.swap_remove(self.random.below(count) as usize))
    }

    fn free(&mut self) {
        if let Some(block) = self.pick() {
            self.give_up(block);
        }
    }

    fn give_up(&self, block: Block) {
        self.model.frees(block.ptr(), false);
        match block {
            Block::Owned(buffer) => drop(buffer),
            // SAFETY: nothing is enqueued on the block.
            Block::Raw(ptr) => unsafe { self.allocator.free_raw(ptr) }.unwrap(),
        }
    }

    fn hand_over(&mut self) {
        if let Some(block) = self.pick() {
            let other = self.random.below(THREADS as u64) as usize;
            self.others[other].send(block).unwrap();
        }
    }

    fn use_elsewhere(&mut self) {
        let Some(block) = self.pick() else { return };
        let other = &self.streams[self.random.below(THREADS as u64) as usize];
        match &block {
            Block::Owned(buffer) => buffer.use_on(other).unwrap(),
            Block::Raw(ptr) => self.allocator.record_use_raw(*ptr, other).unwrap(),
        }
        self.live.push(block);
    }

    fn free_handed(&mut self) {
        while let Ok(block) = self.inbox.try_recv() {
            self.give_up(block);
        }
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

/// Nobody counts now: everything adds up.
fn compare(allocator: &Allocator, model: &Model, streams: &[Stream]) {
    // What was freed from other threads is marked on its streams first, then waited for.
    let _ = allocator.stats();
    streams.iter().for_each(|stream| stream.synchronize().unwrap());
    allocator.check().unwrap();
    let (stats, sums) = (allocator.stats(), model.sums());
    let (segments, reserved_bytes) = model.reserved(stats.segment.all.current);
    for (name, found, expected) in [
        ("live blocks", stats.allocation.all.current, sums.live),
        ("served", stats.allocation.all.allocated, sums.served),
        ("freed", stats.allocation.all.freed, sums.freed),
        ("active blocks", stats.active.all.current, sums.live),
        ("requested bytes", stats.requested_bytes.all.current, sums.live_bytes),
        ("segments", stats.segment.all.current, segments),
        ("reserved bytes", stats.reserved_bytes.all.current, reserved_bytes),
    ] {
        assert_eq!(found, expected, "{name}: {stats:?}");
    }
}

/// Runs `ops` operations in rounds, after each of which everything must add up.
fn run(device: &str, conf: &str, ops: u64, rounds: u64, seed: u64) {
    let _named = Named(format!("device {device}, conf '{conf}', seed {seed}"));
    let device = Device::open(device).unwrap();
    let (allocator, model) = watched(&device, conf);
    let streams: Vec<Stream> = (0..THREADS).map(|_| stream(&device)).collect();
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel()).unzip();
    let worker = |(own, inbox)| Worker {
        random: Random::new(seed * THREADS as u64 + own as u64),
        allocator: &allocator,
        model: &model,
        streams: &streams,
        own,
        live: Vec::new(),
        others: senders.clone(),
        inbox,
    };
    let mut workers: Vec<_> = inboxes.into_iter().enumerate().map(worker).collect();
    for _ in 0..rounds {
        std::thread::scope(|scope| {
            for worker in &mut workers {
                let steps = ops / rounds / THREADS as u64;
                scope.spawn(move || (0..steps).for_each(|_| worker.step()));
            }
        });
        compare(&allocator, &model, &streams);
    }
    for worker in &mut workers {
        worker.free_handed();
        std::mem::take(&mut worker.live).into_iter().for_each(|block| worker.give_up(block));
    }
    drop(workers);
    drop(senders);
    compare(&allocator, &model, &streams);
    assert_eq!(model.sums().live, 0);
    assert!(model.sums().served > ops / 4, "{:?}", model.sums());
    allocator.close().unwrap();
    assert_eq!(model.reserved(0), (0, 0));
}

#[test]
fn on_both_devices_under_every_conf() {
    for (seed, conf) in CONFS.into_iter().enumerate() {
        run("host:vram=1GiB", conf, 8000, 8, seed as u64);
        run("sim:1GiB", conf, 8000, 8, 100 + seed as u64);
    }
}

#[test]
fn where_memory_runs_out() {
    for (seed, conf) in CONFS.into_iter().enumerate() {
        run("sim:vram=128MiB", conf, 8000, 8, 200 + seed as u64);
    }
}

/// As long as `RIVERBED_SOAK` says, in operations over all confs.
#[test]
fn soak() {
    let ops: u64 = match std::env::var("RIVERBED_SOAK") {
        Ok(ops) => ops.parse().expect("RIVERBED_SOAK is a number of operations"),
        Err(_) => 100_000,
    };
    let each = ops / CONFS.len() as u64;
    for (seed, conf) in CONFS.into_iter().enumerate() {
        run("sim:vram=512MiB", conf, each, each / 100_000 + 4, 300 + seed as u64);
    }
}
