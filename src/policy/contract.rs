//! What a policy decides.

use std::fmt;

use crate::ledger::{BlockId, Ledger};

/// A request as the policy sees it. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What the caller asked for, above 0.
    pub requested_bytes: u64,
    /// What a block for it takes.
    pub block_bytes: u64,
    /// The class of segments that serve it; blocks of different classes never mix. 254 and 255
    /// are the pool's own.
    pub class: u8,
}

/// A free block to hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Which.
    pub block: BlockId,
    /// How much of it, in bytes: its front part. The rest stays free.
    pub take_bytes: u64,
}

/// How tight memory is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Held from the device.
    pub reserved_bytes: u64,
    /// The hard limit.
    pub limit_bytes: u64,
}

/// A segment that is wholly free, so that it could go back to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its class.
    pub class: u8,
    /// True when it belongs to the stream that asks.
    pub own_stream: bool,
    /// Searches of aging classes, on all streams, since it became free.
    pub age: u64,
}

/// Decides where the requests of one stream are placed; every stream has an instance of its
/// own, from the same [`Factory`](super::Factory) and conf. The pool checks every decision, so a
/// policy that is wrong wastes memory or fails requests and can do no worse. Called on one
/// thread at a time; it must not block and must not call the allocator. It may keep state of its
/// own, and learns from the ledger alone what became of its decisions.
pub trait Policy: Send + fmt::Debug {
    /// The size and class of a request for `requested_bytes` (above 0). `None` refuses it as
    /// too large for any device.
    fn request(&self, requested_bytes: u64) -> Option<Request>;

    /// The free block of the ledger to serve `request` with, of its class; `None` asks for
    /// growth.
    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit>;

    /// How large a segment `request` needs when nothing fits: at least its `block_bytes`.
    fn segment_bytes(&self, request: &Request) -> u64;

    /// How much of a fresh segment of `segment_bytes` is handed out for `request`.
    fn take_of_segment(&self, segment_bytes: u64, request: &Request) -> u64;

    /// Which of the cached segments to give back before growing, because memory is tight and
    /// they are old: places in `cached`, which is in order of class, stream, size and age of the
    /// segment. Asked only under a limit.
    fn garbage(&mut self, _cached: &[Cached], _pressure: &Pressure) -> Vec<usize> {
        Vec::new()
    }

    /// Which to give back after growing for `request` failed, before everything cached is.
    fn make_room(&mut self, _cached: &[Cached], _request: &Request) -> Vec<usize> {
        Vec::new()
    }

    /// True when searches for `request` let cached segments age. Costs a shared counter.
    fn ages(&self, _request: &Request) -> bool {
        false
    }

    /// True when the same request finds the same place while the ledger is the same, whatever
    /// happened before. The pool then serves a request that repeats the last freed one at once.
    fn repeats(&self) -> bool {
        false
    }
}
