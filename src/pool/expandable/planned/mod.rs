//! The mechanism of the planned policy: what the streams recorded is packed in the background,
//! and the plan's memory is a range of each stream over the same handles. `policy::planned` decides.
//!
//! A planned place is bytes of such a range like any others: owned by one view, in one ledger. A
//! plan therefore promises nothing. What is not free when its request comes goes the way of the
//! expandable policy, and that policy may use what the plan has not taken yet.

mod install;
mod packing;
mod turn;

use std::collections::HashSet;
use std::sync::Arc;

use self::packing::Packing;
use super::Expandable;
use super::members::at_once;
use crate::base::Result;
use crate::device::{Event, Stream};
use crate::ledger::{Place, SegmentId};
use crate::policy::Request;
use crate::policy::expandable::{HandleId, RangeId};
use crate::policy::planned::Table;
use crate::pool::heap::{Heap, Taken};
use crate::pool::shared::Shared;

/// Why the planner is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Turn {
    /// A request comes, and its stream may be between two iterations.
    Request,
    /// The user says that an iteration begins.
    Begin,
    /// The user says that it ends.
    End,
    /// The user waits for what can be done between iterations, if this is such a moment.
    Settle,
}

/// What is planned, and what is on its way to be.
#[derive(Debug, Default)]
pub(super) struct Planner {
    force: Option<InForce>,
    packing: Option<Packing>,
    /// The next plan, for when an iteration begins.
    ready: Option<Arc<Table>>,
    /// The digest of what is in force, ready or packed.
    planned: Option<u64>,
    /// What was packed last, by its digest: it is of use again when a plan was given up for an
    /// iteration that differed, and the one it is for comes back.
    known: Option<(u64, Arc<Table>)>,
    /// How often that was packed again because lifetimes differed.
    again: u32,
    /// The digest of the last iteration that was recorded whole.
    last: Option<u64>,
    /// Iterations recorded whole in a row that were not like the ones before.
    fruitless: u32,
    /// The user marks iterations.
    is_marked: bool,
    /// Handles on their way back to the driver, once their streams are done.
    leaving: Vec<(HandleId, Vec<Arc<Event>>)>,
}

/// A plan and its memory.
#[derive(Debug)]
struct InForce {
    table: Arc<Table>,
    /// Where each arena's range begins, for those with places.
    ranges: Vec<(u32, RangeId, u64)>,
    handles: HashSet<HandleId>,
}

impl Planner {
    /// True while a plan has memory.
    pub(super) fn is_in_force(&self) -> bool {
        self.force.is_some()
    }
}

impl Expandable {
    /// Serves a request at its planned place, whoever owns the bytes; `None` if not all of them
    /// are free.
    ///
    /// # Errors
    /// What the driver says.
    pub(in crate::pool) fn claim_place(
        &self,
        shared: &Shared,
        (heap, stream): (&Arc<Heap>, &Stream),
        (range, place): (SegmentId, &Place),
        request: &Request,
    ) -> Result<Option<Taken>> {
        let mut book = self.book()?;
        let arena = book.meet(heap, stream);
        let heaps = book.heaps()?;
        let book = &mut *book;
        at_once(&heaps, |all| {
            all.bring_up_to_date(shared);
            if !book.claim_bytes(shared, all, arena, (place.address, place.bytes))? {
                return Ok(None);
            }
            Ok(all.state(arena).take_place(shared, (range, place), request))
        })?
    }
}
