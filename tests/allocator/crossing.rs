//! Several threads under policies that map memory, each with a stream and a random program of its
//! own and hardly enough memory for all: it crosses streams all the time, and blocks are freed by
//! others than took them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use riverbed::Error;
use riverbed::device::{Device, Stream};
use riverbed::pool::{Allocator, Buffer};

use crate::support::{MIB, Random, download, stream};
use crate::{allocator, check};

const CONFS: [&str; 2] = ["expandable_segments:True", "policy:planned"];
/// Far more than any of these programs takes, on a machine that does other work too.
const MOST_TIME: Duration = Duration::from_secs(120);

/// What the threads of one test do.
#[derive(Debug, Clone, Copy)]
struct Program {
    device: &'static str,
    limit_mib: u64,
    /// About as much is live as this.
    live_mib: u64,
    threads: usize,
    rounds: u64,
    steps: u64,
    /// Every block is filled, and looked at when it is freed.
    verifies: bool,
}

/// A block and what it was filled with.
type Filled = (Buffer, u8);

/// One thread's part.
struct Worker {
    program: Program,
    random: Random,
    allocator: Allocator,
    stream: Stream,
    live: Vec<Filled>,
    others: Vec<Sender<Filled>>,
    inbox: Receiver<Filled>,
}

impl Worker {
    /// Loads a part of what there is, then takes and frees; a round in two begins with the same
    /// numbers, so that there is something to repeat, and one in four ends with nothing live.
    fn round(&mut self, round: u64, seed: u64) {
        self.random = Random::new(seed + round % 2 * (1 + round));
        let loads = self.random.below(1 + self.program.steps / 8);
        (0..loads).for_each(|_| self.take());
        for _ in 0..self.program.steps {
            self.step();
        }
        if round % 4 != 3 {
            let kept = self.live.len() / 4;
            self.live.drain(kept..).collect::<Vec<_>>().into_iter().for_each(|it| self.free(it));
        }
        if round % 4 == 1 {
            self.free_all();
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..50 => self.take(),
            50..80 => self.free_one(),
            80..90 => self.hand_over(),
            90..98 => self.free_handed(),
            _ if self.random.below(40) == 0 => {
                self.allocator.trim();
            }
            _ => self.free_one(),
        }
    }

