//! The ways to the device: a stream each, and a window of a few pinned slots that chunks go through.
//!
//! Two slots are pinned before the first load, the others by the [`Pinner`] behind it: whoever opens
//! a model does not wait for them. On a simulated device all are pinned at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::landing::Landing;
use super::pinner::Pinner;
use super::plan::SLACK_BYTES;
use crate::base::{Error, KIB, Result, lock};
use crate::device::{Device, Priority, Stream};
use crate::pinned::PinnedPool;

/// The smallest window slot worth a copy, in bytes.
const MIN_SLOT_BYTES: u64 = 64 * KIB;

/// Slots a window has from the start: one is read while the other is copied.
const FIRST_SLOTS: usize = 2;

/// One of the two ways to the device.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) stream: Stream,
    /// How many slots the window gets, if the system pins them.
    slots: usize,
    /// The one whose last copy is the oldest first; never empty.
    window: VecDeque<Slot>,
    late: Arc<LateSlots>,
}

/// A slot of a window, and the number of the last copy that used it.
#[derive(Debug)]
struct Slot {
    landing: Arc<Landing>,
    last: u64,
}

/// Slots that were pinned behind and have not been used. Held for a push or a pop.
pub(super) type LateSlots = Mutex<Vec<Landing>>;

impl Way {
    /// A way whose window gets `slots` slots.
    pub(super) fn new(
        device: &Device,
        pinned: &PinnedPool,
        slots: usize,
        chunk_bytes: u64,
    ) -> Result<Self> {
        let stream = Stream::new(device, Priority::Normal)?;
        let mut window = VecDeque::with_capacity(slots);
        for _ in 0..slots.min(FIRST_SLOTS) {
            let landing = Arc::new(Landing::new(pinned, chunk_bytes, &[&stream])?);
            window.push_back(Slot { landing, last: 0 });
        }
        let late = Mutex::new(Vec::with_capacity(slots));
        Ok(Self { stream, slots, window, late: Arc::new(late) })
    }

    /// Has the slots that are not there yet pinned.
    pub(super) fn complete(&self, pinner: &Arc<Pinner>, chunk_bytes: u64) {
        for _ in self.window.len()..self.slots {
            pinner.ask_for_slot(chunk_bytes, &self.late);
        }
    }

    /// How many slots the window gets, if the system pins them.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// The slot that the next chunk goes through, and the number of the last copy that used it:
    /// a new one, or that whose last copy is the oldest.
    pub(super) fn next_slot(&mut self) -> (Arc<Landing>, u64) {
        if self.window.len() < self.slots
            && let Some(landing) = lock(&self.late).pop()
        {
            self.window.push_front(Slot { landing: Arc::new(landing), last: 0 });
        }
        let Slot { landing, last } = &self.window[0];
        (Arc::clone(landing), *last)
    }

    /// Copy `number` uses the slot that was given last.
    pub(super) fn used(&mut self, number: u64) {
        self.window[0].last = number;
        self.window.rotate_left(1);
    }
}

/// How many slots, at most `slots`, and how large, for chunks of `chunk_bytes`: fewer and smaller
/// ones where the budget is tight.
pub(super) fn affordable_slots(
    pinned: &PinnedPool,
    slots: usize,
    chunk_bytes: u64,
) -> Result<(usize, u64)> {
    // A part of a tight budget stays for others, unless nothing else would do.
    let budget_bytes = pinned.budget().bytes;
    let usable_bytes = budget_bytes - budget_bytes / 8;
    let most = usize::try_from(usable_bytes / MIN_SLOT_BYTES).unwrap_or(usize::MAX);
    let slots = slots.min(most).max(FIRST_SLOTS);
    let affordable = |bytes: u64| bytes / slots as u64 / MIN_SLOT_BYTES * MIN_SLOT_BYTES;
    let slot_bytes = match affordable(usable_bytes) {
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
    Ok((slots, slot_bytes))
}
