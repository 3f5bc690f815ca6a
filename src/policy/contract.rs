//! What a policy decides.

use std::fmt;

use crate::ledger::{BlockId, Ledger, SegmentId};

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
    /// The key of the asking stream.
    pub stream: u64,
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

/// Decides where requests are placed. The pool checks every decision, so a policy that is wrong
/// wastes memory or fails requests and can do no worse. Called with the allocator's lock held, on one thread at
/// a time; it must not block. It may keep state of its own, and learns from the ledger alone
/// what became of its decisions.
pub trait Policy: Send + fmt::Debug {
    /// The size and class of a request for `requested_bytes` (above 0) on `stream`. `None`
    /// refuses it as too large for any device.
    fn request(&self, requested_bytes: u64, stream: u64) -> Option<Request>;

    /// The free block to serve `request` with, of its class and stream; `None` asks for growth.
    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit>;

    /// How large a segment `request` needs when nothing fits: at least its `block_bytes`.
    fn segment_bytes(&self, request: &Request) -> u64;

    /// How much of a fresh segment of `segment_bytes` is handed out for `request`.
    fn take_of_segment(&self, segment_bytes: u64, request: &Request) -> u64;

    /// Cached segments to give back before growing, because memory is tight and they are old.
    fn garbage(&mut self, _ledger: &Ledger, _pressure: &Pressure) -> Vec<SegmentId> {
        Vec::new()
    }

    /// Cached segments to give back after growing by `segment_bytes` failed, before everything
    /// cached is.
    fn make_room(
        &mut self,
        _ledger: &Ledger,
        _request: &Request,
        _segment_bytes: u64,
    ) -> Vec<SegmentId> {
        Vec::new()
    }

    /// The policy's clock, noted in blocks as they become free.
    fn clock(&self) -> u64 {
        0
    }
}
