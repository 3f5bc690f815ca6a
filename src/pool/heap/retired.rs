//! Blocks that were freed while other streams use them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::shared::Shared;
use super::super::tally::Counted;
use super::HeapState;
use super::notes::Uses;
use crate::device::Event;
use crate::event::TraceEvent;
use crate::ledger::BlockId;

impl HeapState {
    /// Makes free what other streams are done with. One query for each stream waited for.
    #[inline]
    pub(in crate::pool) fn poll(&mut self, shared: &Shared) {
        if self.retired.is_empty() {
            return;
        }
        self.poll_retired(shared);
    }

    #[cold]
    fn poll_retired(&mut self, shared: &Shared) {
        if shared.captures.any() {
            return;
        }
        self.settle_pending(shared);
        let mut done = std::mem::take(&mut self.unused);
        let stranded = self.retired.stranded_count();
        self.retired.poll(&shared.events, |id| done.push(id));
        self.count_stranded(shared, stranded);
        done.drain(..).for_each(|id| self.unretire(shared, id));
        self.unused = done;
    }

    fn count_stranded(&self, shared: &Shared, before: usize) {
        let more = self.retired.stranded_count().wrapping_sub(before);
        if more != 0 {
            shared.stranded_blocks.fetch_add(more as u64, Ordering::Relaxed);
        }
    }

    /// Counts as free what other streams still use: for when nothing is handed out any more.
    /// Gives the events to wait for before any of it goes back to the driver.
    pub(in crate::pool) fn settle_retired(&mut self, shared: &Shared) -> Vec<Arc<Event>> {
        self.settle_pending(shared);
        let (blocks, pending) = self.retired.take_waiting();
        blocks.into_iter().for_each(|id| self.unretire(shared, id));
        pending
    }

    pub(super) fn retire(&mut self, shared: &Shared, id: BlockId, counted: Counted, uses: &Uses) {
        self.settle_pending(shared);
        self.ledger.retire(id);
        self.count(|tally| tally.retired(counted));
        shared.cross_stream_waits.fetch_add(uses.iter().count() as u64, Ordering::Relaxed);
        if shared.captures.any() {
            self.retired.put_off(id, uses.iter());
        } else {
            let stranded = self.retired.stranded_count();
            self.retired.retire(id, uses.iter(), &shared.events);
            self.count_stranded(shared, stranded);
        }
        // Nobody polls the heaps of a closed pool, so it is seen to at once.
        self.finished |= self.uncached_from == 0;
    }

    fn unretire(&mut self, shared: &Shared, id: BlockId) {
        let (address, counted) = self.counted(id);
        let (stream, class) = (self.key, self.ledger[id].class);
        let split = self.ledger.give_back(id, shared.searches.load(Ordering::Relaxed));
        self.count(|tally| tally.unretired(counted, split));
        self.finished |= class >= self.uncached_from;
        shared.note(|| TraceEvent::FreeCompleted { address, bytes: counted.bytes, stream });
    }
}
