//! The device contract: everything Riverbed asks of a GPU, with what each side promises.
//!
//! Written after the semantics CUDA and HIP share; where they differ the weaker promise is the
//! contract. The checks of `selftest` run on every implementation; `tests/contract` adds what only
//! devices without a driver promise.
//!
//! Invariants
//! 1. Work on one stream runs in the order it was enqueued. Work on two streams is unordered
//!    unless an event or a gate orders it.
//! 2. Enqueueing never waits for the device. Only `synchronize_*`, `free`, `free_pinned`,
//!    `unregister` and `unmap` may block the host.
//! 3. A failed call changes nothing.
//! 4. Every call may come from any thread, also while others run on other threads.
//!
//! Handles (`StreamId`, `EventId`, `GateId`, `PageId`) come from the driver's `create_*` calls
//! and stay valid until the matching `destroy_*`, which is why destroying is `unsafe` and using
//! is not. Memory is the caller's business: whatever reads or writes it is `unsafe`.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;

use super::calls::{Call, CallCounts};
use super::faults::refusal;
use super::info::{DeviceInfo, DriverInfo, MemoryInfo};
use super::kernel::Kernel;
use crate::base::DeviceError;

/// What driver calls return.
pub type DeviceResult<T> = std::result::Result<T, DeviceError>;

/// An address in device memory. A number: holding one gives no right to what is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl fmt::Debug for DevicePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

macro_rules! handle {
    ($(#[$doc:meta] $name:ident),+) => {$(
        #[$doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a driver's own handle.
            ///
            /// # Safety
            /// `raw` is a live handle of this kind, of the driver it will be used with, and
            /// outlives this value.
            #[must_use]
            pub const unsafe fn from_raw(raw: u64) -> Self {
                Self(raw)
            }

            /// The driver's own handle.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }
        }
    )+};
}

handle! {
    /// A stream of the driver.
    StreamId,
    /// An event of the driver.
    EventId,
    /// A gate of the driver.
    GateId,
    /// Physical memory that can be mapped.
    PageId,
    /// A stream-ordered pool of the driver.
    PoolId
}

/// Which of two ready streams the device prefers. A hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Priority {
    /// The default.
    #[default]
    Normal,
    /// Ahead of normal streams.
    High,
}

/// What a stream-ordered pool can be asked, and some of it told. Sizes in bytes; flags are 0
/// or 1, and 1 at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolAttribute {
    /// What stays reserved when the host synchronizes; 0 at first.
    ReleaseThreshold,
    /// Whether a stream that already waits for a free may take the memory.
    FollowEventDependencies,
    /// Whether memory may be taken whose free has run. Placement then depends on timing.
    AllowOpportunistic,
    /// Whether a stream may be made to wait for another's free, where the device has no more.
    AllowInternalDependencies,
    /// Held from the device.
    ReservedCurrent,
    /// The most that was held. Setting it to 0, and only that, begins it anew.
    ReservedHigh,
    /// Allocated.
    UsedCurrent,
    /// The most that was allocated; set as [`ReservedHigh`](Self::ReservedHigh).
    UsedHigh,
}

/// A place in host or device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Device memory.
    Device(DevicePtr),
    /// Pinned host memory.
    Host(*mut u8),
}

impl From<DevicePtr> for Place {
    fn from(at: DevicePtr) -> Self {
        Self::Device(at)
    }
}

impl From<*mut u8> for Place {
    fn from(at: *mut u8) -> Self {
        Self::Host(at)
    }
}

/// A copy of rows that lie a pitch apart. Sizes in bytes; a pitch is at least the width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy2d {
    /// Where the first row goes.
    pub dst: Place,
    /// From one row's start to the next.
    pub dst_pitch: u64,
    /// Where the first row is.
    pub src: Place,
    /// From one row's start to the next.
    pub src_pitch: u64,
    /// Of a row.
    pub width: u64,
    /// How many rows.
    pub height: u64,
}

impl Copy2d {
    /// A plain copy: one row.
    pub(super) fn row(dst: impl Into<Place>, src: impl Into<Place>, bytes: u64) -> Self {
        let (dst, src) = (dst.into(), src.into());
        Self { dst, dst_pitch: bytes, src, src_pitch: bytes, width: bytes, height: 1 }
    }

    /// The bytes from the first row's start to the last one's end, of target and source; `None`
    /// where a pitch is below the width or a sum overflows.
    pub(super) fn spans(&self) -> Option<(u64, u64)> {
        if self.dst_pitch < self.width || self.src_pitch < self.width {
            return None;
        }
        let Some(steps) = self.height.checked_sub(1).filter(|_| self.width > 0) else {
            return Some((0, 0));
        };
        let span = |pitch: u64| pitch.checked_mul(steps)?.checked_add(self.width);
        Some((span(self.dst_pitch)?, span(self.src_pitch)?))
    }
}

