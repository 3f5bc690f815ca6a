//! A host device with one wrong answer.

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use riverbed::base::DeviceError;
use riverbed::device::host::HostDriver;
use riverbed::device::{
    CallCounts, Copy2d, CopyH2d, DeviceInfo, DevicePtr, DeviceResult, Driver, EventId, GateId,
    HostFn, Kernel, MemoryInfo, PageId, PoolAttribute, PoolId, Priority, StreamId,
};

/// What a device lies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    H2dLosesAByte,
    D2hLosesAByte,
    D2dWritesTooMuch,
    D2dOfNothingIsAByte,
    EventsAreReachedAtOnce,
    MarksStayWhereTheyWere,
    StreamsDoNotWaitForEvents,
    StreamsDoNotWaitAtGates,
    GatesOpenEarly,
    GatesFall,
    GatesNeverOpen,
    GatesBeginOpen,
    SynchronizeReturnsAtOnce,
    AllStreamsAreOne,
    HostFunctionsRunAtOnce,
    HostFunctionsAreForgotten,
    TimeRunsAtHalf,
    UnreachedEventsHaveATime,
    MemoryOverlaps,
    MemoryIsMisaligned,
    FreeMemoryIsMadeUp,
    FreeLeaks,
    BatchesLoseTheLast,
    RowsIgnoreTheirPitch,
    PeersGiveNothing,
    NothingIsSomething,
    OutOfMemoryIsCalledInvalid,
    PinnedMemoryIsDirty,
    PagesAreMappedBackwards,
    DestroyedPagesStay,
    ChecksumsLeaveTheEndOut,
    FillsWriteTooMuch,
    FillsEndEarly,
    PoolsForgetWhatIsFreed,
    PoolsFreeAtOnce,
    PoolCapsAreIgnored,
    PoolSettingsAreIgnored,
    TheDefaultPoolStaysCurrent,
    CallsAreCountedTwice,
}

/// How far misaligned memory is off.
const OFF: u64 = 256;

#[derive(Debug)]
pub(crate) struct Liar {
    lie: Lie,
    host: Arc<HostDriver>,
    seen: Mutex<Seen>,
}

/// What some lies have to remember.
#[derive(Debug, Default)]
struct Seen {
    recorded: BTreeSet<u64>,
    stream: Option<StreamId>,
    memory: Option<DevicePtr>,
    /// What a gate that falls was raised to last, and who asks for more.
    gates: Vec<(GateId, u64)>,
}

impl Liar {
    pub(crate) fn new(lie: Lie) -> Arc<Self> {
        let host = HostDriver::new("liar", "host:vram=64MiB".parse().unwrap()).unwrap();
        Arc::new(Self { lie, host, seen: Mutex::default() })
    }

    fn tells(&self, lie: Lie) -> bool {
        self.lie == lie
    }
}

