//! The device contract over a vendor's driver.

use std::any::Any;
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::abi::{
    ACCESS_READ_WRITE, AccessDescription, AllocationProperties, EVENT_NO_TIMING, EVENT_TIMING,
    HOST_MAPPED, HOST_PORTABLE, Location, NOT_READY, PoolProperties, STREAM_NON_BLOCKING,
};
use super::calls::Calls;
use super::card::Card;
use super::gates::{self, Gates, Wait};
use super::mappings::Mappings;
use super::modules::Module;
use super::symbols::Refusal;
use super::vendor::Vendor;
use crate::base::{DeviceError, align_up, lock};
use crate::device::arena::Status;
use crate::device::calls::{Call, CallCounts};
use crate::device::contract::{
    Copy2d, CopyH2d, DevicePtr, DeviceResult, Driver, EventId, GateId, HostFn, PageId, Place,
    PoolAttribute, PoolId, Priority, StreamId,
};
use crate::device::info::{DeviceInfo, DriverInfo, MemoryInfo};
use crate::device::kernel::Kernel;

/// Handles up to this name default streams.
const LAST_DEFAULT_STREAM: u64 = 2;
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
    /// Pinned memory under the gates.
    pub(super) gate_pages: Mutex<Vec<u64>>,
    pub(super) module: Mutex<Option<Module>>,
    /// Dropped last: everything above is the context's.
    pub(super) card: Card<V>,
}