/// One copy of a batch to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyH2d {
    /// Where it goes.
    pub dst: DevicePtr,
    /// Where it comes from, in pinned host memory.
    pub src: *const u8,
    /// How much.
    pub bytes: u64,
}

/// A function a stream calls on the host. It must not call the driver, and it must return:
/// the stream stands still meanwhile.
pub type HostFn = Box<dyn FnOnce() + Send>;

/// Gates are opened to and waited for at values below this.
pub const GATE_VALUES: u64 = 1 << 48;

/// What a device can be asked. Object-safe; only slow paths call it.
pub trait Driver: Any + fmt::Debug + Send + Sync {
    /// Name, kind and abilities; constant for the driver's life.
    fn info(&self) -> &DeviceInfo;
    /// What was found of the vendor's driver; `None` for a device without one.
    fn driver_info(&self) -> Option<&DriverInfo> {
        None
    }
    /// How often each call was made.
    fn calls(&self) -> &CallCounts;
    /// The host's time on the device's virtual clock, in nanoseconds; `None` for a device that
    /// runs in real time.
    fn virtual_ns(&self) -> Option<u64> {
        None
    }
    /// Total and free device memory now.
    fn memory(&self) -> DeviceResult<MemoryInfo>;

    // Memory -------------------------------------------------------------------------------

    /// Takes `bytes` (above 0) of device memory, aligned to 512, of undefined content; what is
    /// taken is rounded up to `info().granularity_bytes`. Fails with `OUT_OF_MEMORY` when the device is full.
    fn alloc(&self, bytes: u64) -> DeviceResult<DevicePtr>;
    /// Gives back what [`alloc`](Self::alloc) took.
    ///
    /// # Safety
    /// `ptr` is from `alloc` and not freed yet, and no work in flight touches the memory.
    unsafe fn free(&self, ptr: DevicePtr) -> DeviceResult<()>;

    // Virtual memory -----------------------------------------------------------------------