// SAFETY (of every block below): the caller's promises are passed on to the host device, and what
// a lie changes of them stays within the 2 MiB page the memory lies in.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Driver for Liar {
    fn info(&self) -> &DeviceInfo {
        self.host.info()
    }

    fn calls(&self) -> &CallCounts {
        self.host.calls()
    }

    fn memory(&self) -> DeviceResult<MemoryInfo> {
        let memory = self.host.memory()?;
        if self.tells(Lie::FreeMemoryIsMadeUp) {
            return Ok(MemoryInfo { free_bytes: memory.total_bytes / 2, ..memory });
        }
        Ok(memory)
    }

    fn alloc(&self, bytes: u64) -> DeviceResult<DevicePtr> {
        let mut seen = self.seen.lock().unwrap();
        match (self.lie, seen.memory) {
            (Lie::MemoryOverlaps, Some(ptr)) => return Ok(ptr.offset(256)),
            (Lie::NothingIsSomething, _) => return self.host.alloc(bytes.max(1)),
            (Lie::MemoryIsMisaligned, _) => {
                return Ok(self.host.alloc(bytes.saturating_add(OFF))?.offset(OFF));
            }
            _ => {}
        }
        let allocated = self.host.alloc(bytes).map_err(|error| match self.lie {
            Lie::OutOfMemoryIsCalledInvalid => {
                DeviceError { status: DeviceError::INVALID_VALUE, ..error }
            }
            _ => error,
        });
        seen.memory = allocated.clone().ok();
        allocated
    }

    unsafe fn free(&self, ptr: DevicePtr) -> DeviceResult<()> {
        match self.lie {
            Lie::FreeLeaks => Ok(()),
            Lie::MemoryIsMisaligned => unsafe { self.host.free(DevicePtr(ptr.0 - OFF)) },
            _ => unsafe { self.host.free(ptr) },
        }
    }

    fn reserve(&self, bytes: u64) -> DeviceResult<DevicePtr> {
        self.host.reserve(bytes)
    }

    unsafe fn release(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        unsafe { self.host.release(at, bytes) }
    }

    fn create_page(&self, bytes: u64) -> DeviceResult<PageId> {
        self.host.create_page(bytes)
    }

    unsafe fn destroy_page(&self, page: PageId) -> DeviceResult<()> {
        if self.tells(Lie::DestroyedPagesStay) {
            return Ok(());
        }
        unsafe { self.host.destroy_page(page) }
    }

    fn map_many(&self, at: DevicePtr, pages: &[PageId]) -> DeviceResult<()> {
        let mut pages = pages.to_vec();
        if self.tells(Lie::PagesAreMappedBackwards) {
            pages.reverse();
        }
        self.host.map_many(at, &pages)
    }

    unsafe fn unmap(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        unsafe { self.host.unmap(at, bytes) }
    }

    fn create_stream(&self, priority: Priority) -> DeviceResult<StreamId> {
        if !self.tells(Lie::AllStreamsAreOne) {
            return self.host.create_stream(priority);
        }
        let mut seen = self.seen.lock().unwrap();
        if seen.stream.is_none() {
            seen.stream = Some(self.host.create_stream(priority)?);
        }
        Ok(seen.stream.unwrap())
    }

    unsafe fn destroy_stream(&self, stream: StreamId) -> DeviceResult<()> {
        if self.tells(Lie::AllStreamsAreOne) {
            return Ok(());
        }
        unsafe { self.host.destroy_stream(stream) }
    }

    fn synchronize_stream(&self, stream: StreamId) -> DeviceResult<()> {
        if self.tells(Lie::SynchronizeReturnsAtOnce) {
            return Ok(());
        }
        self.host.synchronize_stream(stream)
    }

    fn is_capturing(&self, stream: StreamId) -> DeviceResult<bool> {
        self.host.is_capturing(stream)
    }

    fn launch_host(&self, stream: StreamId, function: HostFn) -> DeviceResult<()> {
        match self.lie {
            Lie::HostFunctionsRunAtOnce => function(),
            Lie::HostFunctionsAreForgotten => {}
            _ => return self.host.launch_host(stream, function),
        }
        Ok(())
    }

    unsafe fn launch(&self, stream: StreamId, kernel: &Kernel) -> DeviceResult<()> {
        let kernel = match (self.lie, kernel.clone()) {
            (Lie::ChecksumsLeaveTheEndOut, Kernel::Checksum { src, bytes, out }) => {
                Kernel::Checksum { src, bytes: bytes.saturating_sub(1), out }
            }
            (Lie::FillsWriteTooMuch, Kernel::Fill { dst, bytes, value }) => {
                Kernel::Fill { dst, bytes: bytes + 1, value }
            }
            (Lie::FillsEndEarly, Kernel::Fill { dst, bytes, value }) => {
                Kernel::Fill { dst, bytes: bytes.min(8 << 20), value }
            }
            (_, kernel) => kernel,
        };
        unsafe { self.host.launch(stream, &kernel) }
    }

    fn create_event(&self, timing: bool) -> DeviceResult<EventId> {
        if self.tells(Lie::CallsAreCountedTwice) {
            self.host.create_event(timing)?;
        }
        self.host.create_event(timing)
    }

    unsafe fn destroy_event(&self, event: EventId) -> DeviceResult<()> {
        unsafe { self.host.destroy_event(event) }
    }

    fn record_event(&self, event: EventId, stream: StreamId) -> DeviceResult<()> {
        let first = self.seen.lock().unwrap().recorded.insert(event.raw());
        if self.tells(Lie::MarksStayWhereTheyWere) && !first {
            return Ok(());
        }
        self.host.record_event(event, stream)
    }

    fn query_event(&self, event: EventId) -> DeviceResult<bool> {
        Ok(self.host.query_event(event)? || self.tells(Lie::EventsAreReachedAtOnce))
    }

    fn synchronize_event(&self, event: EventId) -> DeviceResult<()> {
        self.host.synchronize_event(event)
    }

    fn wait_event(&self, stream: StreamId, event: EventId) -> DeviceResult<()> {
        if self.tells(Lie::StreamsDoNotWaitForEvents) {
            return Ok(());
        }
        self.host.wait_event(stream, event)
    }

    fn elapsed_ns(&self, start: EventId, end: EventId) -> DeviceResult<u64> {
        match (self.lie, self.host.elapsed_ns(start, end)) {
            (Lie::TimeRunsAtHalf, Ok(ns)) => Ok(ns / 2),
            (Lie::UnreachedEventsHaveATime, Err(_)) => Ok(0),
            (_, elapsed) => elapsed,
        }
    }

    fn create_gate(&self) -> DeviceResult<GateId> {
        let gate = self.host.create_gate()?;
        if self.tells(Lie::GatesBeginOpen) {
            self.host.open_gate(gate, 1)?;
        }
        Ok(gate)
    }

    unsafe fn destroy_gate(&self, gate: GateId) -> DeviceResult<()> {
        unsafe { self.host.destroy_gate(gate) }
    }

    fn open_gate(&self, gate: GateId, value: u64) -> DeviceResult<()> {
        match self.lie {
            Lie::GatesNeverOpen => Ok(()),
            Lie::GatesOpenEarly => self.host.open_gate(gate, value.saturating_add(1)),
            Lie::GatesFall => {
                // Raised for those who already wait; who comes later meets the last value told.
                let mut seen = self.seen.lock().unwrap();
                seen.gates.retain(|(other, _)| *other != gate);
                seen.gates.push((gate, value));
                self.host.open_gate(gate, value)
            }
            _ => self.host.open_gate(gate, value),
        }
    }

    fn wait_gate(&self, stream: StreamId, gate: GateId, value: u64) -> DeviceResult<()> {
        if self.tells(Lie::StreamsDoNotWaitAtGates) {
            return Ok(());
        }
        let seen = self.seen.lock().unwrap();
        let fallen = seen.gates.iter().any(|&(other, now)| other == gate && now < value);
        let value = if fallen { u64::MAX } else { value };
        self.host.wait_gate(stream, gate, value)
    }

    fn alloc_pinned(&self, bytes: u64) -> DeviceResult<NonNull<u8>> {
        let pinned = self.host.alloc_pinned(bytes)?;
        if self.tells(Lie::PinnedMemoryIsDirty) {
            unsafe { pinned.as_ptr().add(bytes as usize - 1).write(1) };
        }
        Ok(pinned)
    }

    unsafe fn free_pinned(&self, ptr: NonNull<u8>) -> DeviceResult<()> {
        unsafe { self.host.free_pinned(ptr) }
    }

    unsafe fn register(&self, ptr: NonNull<u8>, bytes: u64) -> DeviceResult<()> {
        unsafe { self.host.register(ptr, bytes) }
    }

    unsafe fn unregister(&self, ptr: NonNull<u8>) -> DeviceResult<()> {
        unsafe { self.host.unregister(ptr) }
    }

    unsafe fn copy_h2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: *const u8,
        bytes: u64,
    ) -> DeviceResult<()> {
        let lost = u64::from(self.tells(Lie::H2dLosesAByte) && bytes > 0);
        unsafe { self.host.copy_h2d(stream, dst, src, bytes - lost) }
    }

    unsafe fn copy_d2h(
        &self,
        stream: StreamId,
        dst: *mut u8,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        let lost = u64::from(self.tells(Lie::D2hLosesAByte) && bytes > 0);
        unsafe { self.host.copy_d2h(stream, dst, src, bytes - lost) }
    }

    unsafe fn copy_d2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        let bytes = match self.lie {
            Lie::D2dWritesTooMuch => bytes + 1,
            Lie::D2dOfNothingIsAByte if dst.0 > 0 => bytes.max(1),
            _ => bytes,
        };
        unsafe { self.host.copy_d2d(stream, dst, src, bytes) }
    }

    unsafe fn copy_h2d_batch(&self, stream: StreamId, copies: &[CopyH2d]) -> DeviceResult<()> {
        let copies = match (self.lie, copies) {
            (Lie::BatchesLoseTheLast, [all @ .., _]) => all,
            _ => copies,
        };
        unsafe { self.host.copy_h2d_batch(stream, copies) }
    }

    unsafe fn copy_2d(&self, stream: StreamId, copy: &Copy2d) -> DeviceResult<()> {
        let mut copy = *copy;
        if self.tells(Lie::RowsIgnoreTheirPitch) {
            copy.src_pitch = copy.width.max(1);
        }
        unsafe { self.host.copy_2d(stream, &copy) }
    }

    unsafe fn copy_peer(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        _: &dyn Driver,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        let bytes = if self.tells(Lie::PeersGiveNothing) { 0 } else { bytes };
        unsafe { self.host.copy_peer(stream, dst, &*self.host, src, bytes) }
    }

    fn create_pool(&self, max_bytes: u64) -> DeviceResult<PoolId> {
        self.host.create_pool(if self.tells(Lie::PoolCapsAreIgnored) { 0 } else { max_bytes })
    }

    unsafe fn destroy_pool(&self, pool: PoolId) -> DeviceResult<()> {
        unsafe { self.host.destroy_pool(pool) }
    }

    fn pool_alloc(&self, pool: PoolId, bytes: u64, stream: StreamId) -> DeviceResult<DevicePtr> {
        self.host.pool_alloc(pool, bytes, stream)
    }

    unsafe fn pool_free(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        match self.lie {
            Lie::PoolsForgetWhatIsFreed => Ok(()),
            Lie::PoolsFreeAtOnce => unsafe { self.host.free(ptr) },
            _ => unsafe { self.host.pool_free(ptr, stream) },
        }
    }

    fn pool_trim(&self, pool: PoolId, keep_bytes: u64) -> DeviceResult<()> {
        self.host.pool_trim(pool, keep_bytes)
    }

    fn pool_get(&self, pool: PoolId, attribute: PoolAttribute) -> DeviceResult<u64> {
        self.host.pool_get(pool, attribute)
    }

    fn pool_set(&self, pool: PoolId, attribute: PoolAttribute, value: u64) -> DeviceResult<()> {
        if self.tells(Lie::PoolSettingsAreIgnored) {
            return Ok(());
        }
        self.host.pool_set(pool, attribute, value)
    }

    fn default_pool(&self) -> DeviceResult<PoolId> {
        self.host.default_pool()
    }

    fn current_pool(&self) -> DeviceResult<PoolId> {
        if self.tells(Lie::TheDefaultPoolStaysCurrent) {
            return self.host.default_pool();
        }
        self.host.current_pool()
    }

    fn set_current_pool(&self, pool: PoolId) -> DeviceResult<()> {
        self.host.set_current_pool(pool)
    }
}