impl<V: Vendor> GpuDriver<V> {
    /// Counts the call, makes it with the device current, and names it in its error.
    fn run<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        self.made.count(call);
        self.card.inside(work).map_err(|refusal| self.error(call, refusal))
    }

    /// As [`run`](Self::run), for calls that take part in no graph.
    fn run_apart<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        self.made.count(call);
        self.card.apart(work).map_err(|refusal| self.error(call, refusal))
    }

    /// A call of virtual memory.
    fn run_virtual<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        match self.info.virtual_memory {
            true => self.run_apart(call, work),
            false => self.refused(call, DeviceError::NOT_SUPPORTED),
        }
    }

    /// A call of pools.
    fn run_pool<T>(
        &self,
        call: Call,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> DeviceResult<T> {
        match self.info.memory_pools {
            true => self.run_apart(call, work),
            false => self.refused(call, DeviceError::NOT_SUPPORTED),
        }
    }

    /// A call refused before the driver is asked.
    fn refused<T>(&self, call: Call, status: Status) -> DeviceResult<T> {
        self.made.count(call);
        Err(self.own_error(call, status))
    }

    fn own_error(&self, call: Call, status: Status) -> DeviceError {
        self.error(call, Refusal::own("refused before the driver is asked", status))
    }

    fn error(&self, call: Call, refusal: Refusal) -> DeviceError {
        self.card.error(&self.info.name, call.name(), refusal)
    }

    fn properties(&self) -> AllocationProperties {
        AllocationProperties::on_device(self.card.context.device)
    }

    /// Makes a range with pages mapped readable and writable.
    ///
    /// # Safety
    /// The places are mapped.
    unsafe fn allow(&self, calls: &Calls, places: &[(u64, u64, u64)]) -> Result<(), Refusal> {
        let access = AccessDescription {
            location: Location::device(self.card.context.device),
            flags: ACCESS_READ_WRITE,
        };
        let whole = places.first().zip(places.last());
        let range = whole.map(|(first, last)| (first.0, last.0 + last.2 - first.0));
        let ranges: Vec<(u64, u64)> = match (V::ACCESS_BY_RANGE, range) {
            (true, Some(range)) => vec![range],
            _ => places.iter().map(|&(at, _, bytes)| (at, bytes)).collect(),
        };
        for (at, bytes) in ranges {
            // SAFETY: the caller's; the description is live.
            unsafe { calls.page_access(at, bytes as usize, &raw const access, 1) }?;
        }
        Ok(())
    }

    /// Pinned memory for gates: as the host sees it, and the device.
    fn gate_page(&self, calls: &Calls) -> Result<(&'static [AtomicU64], u64), Refusal> {
        let mut host: *mut c_void = null_mut();
        let mut device = 0;
        // SAFETY: pointers to live values; the memory is given back when this device goes, at
        // which no gate is left, so that nobody outlives what is called static here.
        unsafe {
            calls.host_alloc(&raw mut host, gates::PAGE_BYTES, HOST_PORTABLE | HOST_MAPPED)?;
            if let Err(refusal) = calls.host_device_pointer(&raw mut device, host, 0) {
                // The first failure is the one to tell.
                let _ = calls.host_free(host);
                return Err(refusal);
            }
            lock(&self.gate_pages).push(host as u64);
            host.write_bytes(0, gates::PAGE_BYTES);
            let words = gates::PAGE_BYTES / size_of::<AtomicU64>();
            Ok((std::slice::from_raw_parts(host.cast(), words), device))
        }
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
        tracing::error!("a host function panicked on a stream; the stream goes on");
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
        let mut at = 0;
        // SAFETY: the pointer is to a live number.
        self.run_virtual(Call::Reserve, |calls| unsafe {
            calls.address_reserve(&raw mut at, bytes as usize, 0, 0, 0)
        })?;
        Ok(DevicePtr(at))
    }

    unsafe fn release(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        if lock(&self.mappings).inside(at.0, bytes).is_ok() {
            return self.refused(Call::Release, DeviceError::INVALID_VALUE);
        }
        // SAFETY: the caller's; nothing is mapped there.
        self.run_virtual(Call::Release, |calls| unsafe { calls.address_free(at.0, bytes as usize) })
    }

    fn create_page(&self, bytes: u64) -> DeviceResult<PageId> {
        let properties = self.properties();
        let mut page = 0;
        // SAFETY: pointers to live values.
        self.run_virtual(Call::CreatePage, |calls| unsafe {
            calls.page_create(&raw mut page, bytes as usize, &raw const properties, 0)
        })?;
        lock(&self.mappings).created(page, bytes);
        // SAFETY: the page was made just now and lives until `destroy_page`.
        Ok(unsafe { PageId::from_raw(page) })
    }

    unsafe fn destroy_page(&self, page: PageId) -> DeviceResult<()> {
        let mut mappings = lock(&self.mappings);
        // SAFETY: the caller's. Mappings keep the memory until the last is gone.
        self.run_virtual(Call::DestroyPage, |calls| unsafe { calls.page_release(page.raw()) })?;
        mappings.destroyed(page.raw());
        Ok(())
    }

    fn map_many(&self, at: DevicePtr, pages: &[PageId]) -> DeviceResult<()> {
        let mut mappings = lock(&self.mappings);
        let places = mappings.places(at.0, pages.iter().map(|page| page.raw()));
        let places = match places {
            Ok(places) => places,
            Err(status) => return self.refused(Call::Map, status),
        };
        let mut done = 0;
        let outcome = places.iter().try_for_each(|&(at, page, bytes)| {
            // SAFETY: the page is live, and nothing is mapped there by these books.
            self.run_virtual(Call::Map, |calls| unsafe {
                calls.page_map(at, bytes as usize, 0, page, 0)
            })?;
            done += 1;
            Ok(())
        });
        // SAFETY: all places were mapped just now.
        let allow = |calls: &Calls| unsafe { self.allow(calls, &places) };
        let outcome = outcome.and_then(|()| self.run_virtual(Call::SetAccess, allow));
        for &(at, _, bytes) in &places[..done] {
            match &outcome {
                Ok(()) => mappings.mapped(at, bytes),
                Err(_) => {
                    // SAFETY: mapped just now, and touched by nobody yet.
                    let undone =
                        self.card.apart(|calls| unsafe { calls.page_unmap(at, bytes as usize) });
                    if let Err(refusal) = undone {
                        tracing::warn!(?refusal, "a mapping that is of no use stays");
                    }
                }
            }
        }
        outcome
    }

    unsafe fn unmap(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()> {
        let mut mappings = lock(&self.mappings);
        let inside = match mappings.inside(at.0, bytes) {
            Ok(inside) => inside,
            Err(status) => return self.refused(Call::Unmap, status),
        };
        self.run_virtual(Call::Unmap, |calls| {
            for (at, bytes) in inside {
                // SAFETY: a whole mapping; the caller promised that nothing touches it.
                unsafe { calls.page_unmap(at, bytes as usize) }?;
                mappings.unmapped(at);
            }
            Ok(())
        })
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
        let mut module = lock(&self.module);
        if module.is_none() {
            let loaded = self.card.apart(Module::load::<V>);
            *module = Some(loaded.map_err(|refusal| self.error(Call::Launch, refusal))?);
        }
        let clock_khz = self.card.vendor.clock_khz(&self.card.calls, self.card.context.device);
        self.run(Call::Launch, |calls| {
            let Some(module) = module.as_ref() else { return Ok(()) };
            for launch in kernel.launches(clock_khz) {
                // SAFETY: the caller's.
                unsafe { module.launch(calls, stream.raw(), &launch) }?;
            }
            Ok(())
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
            self.run_apart(Call::CreateGate, |calls| self.gates.create(|| self.gate_page(calls)))?;
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
        if bytes == 0 {
            return self.refused(Call::AllocPinned, DeviceError::INVALID_VALUE);
        }
        let mut host: *mut c_void = null_mut();
        // SAFETY: the pointer is to a live pointer.
        self.run_apart(Call::AllocPinned, |calls| unsafe {
            calls.host_alloc(&raw mut host, bytes as usize, HOST_PORTABLE)
        })?;
        let aligned = host.align_offset(PINNED_ALIGNMENT) == 0;
        let Some(start) = NonNull::new(host.cast::<u8>()).filter(|_| aligned) else {
            // SAFETY: taken just now.
            let _ = self.card.apart(|calls| unsafe { calls.host_free(host) });
            return Err(self.own_error(Call::AllocPinned, DeviceError::UNKNOWN));
        };
        // Drivers do not say what is in it. SAFETY: it is ours, of this size.
        unsafe { start.write_bytes(0, bytes as usize) };
        Ok(start)
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
        let copies: Vec<&CopyH2d> = copies.iter().filter(|copy| copy.bytes > 0).collect();
        // Default streams take no batches.
        let batched = self.card.vendor.copies_batches() && stream.raw() > LAST_DEFAULT_STREAM;
        self.run(Call::CopyBatch, |calls| {
            if batched && !copies.is_empty() {
                let mut targets: Vec<u64> = copies.iter().map(|copy| copy.dst.0).collect();
                let mut sources: Vec<u64> = copies.iter().map(|copy| copy.src as u64).collect();
                let mut sizes: Vec<usize> = copies.iter().map(|copy| copy.bytes as usize).collect();
                let stream = stream.raw();
                // SAFETY: the caller's.
                return unsafe {
                    self.card.vendor.copy_batch(stream, &mut targets, &mut sources, &mut sizes)
                };
            }
            copies.iter().try_for_each(|copy| {
                // SAFETY: the caller's.
                unsafe {
                    calls.copy_h2d(copy.dst.0, copy.src.cast(), copy.bytes as usize, stream.raw())
                }
            })
        })
    }

    unsafe fn copy_2d(&self, stream: StreamId, copy: &Copy2d) -> DeviceResult<()> {
        let on_host = matches!((copy.dst, copy.src), (Place::Host(_), Place::Host(_)));
        let Some((span, _)) = copy.spans().filter(|_| !on_host) else {
            return self.refused(Call::Copy2d, DeviceError::INVALID_VALUE);
        };
        self.run(Call::Copy2d, |_| match span {
            0 => Ok(()),
            // SAFETY: the caller's.
            _ => unsafe { self.card.vendor.copy_2d(stream.raw(), copy) },
        })
    }

    unsafe fn copy_peer(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        from: &dyn Driver,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        let Some(peer) = (from as &dyn Any).downcast_ref::<Self>() else {
            return self.refused(Call::CopyPeer, DeviceError::NOT_SUPPORTED);
        };
        let (to, from) = ((dst.0, self.card.context), (src.0, peer.card.context));
        self.run(Call::CopyPeer, |_| match bytes {
            0 => Ok(()),
            // SAFETY: the caller's.
            _ => unsafe { self.card.vendor.copy_peer(stream.raw(), to, from, bytes as usize) },
        })
    }

    fn create_pool(&self, max_bytes: u64) -> DeviceResult<PoolId> {
        if max_bytes > 0 && !self.info.pool_caps {
            return self.refused(Call::CreatePool, DeviceError::NOT_SUPPORTED);
        }
        let ordinal = self.card.context.device;
        let properties = PoolProperties::on_device(ordinal, max_bytes as usize);
        let mut pool = 0;
        // SAFETY: pointers to live values.
        self.run_pool(Call::CreatePool, |calls| unsafe {
            calls.pool_create(&raw mut pool, &raw const properties)
        })?;
        // SAFETY: the pool was made just now and lives until `destroy_pool`.
        Ok(unsafe { PoolId::from_raw(pool) })
    }

    unsafe fn destroy_pool(&self, pool: PoolId) -> DeviceResult<()> {
        // SAFETY: the caller's.
        self.run_pool(Call::DestroyPool, |calls| unsafe { calls.pool_destroy(pool.raw()) })
    }

    fn pool_alloc(&self, pool: PoolId, bytes: u64, stream: StreamId) -> DeviceResult<DevicePtr> {
        if bytes == 0 {
            return self.refused(Call::PoolAlloc, DeviceError::INVALID_VALUE);
        }
        self.made.count(Call::PoolAlloc);
        let mut at = 0;
        let taken = match self.info.memory_pools {
            // SAFETY: the pool and the stream are live, the pointer is to a live number. It may
            // be part of a graph.
            true => self.card.inside(|calls| unsafe {
                calls.pool_alloc(&raw mut at, bytes as usize, pool.raw(), stream.raw())
            }),
            false => Err(Refusal::own("pools", DeviceError::NOT_SUPPORTED)),
        };
        taken.map_err(|refusal| self.error(Call::PoolAlloc, refusal))?;
        Ok(DevicePtr(at))
    }

    unsafe fn pool_free(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        // SAFETY: the caller's.
        self.run(Call::PoolFree, |calls| unsafe { calls.pool_free(ptr.0, stream.raw()) })
    }

    fn pool_trim(&self, pool: PoolId, keep_bytes: u64) -> DeviceResult<()> {
        // SAFETY: the pool is live.
        self.run_pool(Call::PoolTrim, |calls| unsafe {
            calls.pool_trim(pool.raw(), keep_bytes as usize)
        })
    }

    fn pool_get(&self, pool: PoolId, attribute: PoolAttribute) -> DeviceResult<u64> {
        let mut value = 0_u64;
        // SAFETY: the pool is live; the driver writes an int or 64 bits, for which there is
        // room, and an int's bytes are the low ones.
        self.run_pool(Call::PoolGet, |calls| unsafe {
            calls.pool_get(pool.raw(), number(attribute), (&raw mut value).cast())
        })?;
        Ok(value)
    }

    fn pool_set(&self, pool: PoolId, attribute: PoolAttribute, value: u64) -> DeviceResult<()> {
        let flag = matches!(
            attribute,
            PoolAttribute::FollowEventDependencies
                | PoolAttribute::AllowOpportunistic
                | PoolAttribute::AllowInternalDependencies
        );
        if flag && value > 1 {
            return self.refused(Call::PoolSet, DeviceError::INVALID_VALUE);
        }
        let mut value = value;
        // SAFETY: the pool is live; the driver reads an int, whose bytes are the low ones, or
        // 64 bits.
        self.run_pool(Call::PoolSet, |calls| unsafe {
            calls.pool_set(pool.raw(), number(attribute), (&raw mut value).cast())
        })
    }
}

/// The number of an attribute (`CUmemPool_attribute`, `hipMemPoolAttr`).
fn number(attribute: PoolAttribute) -> u32 {
    match attribute {
        PoolAttribute::FollowEventDependencies => 1,
        PoolAttribute::AllowOpportunistic => 2,
        PoolAttribute::AllowInternalDependencies => 3,
        PoolAttribute::ReleaseThreshold => 4,
        PoolAttribute::ReservedCurrent => 5,
        PoolAttribute::ReservedHigh => 6,
        PoolAttribute::UsedCurrent => 7,
        PoolAttribute::UsedHigh => 8,
    }
}

impl<V: Vendor> Drop for GpuDriver<V> {
    fn drop(&mut self) {
        self.gates.open_all();
        let module = lock(&self.module).take();
        let pages = std::mem::take(&mut *lock(&self.gate_pages));
        if module.is_none() && pages.is_empty() {
            return;
        }
        let given_back = self.card.apart(|calls| {
            if let Some(module) = module {
                module.unload(calls);
            }
            for page in pages {
                // SAFETY: taken by `gate_page`; with the last handle of this device the last
                // gate has gone.
                unsafe { calls.host_free(page as *mut c_void) }?;
            }
            Ok(())
        });
        if let Err(refusal) = given_back {
            tracing::debug!(?refusal, "memory under gates was not given back");
        }
    }
}

/// The driver behind `Arc<dyn Driver>`.
pub(super) fn shared<V: Vendor>(driver: GpuDriver<V>) -> Arc<dyn Driver> {
    Arc::new(driver)
}
