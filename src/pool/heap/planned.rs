//! Requests that come with their place, and what is recorded of all others.

use super::super::shared::Shared;
use super::super::tally::Counted;
use super::{HeapState, Taken};
use crate::device::DevicePtr;
use crate::ledger::{BlockId, Place, SegmentId, SplitChange};
use crate::policy::{Chosen, Planned, Policy, Request};

impl HeapState {
    /// Serves a request of so many bytes if it is the next one of the plan and its place is free.
    #[inline]
    pub(in crate::pool) fn follow(
        &mut self,
        shared: &Shared,
        requested_bytes: u64,
    ) -> Option<Taken> {
        if self.pending {
            self.settle_pending(shared);
        }
        let Chosen::Planned(planned) = &mut self.policy else { return None };
        let request = planned.request(requested_bytes)?;
        let place = planned.next(request.block_bytes)?;
        let (id, split) = self.ledger.take_named(&place, requested_bytes)?;
        planned.took_next();
        Some(self.took_place(shared, id, split, &place, requested_bytes))
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
        requested_bytes: u64,
    ) -> Option<Taken> {
        self.settle_pending(shared);
        let (id, split) = self.ledger.take_place(range, place, requested_bytes)?;
        Some(self.took_place(shared, id, split, place, requested_bytes))
    }

    #[inline(always)]
    fn took_place(
        &mut self,
        shared: &Shared,
        id: BlockId,
        split: SplitChange,
        place: &Place,
        requested_bytes: u64,
    ) -> Taken {
        let counted = Counted::new(crate::ledger::PLACES, place.bytes, requested_bytes);
        self.count_taken(shared, counted, split, place.address);
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

    /// Notes that a marked block is given up.
    pub(super) fn record_freed(&mut self, id: BlockId) {
        if let Chosen::Planned(planned) = &mut self.policy {
            planned.record_freed(id.place());
        }
    }
}
