//! The interleavings of two readers and a copy stream that share one landing: the file that
//! decides whose turn it is, compiled against loom's locks. All of them take minutes, so these
//! tests look at those with up to three preemptions; `LOOM_MAX_PREEMPTIONS` sets another bound.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// What `turns.rs` takes from the crate, made of loom's parts.
mod base {
    pub(crate) mod sync {
        use loom::sync::MutexGuard;
        pub(crate) use loom::sync::{Condvar, Mutex};

        pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap()
        }

        pub(crate) fn wait<'a, T>(
            condition: &Condvar,
            guard: MutexGuard<'a, T>,
        ) -> MutexGuard<'a, T> {
            condition.wait(guard).unwrap()
        }
    }
}

#[path = "../src/transfer/turns.rs"]
mod turns;

use base::sync::{Condvar, Mutex, lock, wait};
use turns::Turns;

/// The device's gate, as the contract has it.
#[derive(Default)]
struct Gate(Mutex<u64>, Condvar);

impl Gate {
    fn open(&self, value: u64) {
        let mut at = lock(&self.0);
        *at = value.max(*at);
        self.1.notify_all();
    }

    fn wait(&self, value: u64) {
        let mut at = lock(&self.0);
        while *at < value {
            at = wait(&self.1, at);
        }
    }
}

/// A slot: its turns, its gate, and memory in which loom finds every race.
struct Slot {
    turns: Turns,
    gate: Gate,
    memory: UnsafeCell<u64>,
}

fn slot() -> Arc<Slot> {
    Arc::new(Slot { turns: Turns::default(), gate: Gate::default(), memory: UnsafeCell::new(0) })
}

fn explore(program: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(program);
}

/// A reader's half of a turn.
fn fill(slot: &Slot, turn: u64) {
    slot.turns.wait_for(turn);
    // SAFETY: loom itself checks that nobody else touches the cell now; that is the test.
    slot.memory.with_mut(|memory| unsafe { *memory = turn });
    slot.turns.set_filled(turn);
    slot.gate.open(turn);
}

/// The copy stream's half.
fn drain(slot: &Slot, turn: u64) {
    slot.gate.wait(turn);
    // SAFETY: as above.
    let found = slot.memory.with(|memory| unsafe { *memory });
    assert_eq!(found, turn, "the stream copies the bytes of its turn");
    slot.turns.set_drained(turn);
}

#[test]
fn two_readers_and_a_stream_never_meet_in_the_memory() {
    explore(|| {
        let slot = slot();
        let readers = [1, 2].map(|turn| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || fill(&slot, turn))
        });
        drain(&slot, 1);
        drain(&slot, 2);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn a_turn_that_was_never_enqueued_holds_up_nobody() {
    explore(|| {
        let slot = slot();
        let readers = [1, 2].map(|turn| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || fill(&slot, turn))
        });
        // The driver failed: turn 1 is given up at once, perhaps before it is filled.
        slot.turns.set_drained(1);
        drain(&slot, 2);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
