//! The device contract over a vendor's driver.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex};

use super::abi::{
    EVENT_NO_TIMING, EVENT_TIMING, HOST_PORTABLE, HOST_WRITE_COMBINED, NOT_READY,
    STREAM_NON_BLOCKING,
};
use super::calls::Calls;
use super::card::Card;
use super::gates::{Gates, Wait};
use super::mappings::Mappings;
use super::symbols::Refusal;
use super::vendor::Vendor;
use crate::base::{DeviceError, align_up};
use crate::device::arena::Status;
use crate::device::calls::{Call, CallCounts};
use crate::device::contract::{
    Copy2d, CopyH2d, DevicePtr, DeviceResult, Driver, EventId, GateId, HostFn, PageId,
    PoolAttribute, PoolId, Priority, StreamId,
};
use crate::device::info::{DeviceInfo, DriverInfo, MemoryInfo};
use crate::device::kernel::Kernel;
use crate::device::reaper;

/// The per-thread default stream: one handle, another stream on every thread.
const PER_THREAD_STREAM: u64 = 2;
/// The legacy default stream, which begins after what all blocking streams were given.
const LEGACY_STREAM: u64 = 0;
/// Pinned memory is aligned to this, as the contract promises.
const PINNED_ALIGNMENT: usize = 4096;

/// A GPU.
#[derive(Debug)]
pub(super) struct GpuDriver<V: Vendor> {
    pub(super) info: DeviceInfo,
    pub(super) driver_info: DriverInfo,
    /// The number of streams of high priority.
    pub(super) high_priority: i32,
    pub(super) made: CallCounts,
    pub(super) mappings: Mutex<Mappings>,
    pub(super) gates: Gates,
    pub(super) card: Arc<Card<V>>,
}

impl<V: Vendor> GpuDriver<V> {
    /// Counts the call, makes it with the device current, and names it in its error.
    pub(super) fn run<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        self.made.count(call);
        self.card.inside(work).map_err(|refusal| self.error(call, refusal))
    }

    /// As [`run`](Self::run), for calls that take part in no graph.
    pub(super) fn run_apart<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        self.made.count(call);
        self.card.apart(work).map_err(|refusal| self.error(call, refusal))
    }

    /// A call refused before the driver is asked.
    pub(super) fn refused<T>(&self, call: Call, status: Status) -> DeviceResult<T> {
        self.made.count(call);
        Err(self.own_error(call, status))
    }

    pub(super) fn own_error(&self, call: Call, status: Status) -> DeviceError {
        self.error(call, Refusal::own("refused before the driver is asked", status))
    }

    pub(super) fn error(&self, call: Call, refusal: Refusal) -> DeviceError {
        self.card.error(&self.info.name, call.name(), refusal)
    }

    /// Zeroed host memory of the driver.
    fn host_memory(&self, bytes: u64, flags: u32) -> DeviceResult<NonNull<u8>> {
        if bytes == 0 {
            return self.refused(Call::AllocPinned, DeviceError::INVALID_VALUE);
        }
        let mut host: *mut c_void = null_mut();
        // SAFETY: the pointer is to a live pointer.
        self.run_apart(Call::AllocPinned, |calls| unsafe {
            calls.host_alloc(&raw mut host, bytes as usize, flags)
        })?;
        let aligned = host.align_offset(PINNED_ALIGNMENT) == 0;
        let Some(start) = NonNull::new(host.cast::<u8>()).filter(|_| aligned) else {
            if !host.is_null() {
                // SAFETY: taken just now.
                let _ = self.card.apart(|calls| unsafe { calls.host_free(host) });
            }
            let refusal = Refusal::own("memory that begins within a page", DeviceError::UNKNOWN);
            return Err(self.error(Call::AllocPinned, refusal));
        };
        // Drivers do not say what is in it. SAFETY: it is ours, of this size.
        unsafe { start.write_bytes(0, bytes as usize) };
        Ok(start)
    }

    fn launch_function(
        &self,
        calls: &Calls,
        stream: StreamId,
        function: HostFn,
    ) -> Result<(), Refusal> {
        let data = Box::into_raw(Box::new(function)).cast::<c_void>();
        // SAFETY: the stream is live; `call_host` takes the box back, once.
        let launched = unsafe {
            match calls.launch_host(stream.raw(), call_host, data) {
                Err(refusal) if refusal.missing => {
                    self.card.vendor.launch_host(stream.raw(), call_host, data)
                }
                launched => launched,
            }
        };
        if launched.is_err() {
            // SAFETY: the driver did not take the box.
            drop(unsafe { Box::from_raw(data.cast::<HostFn>()) });
        }
        launched
    }
}

