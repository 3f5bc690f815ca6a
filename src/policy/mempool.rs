//! The policy of the driver's stream-ordered pool: every block is a segment of its own, of just
//! the size asked for, and the driver decides what it is made of.

use super::contract::{Fit, Policy, Request};
use crate::ledger::Ledger;

/// Leaves placement and reuse to the driver's pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mempool;

impl Policy for Mempool {
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        Some(Request { requested_bytes, block_bytes: requested_bytes, class: 0 })
    }

    /// Nothing is cached here: the driver caches.
    fn fit(&mut self, _ledger: &Ledger, _request: &Request) -> Option<Fit> {
        None
    }

    fn segment_bytes(&self, request: &Request) -> u64 {
        request.block_bytes
    }

    fn take_of_segment(&self, segment_bytes: u64, _request: &Request) -> u64 {
        segment_bytes
    }
}
