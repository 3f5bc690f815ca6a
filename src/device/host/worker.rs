//! A stream of the host device: a thread that runs a queue in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::compute::compute;
use super::link::{Link, sleep_until};
use super::sync::{GateState, Mark};
use crate::base::{lock, wait};
use crate::device::contract::HostFn;
use crate::device::kernel::Kernel;
use crate::device::stripes::{Gathered, Stores, copy_striped, copy_threads, gather_striped};

/// A thing a stream does.
pub(super) enum Op {
    Record(Arc<Mark>),
    WaitMark(Arc<Mark>),
    WaitGate(Arc<GateState>, u64),
    Host(HostFn),
    Copy {
        link: Option<Arc<Link>>,
        dst: Address,
        src: Address,
        /// From row to row, of target and source.
        pitches: (usize, usize),
        width: usize,
        height: usize,
        /// Whether it is the device that reads the target next, and not the host.
        to_device: bool,
    },
    /// Pieces from anywhere that come to lie side by side.
    Gather {
        link: Arc<Link>,
        dst: Address,
        pieces: Vec<Gathered>,
    },
    Launch(Kernel),
    /// The stream was given up: nothing follows.
    End,
}

/// An address on its way to the worker.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) *mut u8);

// SAFETY: an address is a number; who may access what is behind it is the contract of
// `Driver::copy_*` and `Driver::launch`, which the enqueueing caller has accepted.
unsafe impl Send for Address {}

/// The queue of one stream.
pub(super) struct Queue {
    ops: Mutex<VecDeque<(Op, Instant)>>,
    pushed: Condvar,
}

impl Queue {
    /// Starts a worker with an empty queue. It keeps `memory` until it ends, so that what is
    /// still enqueued finds its memory even after the driver's last handle is gone.
    pub(super) fn start(name: String, memory: impl Send + 'static) -> std::io::Result<Arc<Self>> {
        let queue = Arc::new(Self { ops: Mutex::new(VecDeque::new()), pushed: Condvar::new() });
        let worker = Arc::clone(&queue);
        // Never joined: giving a stream up must not wait for what is enqueued on it.
        std::thread::Builder::new().name(name).spawn(move || {
            worker.run();
            drop(memory);
        })?;
        Ok(queue)
    }

    pub(super) fn push(&self, op: Op) {
        lock(&self.ops).push_back((op, Instant::now()));
        self.pushed.notify_one();
    }

    fn pop(&self) -> (Op, Instant) {
        let mut ops = lock(&self.ops);
        loop {
            if let Some(op) = ops.pop_front() {
                return op;
            }
            ops = wait(&self.pushed, ops);
        }
    }

    fn run(&self) {
        // Device time: the end of the last operation.
        let mut clock = Instant::now();
        loop {
            let (op, enqueued) = self.pop();
            let ready = clock.max(enqueued);
            clock = match op {
                Op::Record(mark) => {
                    mark.reach(ready);
                    ready
                }
                Op::WaitMark(mark) => ready.max(mark.wait()),
                Op::WaitGate(gate, value) => ready.max(gate.wait(value)),
                Op::Host(function) => timed(ready, || {
                    if catch_unwind(AssertUnwindSafe(function)).is_err() {
                        tracing::error!(target: "riverbed::host_function", "a host function panicked on a stream; the stream goes on");
                    }
                }),
                Op::Copy { link, dst, src, pitches, width, height, to_device } => {
                    let stores = if to_device { Stores::Nontemporal } else { Stores::Cached };
                    let copy = || {
                        for row in 0..height {
                            // SAFETY: the caller of `Driver::copy_*` promised that all rows are
                            // valid until the copy has run and that nothing unordered touches
                            // them; ranges of one copy do not overlap by the same contract.
                            unsafe {
                                let to = dst.0.add(row * pitches.0);
                                let from = src.0.add(row * pitches.1);
                                copy_striped(to, from, width, copy_threads(), stores);
                            }
                        }
                    };
                    match link {
                        Some(link) => link.carry((width * height) as u64, ready, copy),
                        None => timed(ready, copy),
                    }
                }
                Op::Gather { link, dst, pieces } => {
                    let bytes: usize = pieces.iter().map(|piece| piece.bytes).sum();
                    link.carry(bytes as u64, ready, || {
                        // SAFETY: as above, of each copy of a batch.
                        unsafe {
                            gather_striped(dst.0, &pieces, copy_threads(), Stores::Nontemporal)
                        };
                    })
                }
                Op::Launch(Kernel::Busy { ns }) => {
                    let end = ready + Duration::from_nanos(ns);
                    sleep_until(end);
                    end
                }
                // SAFETY: the caller of `Driver::launch` promised that the memory the kernel
                // names is valid until it has run and that nothing unordered writes it; the
                // launch was refused unless the kernel is sound.
                Op::Launch(kernel) => timed(ready, || unsafe { compute(&kernel) }),
                Op::End => return,
            };
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} waiting)", lock(&self.ops).len())
    }
}

/// Runs `work`; device time at its end if it began at `ready`.
fn timed(ready: Instant, work: impl FnOnce()) -> Instant {
    let started = Instant::now();
    work();
    ready + started.elapsed()
}
