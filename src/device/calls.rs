//! The names of the contract's calls and how often each was made: what "no driver call on the
//! hot path" is shown with, and what fault injection addresses.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! calls {
    ($($variant:ident $name:literal),+ $(,)?) => {
        /// A call of the driver contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Call {
            $(#[doc = concat!("`", $name, "`")] $variant),+
        }

        impl Call {
            /// Every call, in the contract's order.
            pub const ALL: &[Call] = &[$(Call::$variant),+];

            /// The call's name in the contract.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Call::$variant => $name),+ }
            }
        }
    };
}

calls! {
    Alloc "alloc", Free "free",
    Reserve "reserve", Release "release", CreatePage "create_page", DestroyPage "destroy_page",
    Map "map", SetAccess "set_access", Unmap "unmap",
    CreateStream "create_stream", DestroyStream "destroy_stream",
    SynchronizeStream "synchronize_stream", IsCapturing "is_capturing",
    CreateEvent "create_event", DestroyEvent "destroy_event", RecordEvent "record_event",
    QueryEvent "query_event", Elapsed "elapsed_ns",
    SynchronizeEvent "synchronize_event", WaitEvent "wait_event",
    CreateGate "create_gate", DestroyGate "destroy_gate", OpenGate "open_gate",
    WaitGate "wait_gate",
    LaunchHost "launch_host", Launch "launch",
    AllocPinned "alloc_pinned", FreePinned "free_pinned", Register "register",
    Unregister "unregister",
    CopyH2d "copy_h2d", CopyD2h "copy_d2h", CopyD2d "copy_d2d",
    CopyBatch "copy_h2d_batch", Copy2d "copy_2d", CopyPeer "copy_peer",
    CreatePool "create_pool", DestroyPool "destroy_pool",
    PoolAlloc "pool_alloc", PoolFree "pool_free", PoolTrim "pool_trim",
    PoolGet "pool_get", PoolSet "pool_set",
    DefaultPool "default_pool", CurrentPool "current_pool", SetCurrentPool "set_current_pool",
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each call of a driver was made, and for how long where the driver tells. Counting
/// is one relaxed add.
#[derive(Debug)]
pub struct CallCounts {
    made: [AtomicU64; Call::ALL.len()],
    time_ns: [AtomicU64; Call::ALL.len()],
}

impl Default for CallCounts {
    fn default() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { made: zeros(), time_ns: zeros() }
    }
}

impl CallCounts {
    /// Counts one call; gives how many there have been, this one included.
    pub fn count(&self, call: Call) -> u64 {
        self.made[call as usize].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How often `call` was made.
    #[must_use]
    pub fn get(&self, call: Call) -> u64 {
        self.made[call as usize].load(Ordering::Relaxed)
    }

    /// Adds host time spent in `call`, in nanoseconds.
    pub fn add_time_ns(&self, call: Call, ns: u64) {
        self.time_ns[call as usize].fetch_add(ns, Ordering::Relaxed);
    }

    /// Counts one call that took `ns`, for a driver that counts under one lock of its own: two
    /// stores in place of atomic additions.
    pub(super) fn count_locked(&self, call: Call, ns: u64) {
        add_locked(&self.made[call as usize], 1);
        self.add_time_locked(call, ns);
    }

    /// As [`add_time_ns`](Self::add_time_ns), under that lock.
    pub(super) fn add_time_locked(&self, call: Call, ns: u64) {
        add_locked(&self.time_ns[call as usize], ns);
    }

    /// Nanoseconds of host time spent in `call`, waiting included. Only the simulator tells,
    /// in virtual time; 0 elsewhere.
    #[must_use]
    pub fn time_ns(&self, call: Call) -> u64 {
        self.time_ns[call as usize].load(Ordering::Relaxed)
    }

    /// How often any of `calls` was made.
    #[must_use]
    pub fn sum(&self, calls: &[Call]) -> u64 {
        calls.iter().map(|&call| self.get(call)).sum()
    }
}

/// Adds where nobody else adds meanwhile.
fn add_locked(to: &AtomicU64, amount: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Call {
    /// The calls that take memory or handles from the driver. A steady state makes none.
    pub const ALLOCATING: &[Call] = &[
        Call::Alloc,
        Call::Reserve,
        Call::CreatePage,
        Call::Map,
        Call::SetAccess,
        Call::AllocPinned,
        Call::Register,
        Call::CreateStream,
        Call::CreateEvent,
        Call::CreateGate,
        Call::CreatePool,
    ];
}
