//! Requests under the planned policy: the place that is planned, else the long way.

use std::sync::Arc;

use super::allocator::Inner;
use super::expandable::Turn;
use super::heap::Heap;
use super::ladder::{Placement, Served};
use crate::base::Result;
use crate::device::Stream;
use crate::fence::StreamKey;
use crate::policy::Request;

impl Inner {
    /// Serves a request where that takes more than a step of the cursor.
    pub(super) fn allocate_planned<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        request: &Request,
        stream: &Stream,
    ) -> Result<Served<'a>> {
        // While this clone is held the heap stays its stream's, once that is seen to be so.
        let held = Arc::clone(heap);
        if held.enter()?.key != StreamKey::of(stream).raw() {
            return self.allocate_anew(heap, request.requested_bytes, stream, Placement::Policy);
        }
        self.take_turn(heap, stream)?;
        let mut served = match self.by_plan(heap, request, stream)? {
            Some(served) => served,
            None => self.online(heap, request, stream)?,
        };
        served.state.record_taken(served.taken, request);
        // Every request is a step of the cursor: none is served from what was freed last.
        served.state.forget_last();
        Ok(served)
    }

    /// Does what is due before the request: an iteration may be over.
    fn take_turn(&self, heap: &Arc<Heap>, stream: &Stream) -> Result<()> {
        let mut state = heap.enter()?;
        let active_bytes = state.ledger.totals().active_bytes;
        let is_due = state.planned().is_some_and(|planned| planned.is_due(active_bytes));
        if !is_due || self.shared.captures.any() {
            return Ok(());
        }
        let expandable = state.expandable(&self.shared);
        drop(state);
        match expandable {
            Some(expandable) => expandable.turn(&self.shared, Some((heap, stream)), Turn::Request),
            None => Ok(()),
        }
    }

    /// Serves a request at its planned place, if it has one that is free or can be had.
    fn by_plan<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        request: &Request,
        stream: &Stream,
    ) -> Result<Option<Served<'a>>> {
        let mut state = heap.enter()?;
        let Some((range, place)) = state.find_place(request) else { return Ok(None) };
        if let Some(taken) = state.take_place(&self.shared, (range, &place), request) {
            return Ok(Some(Served { heap, taken, state }));
        }
        let expandable = state.expandable(&self.shared);
        drop(state);
        let taken = match expandable {
            Some(book) => {
                book.claim_place(&self.shared, (heap, stream), (range, &place), request)?
            }
            None => None,
        };
        let mut state = heap.enter()?;
        if let Some(taken) = taken {
            return Ok(Some(Served { heap, taken, state }));
        }
        if let Some(planned) = state.planned() {
            planned.note_miss();
        }
        Ok(None)
    }

    /// Serves a request as the expandable policy does.
    fn online<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        request: &Request,
        stream: &Stream,
    ) -> Result<Served<'a>> {
        let mut state = heap.enter()?;
        if let Some(taken) = state.reuse(&self.shared, request) {
            return Ok(Served { heap, taken, state });
        }
        drop(state);
        self.climb(heap, *request, stream, Placement::Policy)
    }
}
