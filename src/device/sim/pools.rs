//! Stream-ordered pools of the simulator: the shared model, priced.

use std::sync::Arc;

use super::driver::SimDriver;
use super::state::State;
use super::timeline::{Mark, Op};
use crate::base::DeviceError;
use crate::device::arena::Status;
use crate::device::calls::Call;
use crate::device::contract::{DevicePtr, DeviceResult, PoolId, StreamId};

impl SimDriver {
    /// A call of pools.
    pub(super) fn run_pool<T>(
        &self,
        call: Call,
        work: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> DeviceResult<T> {
        let works = self.memory_pools();
        self.run(call, |state| if works { work(state) } else { Err(DeviceError::NOT_SUPPORTED) })
    }

    pub(super) fn take_from_pool(
        &self,
        pool: PoolId,
        bytes: u64,
        stream: StreamId,
    ) -> DeviceResult<DevicePtr> {
        self.run_pool(Call::PoolAlloc, |state| {
            let lane = *state.streams.get(stream.raw())?;
            let now_ns = state.time.now_ns;
            let mark = Arc::new(Mark::default());
            let given = state.pools.alloc(
                pool.raw(),
                bytes,
                (stream.raw(), Arc::clone(&mark)),
                &mut state.arena,
                |mark| mark.is_reached(now_ns),
            )?;
            if let Some(wait) = given.wait {
                state.time.push(lane, Op::WaitMark(wait));
            }
            state.time.push(lane, Op::Record(mark));
            if given.grown_bytes > 0 {
                for call in [Call::CreatePage, Call::Map, Call::SetAccess] {
                    state.time.pass(self.price(call, given.grown_bytes));
                }
            }
            Ok(DevicePtr(given.at))
        })
    }

    pub(super) fn give_to_pool(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        self.run_pool(Call::PoolFree, |state| {
            let lane = *state.streams.get(stream.raw())?;
            let now_ns = state.time.now_ns;
            let mark = Arc::new(Mark::default());
            let here = (stream.raw(), Arc::clone(&mark));
            state.pools.free(ptr.0, here, |mark| mark.is_reached(now_ns))?;
            state.time.push(lane, Op::Record(mark));
            Ok(())
        })
    }
}
