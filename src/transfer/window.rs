//! The ways to the device: a stream each, and a window of a few pinned slots that chunks go through.

use std::sync::Arc;

use super::landing::Landing;
use super::plan::SLACK_BYTES;
use crate::base::{Error, KIB, Result};
use crate::device::{Device, Priority, Stream};
use crate::pinned::PinnedPool;

/// The smallest window slot worth a copy, in bytes.
const MIN_SLOT_BYTES: u64 = 64 * KIB;

/// One of the two ways to the device.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) stream: Stream,
    pub(super) window: Vec<Slot>,
    /// Chunks that went through the window.
    pub(super) chunks: u64,
}

/// A slot of a window, and the number of the last copy that used it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) landing: Arc<Landing>,
    pub(super) last: u64,
}

impl Way {
    pub(super) fn new(
        device: &Device,
        pinned: &PinnedPool,
        slots: usize,
        chunk_bytes: u64,
    ) -> Result<Self> {
        let stream = Stream::new(device, Priority::Normal)?;
        let slot = |_| {
            let landing = Landing::new(pinned, chunk_bytes, &[&stream])?;
            Ok(Slot { landing: Arc::new(landing), last: 0 })
        };
        let window = (0..slots).map(slot).collect::<Result<_>>()?;
        Ok(Self { stream, window, chunks: 0 })
    }
}

/// How large slots for chunks of `chunk_bytes` may be.
pub(super) fn slot_bytes(pinned: &PinnedPool, slots: usize, chunk_bytes: u64) -> Result<u64> {
    let affordable = |bytes: u64| bytes / slots as u64 / MIN_SLOT_BYTES * MIN_SLOT_BYTES;
    // A part of a tight budget stays for others, unless nothing else would do.
    let budget_bytes = pinned.budget().bytes;
    let slot_bytes = match affordable(budget_bytes - budget_bytes / 8) {
        0 => affordable(budget_bytes),
        slot_bytes => slot_bytes,
    };
    let slot_bytes = slot_bytes.min(chunk_bytes.max(MIN_SLOT_BYTES).saturating_add(SLACK_BYTES));
    if slot_bytes < MIN_SLOT_BYTES {
        return Err(Error::PinnedBudget {
            requested_bytes: slots as u64 * MIN_SLOT_BYTES,
            reserved_bytes: pinned.stats().reserved_bytes,
            budget_bytes,
        });
    }
    Ok(slot_bytes)
}
