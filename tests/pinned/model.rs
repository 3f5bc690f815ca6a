//! Random programs against a model: no two blocks share a byte, none is handed out while a copy
//! may use it, the figures add up, and the budget holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use riverbed::base::Error;
use riverbed::device::{Device, Gate, Stream};
use riverbed::pinned::{PinnedBlock, PinnedPool};

use crate::support::{Random, stream, wait_until};
use crate::{host, pool};

const BUDGET_BYTES: u64 = 6 << 20;

#[derive(Debug, Clone)]
enum Step {
    Alloc(usize),
    /// Drops one of the live blocks; the streams of the set bits use it.
    Free(usize, u8),
    /// Lets the streams go on.
    Open,
    Trim,
    Maintain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![1..20_000usize, 1..900_000usize, 1..3_000_000usize].prop_map(Step::Alloc),
        5 => (any::<usize>(), 0..4u8).prop_map(|(which, uses)| Step::Free(which, uses)),
        1 => Just(Step::Open),
        1 => Just(Step::Trim),
        1 => Just(Step::Maintain),
    ]
}

/// What is known of a pool from outside.
struct Model {
    device: Device,
    pool: PinnedPool,
    streams: [Stream; 2],
    gate: Gate,
    turn: u64,
    live: Vec<PinnedBlock>,
    /// Ranges that copies may use: start and end.
    in_flight: BTreeMap<usize, usize>,
}

fn range(block: &PinnedBlock) -> (usize, usize) {
    let start = block.as_ptr() as usize;
    (start, start + block.len().next_multiple_of(4096))
}

impl Model {
    fn new(conf: &str) -> Self {
        let device = Device::open("sim:1GiB").unwrap();
        let streams = [stream(&device), stream(&device)];
        let gate = Gate::new(&device).unwrap();
        let pool = pool(&device, conf);
        let mut model =
            Self { device, pool, streams, gate, turn: 0, live: vec![], in_flight: BTreeMap::new() };
        model.close();
        model
    }

    /// Lets the streams stand still until the next turn.
    fn close(&mut self) {
        self.turn += 1;
        self.streams.iter().for_each(|stream| stream.wait_gate(&self.gate, self.turn).unwrap());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Alloc(len) => self.alloc(len),
            Step::Free(which, uses) if !self.live.is_empty() => {
                let block = self.live.swap_remove(which % self.live.len());
                for (number, stream) in self.streams.iter().enumerate() {
                    if uses & (1 << number) != 0 {
                        block.record_use(stream).unwrap();
                        let (start, end) = range(&block);
                        self.in_flight.insert(start, end);
                    }
                }
            }
            Step::Free(..) => {}
            Step::Open => {
                self.gate.open(self.turn).unwrap();
                self.streams.iter().for_each(|stream| stream.synchronize().unwrap());
                self.in_flight.clear();
                self.close();
            }
            Step::Trim => drop(self.pool.trim()),
            Step::Maintain => drop(self.pool.maintain()),
        }
        self.check();
    }

    fn alloc(&mut self, len: usize) {
        match self.pool.alloc(len) {
            Ok(block) => {
                let (start, end) = range(&block);
                let others = self.live.iter().map(range);
                let used = self.in_flight.iter().map(|(&start, &end)| (start, end));
                for (other_start, other_end) in others.chain(used) {
                    assert!(end <= other_start || other_end <= start, "a byte of two blocks");
                }
                self.live.push(block);
            }
            Err(Error::PinnedBudget { reserved_bytes, .. }) => {
                assert!(reserved_bytes + len as u64 + 4096 > BUDGET_BYTES, "there was room");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn check(&self) {
        self.pool.check().unwrap();
        let stats = self.pool.stats();
        let active: usize = self.live.iter().map(|block| range(block).1 - range(block).0).sum();
        assert_eq!(stats.active_bytes, active as u64);
        assert_eq!(stats.allocations - stats.frees, self.live.len() as u64);
        let parts = stats.active_bytes + stats.retired_bytes + stats.cached_bytes;
        assert!(parts <= stats.reserved_bytes, "{stats:?}");
        assert!(stats.reserved_peak_bytes <= BUDGET_BYTES, "{stats:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_keep_the_promises(
        steps in prop::collection::vec(step(), 1..80),
        limited in any::<bool>(),
    ) {
        let extra = if limited { ",pinned_max_cached_size_mb:1" } else { "" };
        let mut model = Model::new(&format!("pinned_limit_mb:6{extra}"));
        steps.iter().for_each(|step| model.step(step));
        model.step(&Step::Open);
        model.live.clear();
        model.pool.trim();
        wait_until("all is unpinned", || model.pool.stats().reserved_bytes == 0);
        drop(model.device);
    }
}

#[test]
fn threads_share_a_pool_and_no_block() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:6");
    std::thread::scope(|scope| {
        for number in 0..4u64 {
            let (pool, device) = (&pool, &device);
            scope.spawn(move || {
                let mut random = Random::new(number);
                let own = stream(device);
                let mut held: Vec<(u8, PinnedBlock)> = Vec::new();
                for step in 0..300 {
                    match random.below(8) {
                        0..3 if !held.is_empty() => {
                            let (mark, block) =
                                held.swap_remove(random.below(held.len() as u64) as usize);
                            assert!(block.iter().step_by(509).all(|&byte| byte == mark));
                            if step % 3 == 0 {
                                block.record_use(&own).unwrap();
                            }
                        }
                        3 if step % 7 == 0 => drop(pool.trim()),
                        _ => {
                            let sizes = [4096, 70_000, 300_000, 1 + random.below(900_000) as usize];
                            match pool.alloc(sizes[random.below(4) as usize]) {
                                Ok(mut block) => {
                                    let mark = (number * 61 + step as u64) as u8;
                                    block.fill(mark);
                                    held.push((mark, block));
                                }
                                Err(Error::PinnedBudget { .. }) => held.truncate(2),
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                    if step % 16 == 0 {
                        pool.check().unwrap();
                    }
                }
            });
        }
    });
    pool.check().unwrap();
    wait_until("every use is over", || pool.stats().retired_bytes == 0);
    let stats = pool.stats();
    assert_eq!((stats.active_bytes, stats.allocations), (0, stats.frees));
    assert!(stats.reserved_peak_bytes <= BUDGET_BYTES);
}
