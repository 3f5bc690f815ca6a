//! Blocks that are in use: as data, and in words where they were never freed.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use super::allocator::Allocator;
use super::heap::HeapState;
use super::options::{AllocOptions, Lifetime};
use crate::base::format_bytes;
use crate::device::DevicePtr;
use crate::ledger::State;

/// A block that its owner has not freed. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveBlock {
    /// Its first byte.
    pub ptr: DevicePtr,
    /// Its size.
    pub bytes: u64,
    /// What its owner asked for.
    pub requested_bytes: u64,
    /// The key of the stream it was allocated on.
    pub stream: u64,
    /// The private pool it is of; none for the default one.
    pub pool: Option<u64>,
    /// What its owner said of it.
    pub lifetime: Option<Lifetime>,
    /// What its owner said of it.
    pub tag: Option<Arc<str>>,
}

impl fmt::Display for LiveBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = AllocOptions { lifetime: self.lifetime, tag: self.tag.clone() };
        let (address, size) = (self.ptr.0, format_bytes(self.requested_bytes));
        write!(f, "{address:#x} {size} on stream {:#x} {label}", self.stream)
    }
}

impl Allocator {
    /// Every block that is handed out and not freed, the largest first. Walks every block, and
    /// is exact while no other thread allocates or frees. Raw blocks that are never freed are
    /// leaked: the last handle gone, a warning (`tracing`) names the largest.
    #[must_use]
    pub fn live_blocks(&self) -> Vec<LiveBlock> {
        self.inner().poll();
        let mut blocks = Vec::new();
        for heap in self.inner().heaps.all() {
            if let Ok(mut state) = heap.enter() {
                state.settle_pending(&heap.shared);
                blocks.extend(state.live_blocks());
            }
        }
        largest_first(&mut blocks);
        blocks
    }
}

/// Warns of blocks that nobody can free any more.
pub(super) fn report_leaks(device: &str, mut blocks: Vec<LiveBlock>) {
    /// How many are named.
    const NAMED: usize = 10;
    if blocks.is_empty() {
        return;
    }
    largest_first(&mut blocks);
    let bytes: u64 = blocks.iter().map(|block| block.requested_bytes).sum();
    let named: Vec<String> = blocks.iter().take(NAMED).map(ToString::to_string).collect();
    tracing::warn!(
        device,
        blocks = blocks.len(),
        bytes,
        largest = named.join("; "),
        "raw blocks were never freed: their segments are leaked"
    );
}

fn largest_first(blocks: &mut [LiveBlock]) {
    blocks.sort_by_key(|block| (Reverse(block.bytes), block.ptr.0));
}

impl HeapState {
    /// Blocks handed out, in no order.
    pub(super) fn live_blocks(&self) -> Vec<LiveBlock> {
        let active = self.ledger.blocks().filter(|block| block.state == State::Active);
        let live = active.map(|block| {
            let label = self.label_of(block);
            LiveBlock {
                ptr: DevicePtr(block.address),
                bytes: block.bytes,
                requested_bytes: block.requested_bytes,
                stream: self.key,
                pool: self.pool.as_ref().map(|pool| pool.id),
                lifetime: label.and_then(|label| label.lifetime),
                tag: label.and_then(|label| label.tag.clone()),
            }
        });
        live.collect()
    }
}
