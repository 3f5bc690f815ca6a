//! Passes in which anything may happen: stalls, reads that fail, cancellations, leases kept and
//! dropped in any order, on any stream. Every byte that is told to be good is checked.
//!
//! `RIVERBED_CHAOS_PASSES` says how many passes, `SEED` which.

use riverbed::device::Gate;
use riverbed::prefetch::Lease;
use riverbed::{Error, device::Stream};

use super::streaming::{Content, Random, Rig, Setup, Sums, ends, stream};

/// Passes of a run in which nothing else is asked for.
const PASSES: usize = 300;
/// Passes with one prefetcher, unless it is cancelled before.
const PASSES_OF_A_RIG: usize = 25;

fn layers() -> Content {
    Content::layers(&[
        &[70_000],
        &[1],
        &[30_000, 30_000],
        &[100_000],
        &[255],
        &[0],
        &[65_536],
        &[9_000, 50_000],
    ])
}

/// What is held of a run at one time.
struct Chaos<'a> {
    random: Random,
    content: &'a Content,
    whole: Vec<u8>,
    is_cut: bool,
    rig: Rig,
    streams: [Stream; 2],
    held: Vec<Lease>,
    gates: Vec<Gate>,
    sums: Sums,
    cancelled: bool,
}

/// What came of a run.
#[derive(Debug, Default)]
struct Tally {
    passes: usize,
    verified: usize,
    failed: usize,
    refused: usize,
    rigs: usize,
}

impl<'a> Chaos<'a> {
    fn new(content: &'a Content, mut random: Random) -> Self {
        let slots = 2 + random.below(4) as u64;
        let mut setup = Setup::ring(slots * content.largest() + 256 * random.below(200) as u64)
            .depth([0, 1, 3, usize::MAX][random.below(4)])
            .keep(random.below(2) == 0)
            .pinned((128 + 64 * random.below(8) as u64) << 10);
        if random.below(4) == 0 {
            setup = setup.stable();
        }
        if random.below(3) == 0 {
            setup = setup.timed();
        }
        // Equal neighbours may need a third slot for addresses of their own.
        let rig = Rig::build(content, setup).unwrap_or_else(|_| {
            Rig::new(content, Setup { ring_bytes: 3 * content.largest(), ..setup })
        });
        let streams = [stream(&rig.device), rig.stream.clone()];
        let sums = rig.sums();
        Self {
            random,
            content,
            whole: content.file(),
            is_cut: false,
            rig,
            streams,
            held: Vec::new(),
            gates: Vec::new(),
            sums,
            cancelled: false,
        }
    }

    /// One pass over all units, more or less in order.
    fn pass(&mut self, tally: &mut Tally) {
        let count = self.content.units().len();
        if self.random.below(8) == 0 {
            let order: Vec<usize> = (0..count).filter(|_| self.random.below(3) > 0).collect();
            let _ = self.rig.prefetcher.expect_pass(&order); // Refused where it is empty.
        }
        for step in 0..count {
            let odd = self.random.below(8) == 0;
            let unit = if odd { self.random.below(count) } else { step };
            self.disturb();
            self.lease(unit, tally);
            while !self.held.is_empty() && self.random.below(3) > 0 {
                let lease = self.held.swap_remove(self.random.below(self.held.len()));
                self.use_and_let_go(lease);
            }
        }
        self.end_pass(tally);
    }

    /// Something that slows the pass down or makes reads fail.
    fn disturb(&mut self) {
        match self.random.below(40) {
            0 => {
                let gate = Gate::new(&self.rig.device).unwrap();
                self.streams[self.random.below(2)].wait_gate(&gate, 1).unwrap();
                self.gates.push(gate);
            }
            1 => self.gates.clear(), // Dropping a gate lets everybody through.
            2 if !self.is_cut => {
                self.content.cut_before_end_of(self.random.below(4));
                self.is_cut = true;
            }
            3 | 4 => {
                std::fs::write(&self.content.path, &self.whole).unwrap();
                self.is_cut = false;
            }
            5 => self.streams[self.random.below(2)].busy(200_000).unwrap(),
            6 if self.random.below(30) == 0 => {
                self.rig.prefetcher.cancel();
                self.cancelled = true;
            }
            _ => {}
        }
    }

