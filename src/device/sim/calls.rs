//! What every call goes through: its price, its count, its failure if one is due, and what it
//! makes run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard};

use super::driver::SimDriver;
use super::state::State;
use super::timeline::{Mark, Op};
use crate::base::{DeviceError, lock, wait};
use crate::device::arena::Status;
use crate::device::calls::Call;
use crate::device::contract::{DeviceResult, StreamId};
use crate::device::faults::refusal;
use crate::device::order::Clock;

impl SimDriver {
    /// Prices and counts a call, lets it fail if it is its turn, names it in its error, and
    /// runs what the call made runnable.
    pub(super) fn run<T>(
        &self,
        call: Call,
        work: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> DeviceResult<T> {
        let mut state = lock(&self.state);
        let outcome = self.within(call, &mut state, work);
        self.settle(state);
        outcome
    }

    /// As [`run`](Self::run), for the parts of a call under one lock.
    pub(super) fn within<T>(
        &self,
        call: Call,
        state: &mut State,
        work: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> DeviceResult<T> {
        let begun_ns = state.time.now_ns;
        state.time.pass(self.price(call, 0));
        let outcome = match self.faults.strike(call) {
            Some(status) => Err(status),
            None => work(state),
        };
        self.calls.count_locked(call, state.time.now_ns - begun_ns);
        outcome.map_err(|status| refusal(&self.info.name, call, status))
    }

    /// A call of virtual memory.
    pub(super) fn run_virtual<T>(
        &self,
        call: Call,
        work: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> DeviceResult<T> {
        self.run(call, |state| match self.info.virtual_memory {
            true => work(state),
            false => Err(DeviceError::NOT_SUPPORTED),
        })
    }

    pub(super) fn enqueue(
        &self,
        call: Call,
        stream: StreamId,
        op: impl FnOnce(&mut State) -> Result<Op, Status>,
    ) -> DeviceResult<()> {
        self.run(call, |state| {
            let lane = *state.streams.get(stream.raw())?;
            let op = op(state)?;
            state.time.push(lane, op);
            Ok(())
        })
    }

    pub(super) fn price(&self, call: Call, bytes: u64) -> u64 {
        self.costs[call as usize].ns(bytes)
    }

    /// Adds what a call that succeeded costs for its bytes.
    pub(super) fn charge(&self, state: &mut State, call: Call, bytes: u64) {
        state.time.pass(self.price(call, bytes) - self.price(call, 0));
    }

    /// Runs streams as far as they get. Host functions are called without the lock, so that one
    /// may wait for a thread that calls the driver.
    pub(super) fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        while let Some((stream, function)) = state.time.run() {
            drop(state);
            if catch_unwind(AssertUnwindSafe(function)).is_err() {
                tracing::error!(target: "riverbed::host_function", "a host function panicked on a stream; the stream goes on");
            }
            state = lock(&self.state);
            state.time.called(stream);
        }
        // Waking is a system call, also where nobody sleeps.
        let awaited = state.waiting > 0;
        drop(state);
        if awaited {
            self.moved.notify_all();
        }
    }

    /// Blocks until the mark that `mark` gives has a time, and lets host time pass to it.
    pub(super) fn synchronize(
        &self,
        call: Call,
        mark: impl FnOnce(&mut State) -> Result<Option<(Arc<Mark>, Clock)>, Status>,
    ) -> DeviceResult<()> {
        let Some((mark, clock)) = self.run(call, mark)? else { return Ok(()) };
        let mut state = lock(&self.state);
        let at_ns = loop {
            match mark.at_ns() {
                Some(at_ns) => break at_ns,
                None => {
                    state.waiting += 1;
                    state = wait(&self.moved, state);
                    state.waiting -= 1;
                }
            }
        };
        let begun_ns = state.time.now_ns;
        state.time.pass_until(at_ns);
        state.pools.order.seen(&clock);
        state.release_pools();
        self.calls.add_time_locked(call, state.time.now_ns - begun_ns);
        Ok(())
    }
}
