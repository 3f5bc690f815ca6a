//! Code in the same process that knows nothing of Riverbed: it calls the driver by its symbols.

use std::ffi::c_void;

use crate::fake::{FakeDriver, Vendor};

/// Of a vendor: the same calls under two names.
pub(crate) struct Others<'a> {
    fake: &'a FakeDriver,
    column: usize,
    stream: u64,
}

/// `CUmemPoolProps` and `hipMemPoolProps` of memory on the first device.
#[repr(C)]
struct PoolProperties {
    kind: u32,
    handle_types: u32,
    location_kind: u32,
    device: i32,
    rest: [u64; 9],
}

type Status = u32;

impl<'a> Others<'a> {
    /// Others with a stream of theirs, on the first device.
    pub(crate) fn new(fake: &'a FakeDriver) -> Self {
        let column = match fake.vendor {
            Vendor::Cuda => 0,
            Vendor::Hip => 1,
        };
        let mut others = Self { fake, column, stream: 0 };
        let init: unsafe extern "C" fn(u32) -> Status = others.symbol(["cuInit", "hipInit"]);
        // SAFETY: no arguments of weight.
        assert_eq!(unsafe { init(0) }, 0);
        others.enter();
        let create: unsafe extern "C" fn(*mut u64, u32, i32) -> Status =
            others.symbol(["cuStreamCreateWithPriority", "hipStreamCreateWithPriority"]);
        // SAFETY: the pointer is to a live handle.
        assert_eq!(unsafe { create(&raw mut others.stream, 1, 0) }, 0);
        others
    }

    fn symbol<F: Copy>(&self, names: [&str; 2]) -> F {
        self.fake.symbol(names[self.column])
    }

    /// Makes the device current on this thread.
    fn enter(&self) {
        if self.column == 1 {
            return; // The first device is current by itself.
        }
        let retain: unsafe extern "C" fn(*mut u64, i32) -> Status =
            self.fake.symbol("cuDevicePrimaryCtxRetain");
        let set: unsafe extern "C" fn(u64) -> Status = self.fake.symbol("cuCtxSetCurrent");
        let mut context = 0;
        // SAFETY: the pointer is to a live handle, which is then the context's.
        unsafe {
            assert_eq!(retain(&raw mut context, 0), 0);
            assert_eq!(set(context), 0);
        }
    }

    /// Allocates as everybody does who names no pool.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64, Status> {
        let alloc: unsafe extern "C" fn(*mut u64, usize, u64) -> Status =
            self.symbol(["cuMemAllocAsync", "hipMallocAsync"]);
        let mut at = 0;
        // SAFETY: the pointer is to a live address, the stream is live.
        match unsafe { alloc(&raw mut at, bytes, self.stream) } {
            0 => Ok(at),
            status => Err(status),
        }
    }

    pub(crate) fn free(&self, at: u64) {
        let free: unsafe extern "C" fn(u64, u64) -> Status =
            self.symbol(["cuMemFreeAsync", "hipFreeAsync"]);
        // SAFETY: allocated here on this stream.
        assert_eq!(unsafe { free(at, self.stream) }, 0);
    }

    pub(crate) fn synchronize(&self) {
        let synchronize: unsafe extern "C" fn(u64) -> Status =
            self.symbol(["cuStreamSynchronize", "hipStreamSynchronize"]);
        // SAFETY: the stream is live.
        assert_eq!(unsafe { synchronize(self.stream) }, 0);
    }

    fn pool_of(&self, names: [&str; 2]) -> u64 {
        let get: unsafe extern "C" fn(*mut u64, i32) -> Status = self.symbol(names);
        let mut pool = 0;
        // SAFETY: the pointer is to a live handle.
        assert_eq!(unsafe { get(&raw mut pool, 0) }, 0);
        pool
    }

    pub(crate) fn current_pool(&self) -> u64 {
        self.pool_of(["cuDeviceGetMemPool", "hipDeviceGetMemPool"])
    }

    pub(crate) fn default_pool(&self) -> u64 {
        self.pool_of(["cuDeviceGetDefaultMemPool", "hipDeviceGetDefaultMemPool"])
    }

    pub(crate) fn set_pool(&self, pool: u64) {
        let set: unsafe extern "C" fn(i32, u64) -> Status =
            self.symbol(["cuDeviceSetMemPool", "hipDeviceSetMemPool"]);
        // SAFETY: the pool is live.
        assert_eq!(unsafe { set(0, pool) }, 0);
    }

    pub(crate) fn create_pool(&self) -> u64 {
        let create: unsafe extern "C" fn(*mut u64, *const PoolProperties) -> Status =
            self.symbol(["cuMemPoolCreate", "hipMemPoolCreate"]);
        let properties =
            PoolProperties { kind: 1, handle_types: 0, location_kind: 1, device: 0, rest: [0; 9] };
        let mut pool = 0;
        // SAFETY: pointers to live values of the vendor's layout.
        assert_eq!(unsafe { create(&raw mut pool, &raw const properties) }, 0);
        pool
    }

    pub(crate) fn destroy_pool(&self, pool: u64) {
        let destroy: unsafe extern "C" fn(u64) -> Status =
            self.symbol(["cuMemPoolDestroy", "hipMemPoolDestroy"]);
        // SAFETY: the pool is live and not used again.
        assert_eq!(unsafe { destroy(pool) }, 0);
    }

    /// Sets the release threshold of a pool.
    pub(crate) fn set_threshold(&self, pool: u64, mut bytes: u64) {
        let set: unsafe extern "C" fn(u64, u32, *mut c_void) -> Status =
            self.symbol(["cuMemPoolSetAttribute", "hipMemPoolSetAttribute"]);
        // SAFETY: the pool is live, and attribute 4 is 64 bits wide.
        assert_eq!(unsafe { set(pool, 4, (&raw mut bytes).cast()) }, 0);
    }

    pub(crate) fn trim(&self, pool: u64, keep: usize) {
        let trim: unsafe extern "C" fn(u64, usize) -> Status =
            self.symbol(["cuMemPoolTrimTo", "hipMemPoolTrimTo"]);
        // SAFETY: the pool is live.
        assert_eq!(unsafe { trim(pool, keep) }, 0);
    }
}

impl Drop for Others<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.synchronize();
        let destroy: unsafe extern "C" fn(u64) -> Status =
            self.symbol(["cuStreamDestroy_v2", "hipStreamDestroy"]);
        // SAFETY: the stream is live and not used again.
        assert_eq!(unsafe { destroy(self.stream) }, 0);
        if self.column == 0 {
            let set: unsafe extern "C" fn(u64) -> Status = self.fake.symbol("cuCtxSetCurrent");
            let release: unsafe extern "C" fn(i32) -> Status =
                self.fake.symbol("cuDevicePrimaryCtxRelease_v2");
            // SAFETY: retained here; no handle of it is used here again.
            unsafe {
                assert_eq!(set(0), 0);
                assert_eq!(release(0), 0);
            }
        }
    }
}
