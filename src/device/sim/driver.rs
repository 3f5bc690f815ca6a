//! The simulator as a [`Driver`]: each call as an operation on the timeline and the books.

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex};

use super::backing::NoBytes;
use super::engine::Engines;
use super::profile::{Cost, Profile};
use super::spec::SimSpec;
use super::state::{Event, State};
use super::timeline::{Gate, Mark, Op, Timeline};
use crate::base::{DeviceError, Error, Result, lock};
use crate::device::arena::Arena;
use crate::device::calls::{Call, CallCounts};
use crate::device::contract::{
    Copy2d, CopyH2d, DevicePtr, DeviceResult, Driver, EventId, GATE_VALUES, GateId, HostFn, PageId,
    PoolAttribute, PoolId, Priority, StreamId,
};
use crate::device::faults::Faults;
use crate::device::info::{DeviceInfo, MemoryInfo};
use crate::device::kernel::Kernel;

/// The simulator's driver. [`Device::open`](crate::device::Device::open) makes one from text.
pub struct SimDriver {
    pub(super) info: DeviceInfo,
    pub(super) calls: CallCounts,
    pub(super) faults: Faults,
    pub(super) profile: Profile,
    /// By the number of the call.
    pub(super) costs: Vec<Cost>,
    pub(super) state: Mutex<State>,
    /// Something got its time: for threads that wait at an event or a stream.
    pub(super) moved: Condvar,
}

impl fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDriver").field("info", &self.info).finish_non_exhaustive()
    }
}

impl SimDriver {
    /// A simulated device called `name`.
    ///
    /// # Errors
    /// A profile made by hand that leaves a call without a price.
    pub fn new(name: &str, spec: SimSpec) -> Result<Arc<Self>> {
        let profile = spec.profile;
        let mut costs = Vec::with_capacity(Call::ALL.len());
        for &call in Call::ALL {
            let cost = profile.cost(call).cloned().ok_or_else(|| {
                Error::invalid("profile", call, "every call needs a cost: read it from_json")
            })?;
            costs.push(cost);
        }
        let granularity = profile.granularity_bytes.value;
        let total = profile.capacity_bytes.value / granularity * granularity;
        let engines = profile.copy_engines.value;
        let link = |gb_per_s: f64| Engines::new(gb_per_s * 1e9, engines);
        let start_ns = (profile.start_us.value * 1e3) as u64;
        let (h2d, d2h) = (link(profile.h2d_gb_per_s.value), link(profile.d2h_gb_per_s.value));
        let time = Timeline::new(h2d, d2h, start_ns);
        let faults = Faults::default();
        for (call, nth) in spec.fail {
            faults.fail_nth(Some(call), nth, DeviceError::UNKNOWN);
        }
        Ok(Arc::new(Self {
            info: DeviceInfo {
                name: name.into(),
                description: format!("simulated: {} (no bytes, virtual time)", profile.description),
                total_bytes: total,
                granularity_bytes: granularity,
                virtual_memory: spec.virtual_memory,
                host_accessible: false,
                simulated: true,
                memory_pools: spec.memory_pools,
                pool_caps: spec.memory_pools && spec.pool_caps,
                process_pool: spec.memory_pools,
                copy_engines: engines,
            },
            calls: CallCounts::default(),
            faults,
            costs,
            state: Mutex::new(State::new(time, Arena::new(NoBytes::new(), total, granularity))),
            moved: Condvar::new(),
            profile,
        }))
    }

    /// The failures this device will show.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The card simulated.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Whether the calls of pools work.
    pub(super) fn memory_pools(&self) -> bool {
        self.info.memory_pools
    }

    /// Lets `ns` nanoseconds of host time go by: what the host does between calls.
    pub fn pass(&self, ns: u64) {
        lock(&self.state).time.pass(ns);
    }
}

