//! A copy on its way.

use std::sync::Arc;

use crate::base::Result;
use crate::device::{Event, Stream};
use crate::fence::EventPool;

/// A copy that was enqueued and what it borrowed: the pinned block it reads or writes, given
/// back by [`wait`](Self::wait). Dropping it abandons only the result: the copy still runs, and
/// its memory is kept until it has.
#[derive(Debug)]
#[must_use = "the copy runs on, but its block comes back only through wait()"]
pub struct Pending<B> {
    block: B,
    done: Event,
    events: Arc<EventPool>,
}

impl<B> Pending<B> {
    pub(super) fn new(block: B, done: Event, events: &Arc<EventPool>) -> Self {
        Self { block, done, events: Arc::clone(events) }
    }

    /// True once the copy has run. Never blocks.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_done(&self) -> Result<bool> {
        self.done.query()
    }

    /// Makes later work of `stream` wait, on the device, for the copy. Never blocks.
    ///
    /// # Errors
    /// A stream of another device; what the driver says.
    pub fn order_before(&self, stream: &Stream) -> Result<()> {
        stream.wait(&self.done)
    }

    /// Blocks until the copy has run, and gives the block back.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait(self) -> Result<B> {
        self.done.synchronize()?;
        self.events.give_back(self.done);
        Ok(self.block)
    }
}
