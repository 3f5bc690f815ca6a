//! The interleavings of two readers and a copy stream that share one landing, of the thread that
//! gives up, and of two streams under one limit of which one waits for the other: the file that decides whose turn it is, compiled alone and put under loom's
//! locks as the crate puts it under its own. All of them take minutes, so these tests look at
//! those with up to three preemptions; `LOOM_MAX_PREEMPTIONS` sets another bound.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

#[allow(dead_code)] // Not every call is needed here.
#[path = "../src/transfer/lane.rs"]
mod lane;

use lane::{Lane, Source};

/// No copies of homes here: their bytes stay where they are.
struct Never;

impl Source for Never {
    fn is_filled(&self) -> bool {
        false
    }
}

/// A number that rises and is waited for: the device's gate, and its marks.
#[derive(Default)]
struct Rising(Mutex<u64>, Condvar);

impl Rising {
    fn raise(&self, value: u64) {
        let mut at = self.0.lock().unwrap();
        *at = value.max(*at);
        self.1.notify_all();
    }

    fn wait(&self, value: u64) {
        let mut at = self.0.lock().unwrap();
        while *at < value {
            at = self.1.wait(at).unwrap();
        }
    }

    fn is_at(&self, value: u64) -> bool {
        *self.0.lock().unwrap() >= value
    }
}

/// One slot that all copies go through, and memory in which loom finds every race.
struct Slot {
    lane: Mutex<Lane<Never, u64>>,
    changed: Condvar,
    gate: Rising,
    /// Copies the stream has run: what marks tell.
    done: Rising,
    memory: UnsafeCell<u64>,
}

/// With `copies` copies enqueued, at most one byte of them under way.
fn slot(copies: u64) -> Arc<Slot> {
    let mut lane = Lane::new(1);
    for number in 1..=copies {
        assert_eq!(lane.push(1, None), number);
        lane.set_mark(number, number);
    }
    let (gate, done) = (Rising::default(), Rising::default());
    let memory = UnsafeCell::new(0);
    Arc::new(Slot { lane: Mutex::new(lane), changed: Condvar::new(), gate, done, memory })
}

fn explore(program: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(program);
}

impl Slot {
    /// As the board does after every change.
    fn settle(&self, mut lane: loom::sync::MutexGuard<'_, Lane<Never, u64>>) {
        let raised = lane.release(0);
        drop(lane);
        if let Some(up_to) = raised {
            self.gate.raise(up_to);
        }
        self.changed.notify_all();
    }

    /// Waits until copy `number` is over, and meanwhile asks the oldest one under way.
    fn wait_for(&self, number: u64) {
        let mut lane = self.lane.lock().unwrap();
        while !lane.is_over(number) {
            let Some((oldest, mark)) = lane.oldest() else {
                lane = self.changed.wait(lane).unwrap();
                continue;
            };
            drop(lane);
            let over = self.done.is_at(mark);
            lane = self.lane.lock().unwrap();
            if over {
                lane.set_over(oldest);
                self.settle(lane);
            } else {
                drop(lane);
                thread::yield_now();
            }
            lane = self.lane.lock().unwrap();
        }
    }

    /// A reader's part in copy `number`.
    fn fill(&self, number: u64) {
        self.wait_for(number - 1);
        // SAFETY: loom itself checks that nobody else touches the cell now; that is the test.
        self.memory.with_mut(|memory| unsafe { *memory = number });
        let mut lane = self.lane.lock().unwrap();
        lane.set_filled(number);
        self.settle(lane);
    }

    /// The copy stream's.
    fn copy(&self, number: u64) {
        self.gate.wait(number);
        // SAFETY: as above.
        let found = self.memory.with(|memory| unsafe { *memory });
        assert_eq!(found, number, "the stream copies the bytes of its copy");
        self.done.raise(number);
    }
}

#[test]
fn two_readers_and_a_stream_never_meet_in_the_memory() {
    explore(|| {
        let slot = slot(2);
        let readers = [1, 2].map(|number| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.fill(number))
        });
        slot.copy(1);
        slot.copy(2);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn a_copy_that_was_given_up_holds_up_nobody() {
    explore(|| {
        let slot = slot(2);
        let readers = [1, 2].map(|number| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.fill(number))
        });
        // The driver failed: copy 1 is given up at once, perhaps before it is filled.
        let mut lane = slot.lane.lock().unwrap();
        lane.abandon(1);
        slot.settle(lane);
        slot.copy(2);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// Two streams whose copies are all filled, with one byte of both together under way or one copy
/// each. The first, which is served first, waits for the second's last copy before its own: the
/// events of evicted units.
struct Pair {
    lanes: Mutex<[Lane<Never, u64>; 2]>,
    changed: Condvar,
    gates: [Rising; 2],
    done: [Rising; 2],
}

impl Pair {
    fn new(copies: [u64; 2]) -> Arc<Self> {
        let lanes = copies.map(|copies| {
            let mut lane = Lane::new(1);
            for number in 1..=copies {
                lane.push(1, None);
                lane.set_mark(number, number);
                lane.set_filled(number);
            }
            lane
        });
        let (gates, done) = Default::default();
        Arc::new(Self { lanes: Mutex::new(lanes), changed: Condvar::new(), gates, done })
    }

    /// As the board does after every change.
    fn settle(&self, mut lanes: loom::sync::MutexGuard<'_, [Lane<Never, u64>; 2]>) {
        let raised = [0, 1].map(|at| {
            let elsewhere_bytes = lanes[1 - at].flying_bytes();
            lanes[at].release(elsewhere_bytes)
        });
        let flying = [0, 1].map(|at| lanes[at].flying_bytes());
        assert!(flying[0] <= 1 && flying[1] <= 1, "{flying:?} bytes are under way");
        drop(lanes);
        for (gate, raised) in self.gates.iter().zip(raised) {
            if let Some(up_to) = raised {
                gate.raise(up_to);
            }
        }
        self.changed.notify_all();
    }

    /// A reader that asks what is under way until all of `copies` are over.
    fn ask(&self, copies: [u64; 2]) {
        self.settle(self.lanes.lock().unwrap());
        let mut lanes = self.lanes.lock().unwrap();
        while (0..2).any(|at| !lanes[at].is_over(copies[at])) {
            let oldest = [0, 1].map(|at| lanes[at].oldest());
            drop(lanes);
            let over = [0, 1].map(|at| oldest[at].filter(|&(_, mark)| self.done[at].is_at(mark)));
            let mut changed = self.lanes.lock().unwrap();
            if over == [None, None] {
                drop(changed);
                thread::yield_now();
            } else {
                for (at, over) in over.into_iter().enumerate() {
                    over.into_iter().for_each(|(number, _)| changed[at].set_over(number));
                }
                self.settle(changed);
            }
            lanes = self.lanes.lock().unwrap();
        }
    }

    /// Stream `at` runs a copy.
    fn copy(&self, at: usize, number: u64) {
        self.gates[at].wait(number);
        self.done[at].raise(number);
    }
}

#[test]
fn two_streams_under_one_limit_end_though_one_waits_for_the_other() {
    explore(|| {
        let pair = Pair::new([1, 2]);
        let asking = Arc::clone(&pair);
        let reader = thread::spawn(move || asking.ask([1, 2]));
        let waiting = Arc::clone(&pair);
        let first = thread::spawn(move || {
            waiting.done[1].wait(2);
            waiting.copy(0, 1);
        });
        pair.copy(1, 1);
        pair.copy(1, 2);
        reader.join().unwrap();
        first.join().unwrap();
    });
}