impl Driver for SimDriver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn calls(&self) -> &CallCounts {
        &self.calls
    }

    fn virtual_ns(&self) -> Option<u64> {
        Some(lock(&self.state).time.now_ns)
    }

    fn memory(&self) -> DeviceResult<MemoryInfo> {
        let free_bytes = lock(&self.state).settled_arena().free_bytes();
        Ok(MemoryInfo { total_bytes: self.info.total_bytes, free_bytes })
    }

    fn alloc(&self, bytes: u64) -> DeviceResult<DevicePtr> {
        self.run(Call::Alloc, |state| {
            let at = state.settled_arena().alloc(bytes)?;
            self.charge(state, Call::Alloc, bytes);
            Ok(DevicePtr(at))
        })
    }

    unsafe fn free(&self, ptr: DevicePtr) -> DeviceResult<()> {
        self.run(Call::Free, |state| {
            state.free(ptr.0)?;
            // The driver waits for the whole device first.
            state.time.wait_for_device();
            Ok(())
        })
    }

    fn reserve(&self, bytes: u64) -> DeviceResult<DevicePtr> {
        self.run_virtual(Call::Reserve, |state| state.arena.reserve(bytes).map(DevicePtr))
    }

    unsafe fn release(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        self.run_virtual(Call::Release, |state| state.arena.release(at.0, bytes))
    }

    fn create_page(&self, bytes: u64) -> DeviceResult<PageId> {
        let page = self.run_virtual(Call::CreatePage, |state| {
            let page = state.settled_arena().create_page(bytes)?;
            self.charge(state, Call::CreatePage, bytes);
            Ok(page)
        })?;
        // SAFETY: the page was made just now and lives until `destroy_page`.
        Ok(unsafe { PageId::from_raw(page as u64) })
    }

    unsafe fn destroy_page(&self, page: PageId) -> DeviceResult<()> {
        self.run_virtual(Call::DestroyPage, |state| state.arena.destroy_page(page.raw() as usize))
    }

    fn map_many(&self, at: DevicePtr, pages: &[PageId]) -> DeviceResult<()> {
        if !self.info.virtual_memory {
            return self.run_virtual(Call::Map, |_| Ok(()));
        }
        let pages: Vec<usize> = pages.iter().map(|page| page.raw() as usize).collect();
        let mut state = lock(&self.state);
        let bytes =
            self.within(Call::Map, &mut state, |state| state.arena.check_map(at.0, &pages))?;
        for _ in 1..pages.len() {
            self.within(Call::Map, &mut state, |_| Ok(()))?;
        }
        self.within(Call::SetAccess, &mut state, |state| {
            state.arena.map(at.0, &pages)?;
            self.charge(state, Call::SetAccess, bytes);
            Ok(())
        })
    }

    unsafe fn unmap(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        self.run_virtual(Call::Unmap, |state| {
            state.arena.unmap(at.0, bytes)?;
            self.charge(state, Call::Unmap, bytes);
            Ok(())
        })
    }

    fn create_stream(&self, _priority: Priority) -> DeviceResult<StreamId> {
        let stream = self.run(Call::CreateStream, |state| {
            let lane = state.time.add_stream();
            Ok(state.streams.insert(lane))
        })?;
        // SAFETY: the stream was made just now and lives until `destroy_stream`.
        Ok(unsafe { StreamId::from_raw(stream) })
    }

    unsafe fn destroy_stream(&self, stream: StreamId) -> DeviceResult<()> {
        self.run(Call::DestroyStream, |state| {
            let lane = state.streams.remove(stream.raw())?;
            state.time.give_up(lane);
            state.pools.order.stream_gone(stream.raw());
            Ok(())
        })
    }

    fn synchronize_stream(&self, stream: StreamId) -> DeviceResult<()> {
        self.synchronize(Call::SynchronizeStream, |state| {
            let lane = *state.streams.get(stream.raw())?;
            let end = Arc::new(Mark::default());
            state.time.push(lane, Op::Record(Arc::clone(&end)));
            Ok(Some((end, state.pools.order.stream_clock(stream.raw()))))
        })
    }

    fn is_capturing(&self, stream: StreamId) -> DeviceResult<bool> {
        // There are no graphs.
        self.run(Call::IsCapturing, |state| state.streams.get(stream.raw()).map(|_| false))
    }

    fn launch_host(&self, stream: StreamId, function: HostFn) -> DeviceResult<()> {
        self.enqueue(Call::LaunchHost, stream, |_| Ok(Op::Host(function)))
    }

    unsafe fn launch(&self, stream: StreamId, kernel: &Kernel) -> DeviceResult<()> {
        self.enqueue(Call::Launch, stream, |state| {
            let is_held = |(at, bytes)| state.holds(stream, at, bytes);
            if !kernel.is_sound() || !kernel.touched().all(is_held) {
                return Err(DeviceError::INVALID_VALUE);
            }
            let bytes_per_second = self.profile.memory_gb_per_s.value * 1e9;
            Ok(match *kernel {
                Kernel::Busy { ns } => Op::Work(ns),
                _ => Timeline::work(kernel.bytes_moved(), bytes_per_second),
            })
        })
    }

    fn create_event(&self, timing: bool) -> DeviceResult<EventId> {
        let event = self.run(Call::CreateEvent, |state| {
            Ok(state.events.insert(Event { timing, latest: None }))
        })?;
        // SAFETY: the event was made just now and lives until `destroy_event`.
        Ok(unsafe { EventId::from_raw(event) })
    }

    unsafe fn destroy_event(&self, event: EventId) -> DeviceResult<()> {
        self.run(Call::DestroyEvent, |state| {
            state.pools.order.event_gone(event.raw());
            state.events.remove(event.raw()).map(drop)
        })
    }

    fn record_event(&self, event: EventId, stream: StreamId) -> DeviceResult<()> {
        self.run(Call::RecordEvent, |state| {
            let lane = *state.streams.get(stream.raw())?;
            let latest = &mut state.events.get_mut(event.raw())?.latest;
            state.time.record(lane, latest);
            state.pools.order.recorded(event.raw(), stream.raw());
            Ok(())
        })
    }

    fn query_event(&self, event: EventId) -> DeviceResult<bool> {
        self.run(Call::QueryEvent, |state| {
            let latest = &state.events.get(event.raw())?.latest;
            let reached = latest.as_ref().is_none_or(|mark| mark.is_reached(state.time.now_ns));
            if reached {
                state.pools.order.event_seen(event.raw());
            }
            Ok(reached)
        })
    }

    fn synchronize_event(&self, event: EventId) -> DeviceResult<()> {
        self.synchronize(Call::SynchronizeEvent, |state| {
            let latest = state.events.get(event.raw())?.latest.clone();
            Ok(latest.map(|mark| (mark, state.pools.order.event_clock(event.raw()))))
        })
    }

    fn wait_event(&self, stream: StreamId, event: EventId) -> DeviceResult<()> {
        self.run(Call::WaitEvent, |state| {
            let lane = *state.streams.get(stream.raw())?;
            if let Some(mark) = state.events.get(event.raw())?.latest.clone() {
                state.time.push(lane, Op::WaitMark(mark));
                state.pools.order.waited(stream.raw(), event.raw());
            }
            Ok(())
        })
    }

    fn elapsed_ns(&self, start: EventId, end: EventId) -> DeviceResult<u64> {
        self.run(Call::Elapsed, |state| {
            Ok(state.timed(end.raw())?.saturating_sub(state.timed(start.raw())?))
        })
    }

    fn create_gate(&self) -> DeviceResult<GateId> {
        let gate = self.run(Call::CreateGate, |state| Ok(state.gates.insert(Arc::default())))?;
        // SAFETY: the gate was made just now and lives until `destroy_gate`.
        Ok(unsafe { GateId::from_raw(gate) })
    }

    unsafe fn destroy_gate(&self, gate: GateId) -> DeviceResult<()> {
        self.run(Call::DestroyGate, |state| {
            let gate = state.gates.remove(gate.raw())?;
            state.time.open(&gate, u64::MAX);
            Ok(())
        })
    }

    fn open_gate(&self, gate: GateId, value: u64) -> DeviceResult<()> {
        self.run(Call::OpenGate, |state| {
            let gate: &Gate = state.gates.get(gate.raw())?;
            if value >= GATE_VALUES {
                return Err(DeviceError::INVALID_VALUE);
            }
            state.time.open(gate, value);
            Ok(())
        })
    }

    fn wait_gate(&self, stream: StreamId, gate: GateId, value: u64) -> DeviceResult<()> {
        self.enqueue(Call::WaitGate, stream, |state| {
            let gate = Arc::clone(state.gates.get(gate.raw())?);
            if value >= GATE_VALUES {
                return Err(DeviceError::INVALID_VALUE);
            }
            state.pools.order.waited_at_gate(stream.raw());
            Ok(Op::WaitGate(gate, value))
        })
    }

    fn alloc_pinned(&self, bytes: u64) -> DeviceResult<NonNull<u8>> {
        self.run(Call::AllocPinned, |state| {
            let start = state.pinned.alloc(bytes)?;
            self.charge(state, Call::AllocPinned, bytes);
            Ok(start)
        })
    }

    unsafe fn free_pinned(&self, ptr: NonNull<u8>) -> DeviceResult<()> {
        self.run(Call::FreePinned, |state| {
            let bytes = state.pinned.free(ptr)?;
            self.charge(state, Call::FreePinned, bytes);
            Ok(())
        })
    }

    unsafe fn register(&self, ptr: NonNull<u8>, bytes: u64) -> DeviceResult<()> {
        self.run(Call::Register, |state| {
            state.pinned.register(ptr, bytes)?;
            self.charge(state, Call::Register, bytes);
            Ok(())
        })
    }

    unsafe fn unregister(&self, ptr: NonNull<u8>) -> DeviceResult<()> {
        self.run(Call::Unregister, |state| {
            let bytes = state.pinned.unregister(ptr)?;
            self.charge(state, Call::Unregister, bytes);
            Ok(())
        })
    }

    unsafe fn copy_h2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: *const u8,
        bytes: u64,
    ) -> DeviceResult<()> {
        self.enqueue_copy(Call::CopyH2d, stream, &Copy2d::row(dst, src.cast_mut(), bytes))
    }

    unsafe fn copy_d2h(
        &self,
        stream: StreamId,
        dst: *mut u8,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        self.enqueue_copy(Call::CopyD2h, stream, &Copy2d::row(dst, src, bytes))
    }

    unsafe fn copy_d2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        self.enqueue_copy(Call::CopyD2d, stream, &Copy2d::row(dst, src, bytes))
    }

    unsafe fn copy_h2d_batch(&self, stream: StreamId, copies: &[CopyH2d]) -> DeviceResult<()> {
        self.enqueue_batch(stream, copies)
    }

    unsafe fn copy_2d(&self, stream: StreamId, copy: &Copy2d) -> DeviceResult<()> {
        self.enqueue_copy(Call::Copy2d, stream, copy)
    }

    unsafe fn copy_peer(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        from: &dyn Driver,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        self.enqueue_peer_copy(stream, dst, from, src, bytes)
    }

    fn create_pool(&self, max_bytes: u64) -> DeviceResult<PoolId> {
        let caps = self.info.pool_caps;
        let pool = self.run_pool(Call::CreatePool, |state| match max_bytes {
            1.. if !caps => Err(DeviceError::NOT_SUPPORTED),
            _ => Ok(state.pools.create(max_bytes)),
        })?;
        // SAFETY: the pool was made just now and lives until `destroy_pool`.
        Ok(unsafe { PoolId::from_raw(pool) })
    }

    unsafe fn destroy_pool(&self, pool: PoolId) -> DeviceResult<()> {
        self.run_pool(Call::DestroyPool, |state| {
            let now_ns = state.time.now_ns;
            let reached = |mark: &Arc<Mark>| mark.is_reached(now_ns);
            state.pools.destroy(pool.raw(), &mut state.arena, reached)
        })
    }

    fn pool_alloc(&self, pool: PoolId, bytes: u64, stream: StreamId) -> DeviceResult<DevicePtr> {
        self.take_from_pool(pool, bytes, stream)
    }

    unsafe fn pool_free(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        self.give_to_pool(ptr, stream)
    }

    fn pool_trim(&self, pool: PoolId, keep_bytes: u64) -> DeviceResult<()> {
        self.run_pool(Call::PoolTrim, |state| {
            state.pools.trim(pool.raw(), keep_bytes, &mut state.arena)
        })
    }

    fn pool_get(&self, pool: PoolId, attribute: PoolAttribute) -> DeviceResult<u64> {
        self.run_pool(Call::PoolGet, |state| state.pools.get(pool.raw(), attribute))
    }

    fn pool_set(&self, pool: PoolId, attribute: PoolAttribute, value: u64) -> DeviceResult<()> {
        self.run_pool(Call::PoolSet, |state| state.pools.set(pool.raw(), attribute, value))
    }

    fn default_pool(&self) -> DeviceResult<PoolId> {
        let pool = self.run_pool(Call::DefaultPool, |state| Ok(state.pools.default_pool()))?;
        // SAFETY: the default pool lives as long as the device.
        Ok(unsafe { PoolId::from_raw(pool) })
    }

    fn current_pool(&self) -> DeviceResult<PoolId> {
        let pool = self.run_pool(Call::CurrentPool, |state| Ok(state.pools.current_pool()))?;
        // SAFETY: a pool that is given up is current no more.
        Ok(unsafe { PoolId::from_raw(pool) })
    }

    fn set_current_pool(&self, pool: PoolId) -> DeviceResult<()> {
        self.run_pool(Call::SetCurrentPool, |state| state.pools.set_current_pool(pool.raw()))
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        // Gates that were never given up: let everybody through, so that host functions run.
        let mut state = lock(&self.state);
        let gates: Vec<Arc<Gate>> = state.gates.iter().map(Arc::clone).collect();
        for gate in gates {
            state.time.open(&gate, u64::MAX);
        }
        self.settle(state);
    }
}