    /// Reserves `bytes` (a multiple of the granularity) of address space, with nothing behind it.
    fn reserve(&self, bytes: u64) -> DeviceResult<DevicePtr>;
    /// Gives address space back. Fails when anything is still mapped there.
    ///
    /// # Safety
    /// `at` and `bytes` are those of one [`reserve`](Self::reserve), not released yet.
    unsafe fn release(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()>;
    /// Makes physical memory of `bytes` (a multiple of the granularity), mapped nowhere yet.
    fn create_page(&self, bytes: u64) -> DeviceResult<PageId>;
    /// Gives physical memory back, once its last mapping is gone.
    ///
    /// # Safety
    /// `page` is not destroyed yet and is not used again.
    unsafe fn destroy_page(&self, page: PageId) -> DeviceResult<()>;
    /// Maps a whole page at `at` for reading and writing. One page may be mapped at several
    /// addresses: they show the same bytes. Fails when the range is not reserved or is mapped.
    fn map(&self, at: DevicePtr, page: PageId) -> DeviceResult<()> {
        self.map_many(at, &[page])
    }
    /// Maps whole pages (at least one) one after the other from `at`, all or none. Counts as
    /// one `map` each and one `set_access` over the range, as the driver calls it stands for.
    fn map_many(&self, at: DevicePtr, pages: &[PageId]) -> DeviceResult<()>;
    /// Unmaps `bytes` from `at`: whole mappings, at least one.
    ///
    /// # Safety
    /// No work in flight touches the range.
    unsafe fn unmap(&self, at: DevicePtr, bytes: u64) -> DeviceResult<()>;

    // Streams ------------------------------------------------------------------------------

    /// Makes a stream that is ordered with no other.
    fn create_stream(&self, priority: Priority) -> DeviceResult<StreamId>;
    /// Gives a stream up without waiting: what is enqueued still runs.
    ///
    /// # Safety
    /// `stream` is not used again.
    unsafe fn destroy_stream(&self, stream: StreamId) -> DeviceResult<()>;
    /// Blocks until everything enqueued so far has run.
    fn synchronize_stream(&self, stream: StreamId) -> DeviceResult<()>;
    /// True while what is enqueued on `stream` is recorded into a graph instead of run. Devices
    /// without graphs say false.
    fn is_capturing(&self, stream: StreamId) -> DeviceResult<bool>;
    /// Enqueues a call of `function` on the host.
    fn launch_host(&self, stream: StreamId, function: HostFn) -> DeviceResult<()>;
    /// Enqueues a kernel. Fails with `INVALID_VALUE` for what [`Kernel`] says is refused.
    ///
    /// # Safety
    /// The memory the kernel names is valid until it has run, and no unordered work writes it.
    unsafe fn launch(&self, stream: StreamId, kernel: &Kernel) -> DeviceResult<()>;

    // Events -------------------------------------------------------------------------------

    /// Makes an event. `timing` lets [`elapsed_ns`](Self::elapsed_ns) read it, and costs.
    fn create_event(&self, timing: bool) -> DeviceResult<EventId>;
    /// Gives an event up; waits already enqueued on it stay good.
    ///
    /// # Safety
    /// `event` is not used again.
    unsafe fn destroy_event(&self, event: EventId) -> DeviceResult<()>;
    /// Marks the stream's present end. Recording again moves the mark.
    fn record_event(&self, event: EventId, stream: StreamId) -> DeviceResult<()>;
    /// True once the latest mark was reached; true for an event never recorded.
    fn query_event(&self, event: EventId) -> DeviceResult<bool>;
    /// Blocks until the latest mark was reached.
    fn synchronize_event(&self, event: EventId) -> DeviceResult<()>;
    /// Makes what is enqueued on `stream` from now on wait for the event's present mark.
    fn wait_event(&self, stream: StreamId, event: EventId) -> DeviceResult<()>;
    /// Nanoseconds of device time from one mark to the other, both reached, both with timing;
    /// 0 when `end` was before `start`.
    fn elapsed_ns(&self, start: EventId, end: EventId) -> DeviceResult<u64>;

    // Gates --------------------------------------------------------------------------------

    /// Makes a gate: a number the host raises and streams wait for. It starts at 0.
    fn create_gate(&self) -> DeviceResult<GateId>;
    /// Gives a gate up. Streams still waiting at it are let through.
    ///
    /// # Safety
    /// `gate` is not used again.
    unsafe fn destroy_gate(&self, gate: GateId) -> DeviceResult<()>;
    /// Raises the gate to `value`, below [`GATE_VALUES`]; it never falls. What the caller wrote
    /// before is seen by work behind the gate.
    fn open_gate(&self, gate: GateId, value: u64) -> DeviceResult<()>;
    /// Makes what is enqueued on `stream` from now on wait until the gate is at `value`, below
    /// [`GATE_VALUES`], or above.
    fn wait_gate(&self, stream: StreamId, gate: GateId, value: u64) -> DeviceResult<()>;

    // Pinned host memory -------------------------------------------------------------------

    /// Takes `bytes` (above 0) of zeroed pinned host memory, aligned to 4096.
    fn alloc_pinned(&self, bytes: u64) -> DeviceResult<NonNull<u8>>;
    /// As [`alloc_pinned`](Self::alloc_pinned), for memory the host writes in order and never
    /// reads: write-combined where the driver has such, else the same. Counts as `alloc_pinned`.
    fn alloc_pinned_write_combined(&self, bytes: u64) -> DeviceResult<NonNull<u8>> {
        self.alloc_pinned(bytes)
    }
    /// Gives back what [`alloc_pinned`](Self::alloc_pinned) or
    /// [`alloc_pinned_write_combined`](Self::alloc_pinned_write_combined) took.
    ///
    /// # Safety
    /// `ptr` is from one of these, not freed yet, and nothing touches the memory any more.
    unsafe fn free_pinned(&self, ptr: NonNull<u8>) -> DeviceResult<()>;
    /// Pins `bytes` of the caller's own memory.
    ///
    /// # Safety
    /// The range is valid until [`unregister`](Self::unregister).
    unsafe fn register(&self, ptr: NonNull<u8>, bytes: u64) -> DeviceResult<()>;
    /// Ends the pinning of a registered range.
    ///
    /// # Safety
    /// No work in flight touches the range.
    unsafe fn unregister(&self, ptr: NonNull<u8>) -> DeviceResult<()>;

    // Copies -------------------------------------------------------------------------------

    /// Enqueues a copy from pinned host memory to the device.
    ///
    /// # Safety
    /// Both ranges are valid until the copy has run, and no unordered work writes either.
    unsafe fn copy_h2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: *const u8,
        bytes: u64,
    ) -> DeviceResult<()>;
    /// Enqueues a copy from the device to pinned host memory.
    ///
    /// # Safety
    /// Both ranges are valid until the copy has run; no unordered work touches the destination
    /// or writes the source.
    unsafe fn copy_d2h(
        &self,
        stream: StreamId,
        dst: *mut u8,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()>;
    /// Enqueues a copy on the device between ranges that do not overlap.
    ///
    /// # Safety
    /// As [`copy_h2d`](Self::copy_h2d).
    unsafe fn copy_d2d(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()>;

    /// Enqueues copies to the device in one call, in no order among themselves. Where the driver
    /// has no such call they are enqueued one by one, and a failure in the middle leaves those
    /// before it enqueued.
    ///
    /// # Safety
    /// As [`copy_h2d`](Self::copy_h2d), of each; no two targets overlap.
    unsafe fn copy_h2d_batch(&self, stream: StreamId, copies: &[CopyH2d]) -> DeviceResult<()>;
    /// Enqueues a copy of rows between device and pinned host memory or on the device; from
    /// host to host is `INVALID_VALUE`.
    ///
    /// # Safety
    /// As [`copy_h2d`](Self::copy_h2d) and [`copy_d2h`](Self::copy_d2h), of every row.
    unsafe fn copy_2d(&self, stream: StreamId, copy: &Copy2d) -> DeviceResult<()>;
    /// Enqueues a copy to this device from `src` of the device `from`, which is of the same
    /// kind (else `NOT_SUPPORTED`). `stream` is this device's.
    ///
    /// # Safety
    /// As [`copy_h2d`](Self::copy_h2d).
    unsafe fn copy_peer(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        from: &dyn Driver,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()>;

    // Stream-ordered pools: where `info().memory_pools`, else `NOT_SUPPORTED` ----------------

    /// Makes a pool that holds at most `max_bytes` of the device; 0 is no cap. Any other is
    /// `NOT_SUPPORTED` where `info().pool_caps` is false.
    fn create_pool(&self, max_bytes: u64) -> DeviceResult<PoolId> {
        let _ = max_bytes;
        Err(no_pools(self, Call::CreatePool))
    }
    /// Gives a pool up without waiting. Its blocks stay good, and its memory goes back once
    /// the last one's free was seen by a synchronize.
    ///
    /// # Safety
    /// `pool` is not used again.
    unsafe fn destroy_pool(&self, pool: PoolId) -> DeviceResult<()> {
        let _ = pool;
        Err(no_pools(self, Call::DestroyPool))
    }
    /// Takes `bytes` (above 0), aligned to 512, for work ordered after this point of `stream`.
    /// Never blocks. Memory freed on the same stream is taken again at once; the pool's flags
    /// say what of other streams is. Fails with `OUT_OF_MEMORY` when the device is full or the
    /// pool's cap is reached.
    fn pool_alloc(&self, pool: PoolId, bytes: u64, stream: StreamId) -> DeviceResult<DevicePtr> {
        let _ = (pool, bytes, stream);
        Err(no_pools(self, Call::PoolAlloc))
    }
    /// Gives back what [`pool_alloc`](Self::pool_alloc) took, once `stream` gets here. Never
    /// blocks. [`free`](Self::free) takes such memory too, when nothing is in flight on it.
    ///
    /// # Safety
    /// `ptr` is from `pool_alloc` and not freed yet; this point of `stream` is ordered after
    /// the allocation and every use, and no use is enqueued from now on.
    unsafe fn pool_free(&self, ptr: DevicePtr, stream: StreamId) -> DeviceResult<()> {
        let _ = (ptr, stream);
        Err(no_pools(self, Call::PoolFree))
    }
    /// Gives unused memory back to the device while at least `keep_bytes` stay reserved. Memory
    /// whose free no synchronize has seen is not unused yet.
    fn pool_trim(&self, pool: PoolId, keep_bytes: u64) -> DeviceResult<()> {
        let _ = (pool, keep_bytes);
        Err(no_pools(self, Call::PoolTrim))
    }
    /// An attribute of a pool.
    fn pool_get(&self, pool: PoolId, attribute: PoolAttribute) -> DeviceResult<u64> {
        let _ = (pool, attribute);
        Err(no_pools(self, Call::PoolGet))
    }
    /// Sets an attribute of a pool: the threshold, a flag, or a high mark to 0.
    fn pool_set(&self, pool: PoolId, attribute: PoolAttribute, value: u64) -> DeviceResult<()> {
        let _ = (pool, attribute, value);
        Err(no_pools(self, Call::PoolSet))
    }

    // The process's pool: where `info().process_pool`, else `NOT_SUPPORTED` ------------------

    /// The pool the device has without anybody making it. It cannot be given up.
    fn default_pool(&self) -> DeviceResult<PoolId> {
        Err(no_pools(self, Call::DefaultPool))
    }
    /// The pool that everybody in the process draws from who names none; the default one at
    /// first. Others may have made it, and may give it up at any time: compare it, and use it
    /// only where that is ruled out.
    fn current_pool(&self) -> DeviceResult<PoolId> {
        Err(no_pools(self, Call::CurrentPool))
    }
    /// Lets everybody who names no pool draw from `pool` from now on. What was taken before
    /// stays where it is. When the current pool is given up, the default one is current again.
    fn set_current_pool(&self, pool: PoolId) -> DeviceResult<()> {
        let _ = pool;
        Err(no_pools(self, Call::SetCurrentPool))
    }
}

fn no_pools<D: Driver + ?Sized>(driver: &D, call: Call) -> DeviceError {
    driver.calls().count(call);
    refusal(&driver.info().name, call, DeviceError::NOT_SUPPORTED)
}
