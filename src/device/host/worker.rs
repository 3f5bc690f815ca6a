//! A stream of the host device: a thread that runs a queue in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::link::{Link, sleep_until};
use super::sync::{GateState, Mark};
use crate::base::{lock, wait};
use crate::device::contract::HostFn;
use crate::device::kernel::{Kernel, checksum};

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
        bytes: usize,
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
                Op::Copy { link, dst, src, bytes } => {
                    // SAFETY: the caller of `Driver::copy_*` promised that both ranges are valid
                    // until the copy has run and that nothing unordered touches them; ranges of
                    // one copy do not overlap by the same contract.
                    let copy = || unsafe { std::ptr::copy_nonoverlapping(src.0, dst.0, bytes) };
                    match link {
                        Some(link) => link.carry(bytes as u64, ready, copy),
                        None => timed(ready, copy),
                    }
                }
                Op::Launch(kernel) => run_kernel(&kernel, ready),
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

fn run_kernel(kernel: &Kernel, ready: Instant) -> Instant {
    match *kernel {
        Kernel::Checksum { src, bytes, out } => timed(ready, || {
            let data = match bytes {
                // An address of no bytes may be 0, which no slice has.
                0 => &[],
                // SAFETY: the caller of `Driver::launch` promised that `bytes` at `src` are valid
                // and not written until the kernel has run.
                _ => unsafe { std::slice::from_raw_parts(src.0 as *const u8, bytes as usize) },
            };
            let sum = checksum(data);
            // SAFETY: by the same promise the 8 bytes at `out` are valid, aligned, ours to write.
            unsafe { (out.0 as *mut u64).write(sum.to_le()) };
        }),
        Kernel::Fill { bytes: 0, .. } => ready,
        Kernel::Fill { dst, bytes, value } => timed(ready, || {
            // SAFETY: the caller of `Driver::launch` promised that `bytes` at `dst` are valid and
            // touched by nothing unordered.
            unsafe { std::ptr::write_bytes(dst.0 as *mut u8, value, bytes as usize) };
        }),
        Kernel::Busy { ns } => {
            let end = ready + Duration::from_nanos(ns);
            sleep_until(end);
            end
        }
    }
}
