//! An allocator that counts what each thread asks for, so that a length from a header that
//! becomes an allocation is seen even when the memory is never touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that all threads together have asked for.
static ALLOCATED_BY_ALL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Bytes this thread has asked for so far, never less for what it gave back.
#[allow(dead_code)] // Each test binary uses its own part.
pub(crate) fn allocated_bytes() -> u64 {
    ALLOCATED.with(Cell::get)
}

/// Bytes that all threads have asked for so far.
#[allow(dead_code)] // Each test binary uses its own part.
pub(crate) fn allocated_bytes_by_all() -> u64 {
    ALLOCATED_BY_ALL.load(Ordering::Relaxed)
}

/// From now on what this thread asks for does not count.
#[allow(dead_code)] // As above.
pub(crate) fn count_no_more() {
    UNCOUNTED.set(true);
}

/// Runs `work` without counting what this thread asks for meanwhile.
#[allow(dead_code)] // Each test binary uses its own part.
pub(crate) fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = UNCOUNTED.replace(true);
    let result = work();
    UNCOUNTED.set(before);
    result
}

fn count(bytes: usize) {
    if UNCOUNTED.get() {
        return;
    }
    ALLOCATED_BY_ALL.fetch_add(bytes as u64, Ordering::Relaxed);
    ALLOCATED.with(|total| total.set(total.get().saturating_add(bytes as u64)));
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to `System` with the caller's own arguments. Counting touches only a
// thread-local cell that has no destructor and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}