    fn lease(&mut self, unit: usize, tally: &mut Tally) {
        let stream = self.streams[self.random.below(2)].clone();
        match self.rig.prefetcher.acquire(unit, &stream) {
            Ok(mut lease) => {
                if self.random.below(4) == 0 {
                    let other = &self.streams[self.random.below(2)];
                    lease.also_on(other).unwrap();
                }
                self.held.push(lease);
            }
            Err(Error::RingHeld { live_leases, .. }) => {
                assert!(live_leases > 0);
                tally.refused += 1;
                while let Some(lease) = self.held.pop() {
                    self.use_and_let_go(lease);
                }
            }
            Err(Error::Cancelled) => assert!(self.cancelled),
            Err(Error::File(_)) => tally.failed += 1,
            Err(error) => panic!("{error}"),
        }
    }

    /// Checks the lease's bytes on its stream, and drops it, perhaps on another thread.
    fn use_and_let_go(&mut self, lease: Lease) {
        self.sums.enqueue(&lease, self.content);
        match self.random.below(16) {
            0 => std::thread::spawn(move || drop(lease)).join().unwrap(),
            1 if self.gates.is_empty() => drop(lease.wait_host().map(|_| ()).and(lease.status())),
            _ => drop(lease),
        }
    }

    /// Ends the pass, and compares the sums of units that did not fail.
    fn end_pass(&mut self, tally: &mut Tally) {
        self.gates.clear();
        while let Some(lease) = self.held.pop() {
            self.use_and_let_go(lease);
        }
        self.streams.iter().for_each(|stream| stream.synchronize().unwrap());
        let mut failed = Vec::new();
        for stream in &self.streams {
            let report = self.rig.prefetcher.finish_pass(stream).unwrap();
            failed.extend(report.failures.into_iter().map(|(unit, _)| unit + "."));
            if let Some(stalls) = report.stalls {
                assert_eq!(stalls.compute_ns + stalls.causes.total_ns(), stalls.pass_ns);
            }
        }
        tally.failed += failed.len();
        self.sums.pardon(|tensor| failed.iter().any(|unit| tensor.starts_with(unit)));
        tally.verified += self.sums.verify();
        self.rig.prefetcher.check().unwrap();
        self.rig.pinned.check().unwrap();
        self.rig.allocator.check().unwrap();
        assert_eq!(self.rig.prefetcher.live_leases(), 0);
        tally.passes += 1;
    }
}

#[test]
fn passes_with_anything_happening_show_right_bytes_and_leak_nothing() {
    let wanted = std::env::var("RIVERBED_CHAOS_PASSES").ok();
    let wanted = wanted.and_then(|passes| passes.parse().ok()).unwrap_or(PASSES);
    let mut random = Random::from_env(21);
    let mut tally = Tally::default();
    while tally.passes < wanted {
        let seed = random.next();
        let of_rig = ends(move || {
            let content = layers();
            let mut tally = Tally::default();
            let mut chaos = Chaos::new(&content, Random::new(seed));
            let driver = std::sync::Arc::clone(&chaos.rig.driver);
            while tally.passes < PASSES_OF_A_RIG && !chaos.cancelled {
                chaos.pass(&mut tally);
            }
            let memory = || riverbed::device::Driver::memory(&*driver).unwrap();
            drop(chaos);
            super::streaming::eventually("all device memory is given back", || {
                memory().free_bytes == memory().total_bytes
            });
            tally
        });
        tally.passes += of_rig.passes;
        tally.verified += of_rig.verified;
        tally.failed += of_rig.failed;
        tally.refused += of_rig.refused;
        tally.rigs += 1;
    }
    println!("{tally:?}");
    assert!(tally.verified > 4 * tally.passes, "{tally:?}");
    assert!(tally.failed > 0 && tally.refused > 0, "{tally:?}");
}
