//! The device contract as checks: what every implementation must keep, of a real driver as of
//! those without one. One file a subject. What only devices without a driver promise (that wrong
//! handles and addresses are refused, where a pool places what) stands in `tests/contract`.

pub(super) mod copies;
pub(super) mod counts;
pub(super) mod events;
pub(super) mod gates;
pub(super) mod memory;
pub(super) mod pinned;
pub(super) mod pools;
pub(super) mod process_pool;
pub(super) mod streams;
pub(super) mod virtual_memory;
pub(super) mod wide_copies;
