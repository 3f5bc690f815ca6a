//! Requests that come with their place, and what is recorded of all others.

use super::super::shared::Shared;
use super::super::tally::{Counted, Tally};
use super::{HeapState, Taken};
use crate::device::DevicePtr;
use crate::ledger::{Block, BlockId, PLACES, Place, SegmentId, SplitChange};
use crate::policy::{Chosen, Planned, Policy, Request};

impl HeapState {
    /// Serves a request of so many bytes if it is the next one of the plan and its place is free.
    #[inline]
    pub(in crate::pool) fn follow(&mut self, requested_bytes: u64) -> Option<Taken> {
        let Chosen::Planned(planned) = &mut self.policy else { return None };
        let request = planned.request(requested_bytes)?;
        let place = planned.next(request.block_bytes)?;
        let (id, split) = self.ledger.take_named(&place, requested_bytes)?;
        planned.took_next();
        Some(self.took_place(id, split, &place, requested_bytes))
    }

    /// Serves a request while there is no plan, if something free fits and nothing else is due.
    #[inline(never)]
    pub(super) fn take_unplanned(&mut self, requested_bytes: u64) -> Taken {
        let active_bytes = self.ledger.totals().active_bytes;
        let begins_anew = active_bytes == 0 && self.ledger.version() >= self.anew_from;
        let found = self.planned().filter(|planned| !begins_anew && planned.is_loose(active_bytes));
        let Some(request) = found.and_then(|planned| planned.request(requested_bytes)) else {
            return Taken::NONE;
        };
        let Chosen::Planned(planned) = &self.policy else { return Taken::NONE };
        let Some((block, address)) = planned.spare(&self.ledger, &request) else {
            return Taken::NONE;
        };
        let block = self.part_at(block, address);
        let taken = self.place(block, request.block_bytes, &request);
        self.record_taken(taken, &request);
        self.forget_last();
        taken
    }

    /// The place the plan has for a request.
    pub(in crate::pool) fn find_place(&mut self, request: &Request) -> Option<(SegmentId, Place)> {
        self.planned()?.find(request.block_bytes)
    }

    /// Serves a request at a place, if that is free in this ledger.
    pub(in crate::pool) fn take_place(
        &mut self,
        shared: &Shared,
        (range, place): (SegmentId, &Place),
        request: &Request,
    ) -> Option<Taken> {
        let (id, split) = self.ledger.take_place(range, place, request.requested_bytes)?;
        let taken = self.took_place(id, split, place, request.requested_bytes);
        self.note_taken(shared, taken, request, place.bytes);
        Some(taken)
    }

    /// The part of a free block from `address` on, which has to be taken next.
    pub(super) fn part_at(&mut self, id: BlockId, address: u64) -> BlockId {
        let Block { address: start, segment, class, .. } = self.ledger[id];
        if address == start {
            return id;
        }
        let (part, split) = self.ledger.part_at(segment, address);
        self.note_moved(class, split);
        part
    }

    #[inline(always)]
    fn took_place(
        &mut self,
        id: BlockId,
        split: SplitChange,
        place: &Place,
        requested_bytes: u64,
    ) -> Taken {
        let counted = Counted::new(PLACES, place.bytes, requested_bytes);
        self.count(|tally| tally.taken(counted, split));
        if place.bytes >= self.oversize_from {
            self.count(Tally::oversize_taken);
        }
        Taken { id, ptr: DevicePtr(place.address) }
    }

    /// The policy, if it is the planned one.
    pub(in crate::pool) fn planned(&mut self) -> Option<&mut Planned> {
        match &mut self.policy {
            Chosen::Planned(planned) => Some(planned),
            _ => None,
        }
    }

    /// Notes a block that was handed out, while that is recorded. It is marked, so that its end
    /// is seen too.
    pub(in crate::pool) fn record_taken(&mut self, taken: Taken, request: &Request) {
        let Chosen::Planned(planned) = &mut self.policy else { return };
        if planned.record_taken(request.block_bytes, taken.id.place()) {
            self.ledger.set_marked(taken.id, true);
        }
    }

    /// Notes that a marked block is given up; false, with nothing done, if it is marked for more
    /// than the recording.
    #[cold]
    pub(super) fn free_recorded(&mut self, id: BlockId) -> bool {
        if !matches!(self.policy, Chosen::Planned(_)) || self.ledger[id].note.is_some() {
            return false;
        }
        self.record_freed(id);
        self.ledger.set_marked(id, false);
        true
    }

    /// Notes that a marked block is given up.
    pub(super) fn record_freed(&mut self, id: BlockId) {
        if let Chosen::Planned(planned) = &mut self.policy {
            planned.record_freed(id.place());
        }
    }
}
