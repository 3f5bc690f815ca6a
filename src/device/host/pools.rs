//! Stream-ordered pools of the host device: the shared model over its marks and its memory.

use std::sync::Arc;

use super::backing::SharedFile;
use super::driver::HostDriver;
use super::sync::Mark;
use super::worker::Op;
use crate::base::lock;
use crate::device::arena::Arena;
use crate::device::calls::Call;
use crate::device::contract::{DevicePtr, DeviceResult, PoolId, StreamId};

pub(super) fn is_reached(mark: &Arc<Mark>) -> bool {
    mark.reached_at().is_some()
}

impl HostDriver {
    pub(super) fn take_from_pool(
        &self,
        pool: PoolId,
        bytes: u64,
        stream: StreamId,
    ) -> DeviceResult<DevicePtr> {
        self.run(Call::PoolAlloc, || {
            let queue = self.streams.get(stream.raw())?;
            let mark = Arc::new(Mark::default());
            let mut pools = lock(&self.pools);
            let here = (stream.raw(), Arc::clone(&mark));
            let mut arena = lock(&self.memory.arena);
            let given = pools.alloc(pool.raw(), bytes, here, &mut *arena, is_reached)?;
            if let Some(wait) = given.wait {
                queue.push(Op::WaitMark(wait));
            }
            queue.push(Op::Record(mark));
            Ok(DevicePtr(given.at))
        })
    }

    pub(super) fn give_to_pool(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        self.run(Call::PoolFree, || {
            let queue = self.streams.get(stream.raw())?;
            let mark = Arc::new(Mark::default());
            let mut pools = lock(&self.pools);
            pools.free(ptr.0, (stream.raw(), Arc::clone(&mark)), is_reached)?;
            queue.push(Op::Record(mark));
            Ok(())
        })
    }

    /// True when work enqueued on `stream` may touch `bytes` from `at`, as far as pools go.
    pub(super) fn pools_allow(&self, stream: StreamId, at: DevicePtr, bytes: u64) -> bool {
        lock(&self.pools).may_use(stream.raw(), at.0, bytes, is_reached)
    }

    /// The memory, with that of pools that were given up in it as far as it is out of use.
    pub(super) fn settled_arena<T>(&self, work: impl FnOnce(&mut Arena<SharedFile>) -> T) -> T {
        let mut pools = lock(&self.pools);
        let mut arena = lock(&self.memory.arena);
        pools.release_destroyed(&mut arena, is_reached);
        work(&mut arena)
    }

    /// Gives back what pools hold without need, after the host has waited.
    pub(super) fn release_pools(&self) {
        let mut pools = lock(&self.pools);
        let mut arena = lock(&self.memory.arena);
        pools.release(&mut arena, is_reached);
    }
}