    fn take(&mut self) {
        let most = self.program.live_mib * MIB / self.program.threads as u64;
        let bytes = match self.random.below(8) {
            0 => 1 + self.random.below(most / 3),
            1..4 => 1 + self.random.below(most / 24),
            _ => self.random.size(most.ilog2().into()).min(most / 8),
        };
        let len = bytes as usize;
        let taken = match self.random.below(64) {
            0 => self.allocator.alloc_dedicated(len, &self.stream),
            _ => self.allocator.alloc(len, &self.stream),
        };
        match taken {
            Ok(buffer) => {
                let value = self.random.next() as u8;
                if self.program.verifies {
                    buffer.fill(value, &self.stream).unwrap();
                }
                self.live.push((buffer, value));
            }
            Err(Error::OutOfMemory(_)) => {
                let count = self.live.len().div_ceil(3);
                (0..count).for_each(|_| self.free_one());
                self.free_handed();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn pick(&mut self) -> Option<Filled> {
        let count = self.live.len() as u64;
        (count > 0).then(|| self.live.swap_remove(self.random.below(count) as usize))
    }

    fn free_one(&mut self) {
        if let Some(block) = self.pick() {
            self.free(block);
        }
    }

    /// Looks at a block behind the work of its stream, which is what orders it.
    fn free(&self, (buffer, value): Filled) {
        if self.program.verifies {
            let found = download(buffer.stream(), buffer.ptr(), buffer.len());
            assert!(found.iter().all(|&byte| byte == value), "{buffer:?} was written over");
        }
    }

    fn hand_over(&mut self) {
        let to = self.random.below(self.others.len() as u64) as usize;
        if let Some((buffer, value)) = self.pick() {
            if self.random.below(4) == 0 {
                buffer.use_on(&self.stream).unwrap();
            }
            self.others[to].send((buffer, value)).unwrap();
        }
    }

    fn free_handed(&mut self) {
        while let Ok(block) = self.inbox.try_recv() {
            self.free(block);
        }
    }

    fn free_all(&mut self) {
        self.free_handed();
        std::mem::take(&mut self.live).into_iter().for_each(|block| self.free(block));
    }
}

/// Runs all threads to the end of each round, where everything must add up.
fn run(program: Program, conf: &str, seed: u64) {
    let device = Device::open(program.device).unwrap();
    let allocator = allocator(&device, &format!("{conf},limit_mb:{}", program.limit_mib));
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..program.threads).map(|_| channel()).unzip();
    let worker = |inbox| Worker {
        program,
        random: Random::new(0),
        allocator: allocator.clone(),
        stream: stream(&device),
        live: Vec::new(),
        others: senders.clone(),
        inbox,
    };
    let mut workers: Vec<_> = inboxes.into_iter().map(worker).collect();
    for round in 0..program.rounds {
        std::thread::scope(|scope| {
            for (own, worker) in (1..).zip(&mut workers) {
                scope.spawn(move || worker.round(round, seed + (own << 32)));
            }
        });
        check(&allocator);
        if round % 4 == 1 {
            workers.iter_mut().for_each(Worker::free_all);
            check(&allocator);
        }
    }
    workers.iter_mut().for_each(Worker::free_all);
    let stats = allocator.stats();
    assert_eq!(stats.allocation.all.current, 0);
    assert!(stats.remapped_bytes > 0 && stats.cross_stream_waits > 0, "nothing crossed: {stats:?}");
    workers.iter().for_each(|worker| worker.stream.synchronize().unwrap());
    drop((workers, senders));
    allocator.trim();
    check(&allocator);
    allocator.close().unwrap();
    let memory = device.memory().unwrap();
    assert_eq!(memory.free_bytes, memory.total_bytes);
}

/// Runs a program with many seeds; fails, and does not wait, where one of them never ends.
fn run_all(program: Program, seeds: std::ops::Range<u64>) {
    for (seed, conf) in seeds.flat_map(|seed| CONFS.map(|conf| (seed, conf))) {
        let (done, ended) = channel();
        let name = format!("{conf}, seed {seed}");
        let runner = std::thread::Builder::new().name(name.clone()).spawn(move || {
            run(program, conf, seed);
            done.send(()).unwrap();
        });
        match ended.recv_timeout(MOST_TIME) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => {
                drop(runner.unwrap().join());
                panic!("{program:?} failed under {name}");
            }
            Err(RecvTimeoutError::Timeout) => panic!("{program:?} never ends under {name}"),
        }
    }
}

#[test]
fn bytes_that_cross_are_one_blocks_alone() {
    let device = "host:vram=64MiB";
    let program = Program {
        device,
        limit_mib: 32,
        live_mib: 32,
        threads: 2,
        rounds: 8,
        steps: 80,
        verifies: true,
    };
    run_all(program, 0..2);
    run_all(Program { threads: 3, ..program }, 2..4);
}

#[test]
fn books_agree_where_handles_are_pages() {
    let device = "sim:vram=512MiB";
    let program = Program {
        device,
        limit_mib: 256,
        live_mib: 256,
        threads: 2,
        rounds: 8,
        steps: 400,
        verifies: false,
    };
    run_all(program, 0..4);
    run_all(Program { threads: 3, ..program }, 4..7);
}

#[test]
fn books_agree_where_handles_are_large() {
    let device = "sim:vram=2TiB";
    let (limit_mib, live_mib) = (1 << 20, 24 << 10);
    let program =
        Program { device, limit_mib, live_mib, threads: 2, rounds: 6, steps: 150, verifies: false };
    run_all(program, 0..2);
    run_all(Program { threads: 3, ..program }, 2..4);
}
