//! A device with something around each of its calls, such as a counter or a wait. Included by path.
#![allow(dead_code)] // Each test uses its own part.

use std::ptr::NonNull;
use std::sync::Arc;

use riverbed::device::{
    CallCounts, Copy2d, CopyH2d, DeviceInfo, DevicePtr, DeviceResult, Driver, EventId, GateId,
    HostFn, Kernel, MemoryInfo, PageId, Priority, StreamId,
};

/// What is around a call, by the name of the driver's method.
pub(crate) trait Around: std::fmt::Debug + Send + Sync + 'static {
    fn around<T>(&self, call: &'static str, work: impl FnOnce() -> T) -> T;
}

/// Passes every call on.
#[derive(Debug)]
pub(crate) struct With<A>(pub(crate) A, pub(crate) Arc<dyn Driver>);

macro_rules! pass_on {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> $result {
            self.0.around(stringify!($name), || self.1.$name($($arg),*))
        })*
    };
}

macro_rules! pass_on_unsafe {
    ($(fn $name:ident($($arg:ident: $type:ty),*);)*) => {
        $(unsafe fn $name(&self, $($arg: $type),*) -> DeviceResult<()> {
            // SAFETY: the caller's promises are passed on.
            self.0.around(stringify!($name), || unsafe { self.1.$name($($arg),*) })
        })*
    };
}

impl<A: Around> Driver for With<A> {
    fn info(&self) -> &DeviceInfo {
        self.1.info()
    }

    fn calls(&self) -> &CallCounts {
        self.1.calls()
    }

    pass_on! {
        fn virtual_ns() -> Option<u64>;
        fn memory() -> DeviceResult<MemoryInfo>;
        fn alloc(bytes: u64) -> DeviceResult<DevicePtr>;
        fn reserve(bytes: u64) -> DeviceResult<DevicePtr>;
        fn create_page(bytes: u64) -> DeviceResult<PageId>;
        fn map_many(at: DevicePtr, pages: &[PageId]) -> DeviceResult<()>;
        fn create_stream(priority: Priority) -> DeviceResult<StreamId>;
        fn synchronize_stream(stream: StreamId) -> DeviceResult<()>;
        fn is_capturing(stream: StreamId) -> DeviceResult<bool>;
        fn launch_host(stream: StreamId, function: HostFn) -> DeviceResult<()>;
        fn create_event(timing: bool) -> DeviceResult<EventId>;
        fn record_event(event: EventId, stream: StreamId) -> DeviceResult<()>;
        fn query_event(event: EventId) -> DeviceResult<bool>;
        fn synchronize_event(event: EventId) -> DeviceResult<()>;
        fn wait_event(stream: StreamId, event: EventId) -> DeviceResult<()>;
        fn elapsed_ns(start: EventId, end: EventId) -> DeviceResult<u64>;
        fn create_gate() -> DeviceResult<GateId>;
        fn open_gate(gate: GateId, value: u64) -> DeviceResult<()>;
        fn wait_gate(stream: StreamId, gate: GateId, value: u64) -> DeviceResult<()>;
        fn alloc_pinned(bytes: u64) -> DeviceResult<NonNull<u8>>;
    }

    pass_on_unsafe! {
        fn free(ptr: DevicePtr);
        fn release(at: DevicePtr, bytes: u64);
        fn destroy_page(page: PageId);
        fn unmap(at: DevicePtr, bytes: u64);
        fn destroy_stream(stream: StreamId);
        fn launch(stream: StreamId, kernel: &Kernel);
        fn destroy_event(event: EventId);
        fn destroy_gate(gate: GateId);
        fn free_pinned(ptr: NonNull<u8>);
        fn register(ptr: NonNull<u8>, bytes: u64);
        fn unregister(ptr: NonNull<u8>);
        fn copy_h2d(stream: StreamId, dst: DevicePtr, src: *const u8, bytes: u64);
        fn copy_d2h(stream: StreamId, dst: *mut u8, src: DevicePtr, bytes: u64);
        fn copy_d2d(stream: StreamId, dst: DevicePtr, src: DevicePtr, bytes: u64);
        fn copy_h2d_batch(stream: StreamId, copies: &[CopyH2d]);
        fn copy_2d(stream: StreamId, copy: &Copy2d);
        fn copy_peer(
            stream: StreamId,
            dst: DevicePtr,
            from: &dyn Driver,
            src: DevicePtr,
            bytes: u64
        );
    }
}