/// What streams call: runs the function it is given, and never unwinds into the driver.
unsafe extern "C" fn call_host(data: *mut c_void) {
    // SAFETY: the data is the box that `launch_function` gave, and this is the only call with it.
    let function = unsafe { Box::from_raw(data.cast::<HostFn>()) };
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(function)).is_err() {
        tracing::error!(
            target: "riverbed::host_function",
            "a host function panicked on a stream; the stream goes on"
        );
    }
}

impl<V: Vendor> Driver for GpuDriver<V> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn driver_info(&self) -> Option<&DriverInfo> {
        Some(&self.driver_info)
    }

    fn calls(&self) -> &CallCounts {
        &self.made
    }

    fn memory(&self) -> DeviceResult<MemoryInfo> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: pointers to live values.
        let asked =
            self.card.apart(|calls| unsafe { calls.memory_info(&raw mut free, &raw mut total) });
        asked.map_err(|refusal| self.card.error(&self.info.name, "memory", refusal))?;
        Ok(MemoryInfo { total_bytes: total as u64, free_bytes: free as u64 })
    }

    fn alloc(&self, bytes: u64) -> DeviceResult<DevicePtr> {
        if bytes == 0 {
            return self.refused(Call::Alloc, DeviceError::INVALID_VALUE);
        }
        let rounded = align_up(bytes, self.info.granularity_bytes);
        let Some(rounded) = rounded.and_then(|bytes| usize::try_from(bytes).ok()) else {
            return self.refused(Call::Alloc, DeviceError::OUT_OF_MEMORY);
        };
        let mut at = 0;
        // SAFETY: the pointer is to a live number.
        self.run_apart(Call::Alloc, |calls| unsafe { calls.memory_alloc(&raw mut at, rounded) })?;
        Ok(DevicePtr(at))
    }

    unsafe fn free(&self, ptr: DevicePtr) -> DeviceResult<()> {
        // SAFETY: the caller's.
        self.run_apart(Call::Free, |calls| unsafe { calls.memory_free(ptr.0) })
    }

    fn reserve(&self, bytes: u64) -> DeviceResult<DevicePtr> {
        self.reserve_addresses(bytes)
    }

    unsafe fn release(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.release_addresses(at, bytes) }
    }

    fn create_page(&self, bytes: u64) -> DeviceResult<PageId> {
        self.make_page(bytes)
    }

    unsafe fn destroy_page(&self, page: PageId) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.give_page_up(page) }
    }

    fn map_many(&self, at: DevicePtr, pages: &[PageId]) -> DeviceResult<()> {
        self.map_pages(at, pages)
    }

    unsafe fn unmap(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.unmap_pages(at, bytes) }
    }

    fn create_stream(&self, priority: Priority) -> DeviceResult<StreamId> {
        let priority = match priority {
            Priority::Normal => 0,
            Priority::High => self.high_priority,
        };
        let mut stream = 0;
        // SAFETY: the pointer is to a live handle.
        self.run_apart(Call::CreateStream, |calls| unsafe {
            calls.stream_create(&raw mut stream, STREAM_NON_BLOCKING, priority)
        })?;
        // SAFETY: the stream was made just now and lives until `destroy_stream`.
        Ok(unsafe { StreamId::from_raw(stream) })
    }

    unsafe fn destroy_stream(&self, stream: StreamId) -> DeviceResult<()> {
        // SAFETY: the caller's. Drivers let what is enqueued run.
        self.run_apart(Call::DestroyStream, |calls| unsafe { calls.stream_destroy(stream.raw()) })
    }

    fn synchronize_stream(&self, stream: StreamId) -> DeviceResult<()> {
        // SAFETY: the stream is live.
        self.run_apart(Call::SynchronizeStream, |calls| unsafe {
            calls.stream_synchronize(stream.raw())
        })
    }

    fn is_capturing(&self, stream: StreamId) -> DeviceResult<bool> {
        let mut status = 0;
        // SAFETY: the stream is live and the pointer is to a live number.
        let asked = self.run(Call::IsCapturing, |calls| unsafe {
            match calls.stream_is_capturing(stream.raw(), &raw mut status) {
                // A driver that cannot tell cannot capture either.
                Err(refusal) if refusal.missing => Ok(()),
                asked => asked,
            }
        });
        asked.map(|()| status != 0)
    }

    fn launch_host(&self, stream: StreamId, function: HostFn) -> DeviceResult<()> {
        self.run(Call::LaunchHost, |calls| self.launch_function(calls, stream, function))
    }

    unsafe fn launch(&self, stream: StreamId, kernel: &Kernel) -> DeviceResult<()> {
        if !kernel.is_sound() {
            return self.refused(Call::Launch, DeviceError::INVALID_VALUE);
        }
        self.run(Call::Launch, |calls| {
            // SAFETY: the caller's.
            unsafe { self.card.module()?.run(calls, stream.raw(), kernel) }
        })
    }

    fn create_event(&self, timing: bool) -> DeviceResult<EventId> {
        let flags = if timing { EVENT_TIMING } else { EVENT_NO_TIMING };
        let mut event = 0;
        // SAFETY: the pointer is to a live handle.
        self.run_apart(Call::CreateEvent, |calls| unsafe {
            calls.event_create(&raw mut event, flags | V::EVENT_FLAGS)
        })?;
        // SAFETY: the event was made just now and lives until `destroy_event`.
        Ok(unsafe { EventId::from_raw(event) })
    }

    unsafe fn destroy_event(&self, event: EventId) -> DeviceResult<()> {
        // SAFETY: the caller's. Waits that are enqueued keep what they wait for.
        self.run_apart(Call::DestroyEvent, |calls| unsafe { calls.event_destroy(event.raw()) })
    }

    fn record_event(&self, event: EventId, stream: StreamId) -> DeviceResult<()> {
        // Whoever frees memory marks the streams that used it, from any thread, where the handle
        // of a per-thread stream means another one. Per-thread streams are blocking streams, so
        // that a mark in the legacy stream comes after all of them.
        let stream = match stream.raw() {
            PER_THREAD_STREAM => LEGACY_STREAM,
            stream => stream,
        };
        // SAFETY: both handles are live.
        self.run(Call::RecordEvent, |calls| unsafe { calls.event_record(event.raw(), stream) })
    }

    fn query_event(&self, event: EventId) -> DeviceResult<bool> {
        self.run_apart(Call::QueryEvent, |calls| {
            // SAFETY: the event is live.
            match unsafe { calls.event_query(event.raw()) } {
                Err(refusal) if refusal.status == NOT_READY => Ok(false),
                asked => asked.map(|()| true),
            }
        })
    }

    fn synchronize_event(&self, event: EventId) -> DeviceResult<()> {
        // SAFETY: the event is live.
        self.run_apart(Call::SynchronizeEvent, |calls| unsafe {
            calls.event_synchronize(event.raw())
        })
    }

    fn wait_event(&self, stream: StreamId, event: EventId) -> DeviceResult<()> {
        // SAFETY: both handles are live; 0 is the only flag value defined outside captures.
        self.run(Call::WaitEvent, |calls| unsafe {
            calls.stream_wait_event(stream.raw(), event.raw(), 0)
        })
    }

    fn elapsed_ns(&self, start: EventId, end: EventId) -> DeviceResult<u64> {
        let mut milliseconds = 0.0_f32;
        // SAFETY: both handles are live and the pointer is to a live number.
        self.run_apart(Call::Elapsed, |calls| unsafe {
            calls.event_elapsed(&raw mut milliseconds, start.raw(), end.raw())
        })?;
        // Negative where the end was first: the conversion makes that 0.
        Ok((f64::from(milliseconds) * 1e6) as u64)
    }

    fn create_gate(&self) -> DeviceResult<GateId> {
        let gate =
            self.run_apart(Call::CreateGate, |_| self.gates.create(|| self.card.gate_page()))?;
        // SAFETY: the gate was made just now and lives until `destroy_gate`.
        Ok(unsafe { GateId::from_raw(gate) })
    }

    unsafe fn destroy_gate(&self, gate: GateId) -> DeviceResult<()> {
        self.made.count(Call::DestroyGate);
        let gone = self.gates.destroy(gate.raw());
        gone.map_err(|status| self.own_error(Call::DestroyGate, status))
    }

    fn open_gate(&self, gate: GateId, value: u64) -> DeviceResult<()> {
        self.made.count(Call::OpenGate);
        let opened = self.gates.open(gate.raw(), value);
        opened.map_err(|status| self.own_error(Call::OpenGate, status))
    }

    fn wait_gate(&self, stream: StreamId, gate: GateId, value: u64) -> DeviceResult<()> {
        self.made.count(Call::WaitGate);
        let wait = self.gates.wait(gate.raw(), value);
        let wait = wait.map_err(|status| self.own_error(Call::WaitGate, status))?;
        let enqueued = self.card.inside(|calls| match wait {
            Wait::Word { device, value } => {
                // SAFETY: the stream is live, and words stay as long as the device does.
                unsafe { self.card.vendor.wait_value(stream.raw(), device, value) }
            }
            Wait::Host(gate, value) => {
                let wait = move || {
                    gate.wait(value);
                };
                self.launch_function(calls, stream, Box::new(wait))
            }
        });
        enqueued.map_err(|refusal| self.error(Call::WaitGate, refusal))
    }

    fn alloc_pinned(&self, bytes: u64) -> DeviceResult<NonNull<u8>> {
        self.host_memory(bytes, HOST_PORTABLE)
    }

    fn alloc_pinned_write_combined(&self, bytes: u64) -> DeviceResult<NonNull<u8>> {
        self.host_memory(bytes, HOST_PORTABLE | HOST_WRITE_COMBINED)
    }

    unsafe fn free_pinned(&self, ptr: NonNull<u8>) -> DeviceResult<()> {
        // SAFETY: the caller's.
        self.run_apart(Call::FreePinned, |calls| unsafe { calls.host_free(ptr.as_ptr().cast()) })
    }

    unsafe fn register(&self, ptr: NonNull<u8>, bytes: u64) -> DeviceResult<()> {
        if bytes == 0 {
            return self.refused(Call::Register, DeviceError::INVALID_VALUE);
        }
        // SAFETY: the caller's.
        self.run_apart(Call::Register, |calls| unsafe {
            calls.host_register(ptr.as_ptr().cast(), bytes as usize, HOST_PORTABLE)
        })
    }

    unsafe fn unregister(&self, ptr: NonNull<u8>) -> DeviceResult<()> {
        // SAFETY: the caller's.
        self.run_apart(Call::Unregister, |calls| unsafe {
            calls.host_unregister(ptr.as_ptr().cast())
        })
    }

    unsafe fn copy_h2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: *const u8,
        bytes: u64,
    ) -> DeviceResult<()> {
        self.run(Call::CopyH2d, |calls| match bytes {
            0 => Ok(()),
            // SAFETY: the caller's.
            _ => unsafe { calls.copy_h2d(dst.0, src.cast(), bytes as usize, stream.raw()) },
        })
    }

    unsafe fn copy_d2h(
        &self,
        stream: StreamId,
        dst: *mut u8,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        self.run(Call::CopyD2h, |calls| match bytes {
            0 => Ok(()),
            // SAFETY: the caller's.
            _ => unsafe { calls.copy_d2h(dst.cast(), src.0, bytes as usize, stream.raw()) },
        })
    }

    unsafe fn copy_d2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        self.run(Call::CopyD2d, |calls| match bytes {
            0 => Ok(()),
            // SAFETY: the caller's.
            _ => unsafe { calls.copy_d2d(dst.0, src.0, bytes as usize, stream.raw()) },
        })
    }

    unsafe fn copy_h2d_batch(&self, stream: StreamId, copies: &[CopyH2d]) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.enqueue_batch(stream, copies) }
    }

    unsafe fn copy_2d(&self, stream: StreamId, copy: &Copy2d) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.enqueue_rows(stream, copy) }
    }

    unsafe fn copy_peer(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        from: &dyn Driver,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.enqueue_peer_copy(stream, dst, from, src, bytes) }
    }

    fn create_pool(&self, max_bytes: u64) -> DeviceResult<PoolId> {
        self.make_pool(max_bytes)
    }

    unsafe fn destroy_pool(&self, pool: PoolId) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.give_pool_up(pool) }
    }

    fn pool_alloc(&self, pool: PoolId, bytes: u64, stream: StreamId) -> DeviceResult<DevicePtr> {
        self.take_from_pool(pool, bytes, stream)
    }

    unsafe fn pool_free(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        // SAFETY: the caller's.
        unsafe { self.give_to_pool(ptr, stream) }
    }

    fn pool_trim(&self, pool: PoolId, keep_bytes: u64) -> DeviceResult<()> {
        self.trim_pool(pool, keep_bytes)
    }

    fn pool_get(&self, pool: PoolId, attribute: PoolAttribute) -> DeviceResult<u64> {
        self.ask_pool(pool, attribute)
    }

    fn pool_set(&self, pool: PoolId, attribute: PoolAttribute, value: u64) -> DeviceResult<()> {
        self.tell_pool(pool, attribute, value)
    }

    fn default_pool(&self) -> DeviceResult<PoolId> {
        self.find_default_pool()
    }

    fn current_pool(&self) -> DeviceResult<PoolId> {
        self.find_current_pool()
    }

    fn set_current_pool(&self, pool: PoolId) -> DeviceResult<()> {
        self.make_pool_current(pool)
    }
}

impl<V: Vendor> Drop for GpuDriver<V> {
    fn drop(&mut self) {
        self.gates.open_all();
        let card = Arc::clone(&self.card);
        reaper::apart(move || card.let_go());
    }
}
