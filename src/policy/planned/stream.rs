//! What one stream knows of the plan: where it is in it, or what it asked for while there is none.

use std::sync::atomic::{AtomicU64, Ordering};

use super::cursor::{Cursor, Step};
use super::recording::{Recording, units};
use super::sparing::sparing;
use super::table::Row;
use super::{Seen, UNIT_BYTES};
use crate::conf::Conf;
use crate::ledger::{BlockId, Ledger, Place, SegmentId};
use crate::policy::expandable::Expandable;
use crate::policy::{Fit, Policy, Request};

/// Numbers what is recorded, over all streams.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// Requests recorded before a period is looked for the first time.
const FIRST_LOOK: usize = 4096;
/// What is looked at next is longer by one part in so many.
const LOOK_PART: usize = 4;
/// From full recording to full recording the rest behind it is twice as long, so often.
const MOST_FILLED: u32 = 4;

/// The planned policy of one stream. By itself it does what the expandable policy does.
#[derive(Debug)]
pub struct Planned {
    online: Expandable,
    following: Option<Following>,
    recording: Option<Recording>,
    /// Requests that are not recorded before recording begins again.
    rest: usize,
    /// How many recordings were full in a row, and nothing came of them.
    filled: u32,
    /// Following, not recording, and not lost: the next request may be one of the plan's.
    is_quick: bool,
    is_lost: bool,
    /// Between iterations that the user marks: nothing is planned or recorded.
    is_paused: bool,
    /// Bytes handed out when the iteration began.
    base_bytes: u64,
    /// Recorded requests at which a period is looked for.
    look_at: usize,
    /// The period found: where in the recording one ended, and its length.
    phase: Option<(usize, usize)>,
}

/// A stream's part of the plan, and its memory.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) cursor: Cursor,
    /// Where its range begins.
    pub(crate) start: u64,
    pub(crate) range: SegmentId,
}

impl Following {
    #[inline]
    fn place(&self, row: &Row, bytes: u64) -> Place {
        let Row { offset, within, name, rear, .. } = *row;
        Place { address: self.start + u64::from(offset) * UNIT_BYTES, bytes, within, name, rear }
    }
}

impl Planned {
    /// The policy with the settings of `conf`, and nothing planned yet.
    #[must_use]
    pub fn new(conf: &Conf) -> Self {
        let mut planned = Self {
            online: Expandable::new(conf),
            following: None,
            recording: None,
            rest: 0,
            filled: 0,
            is_quick: false,
            is_lost: false,
            is_paused: false,
            base_bytes: 0,
            look_at: FIRST_LOOK,
            phase: None,
        };
        planned.begin(0, true);
        planned
    }

    /// The place of a request of so many bytes, if it is the next one of the plan.
    #[inline(always)]
    pub(crate) fn next(&self, block_bytes: u64) -> Option<Place> {
        if !self.is_quick {
            return None;
        }
        let following = self.following.as_ref()?;
        let row = following.cursor.peek(units(block_bytes))?;
        row.is_placed().then(|| following.place(row, block_bytes))
    }

    /// The place [`next`](Self::next) gave was taken.
    #[inline(always)]
    pub(crate) fn took_next(&mut self) {
        if let Some(following) = &mut self.following {
            following.cursor.step();
        }
    }

    /// The place the plan has for a request of so many bytes, whatever went before.
    pub(crate) fn find(&mut self, block_bytes: u64) -> Option<(SegmentId, Place)> {
        if self.is_lost || self.is_paused {
            return None;
        }
        if self.is_as_planned() {
            self.wrap();
        }
        let following = self.following.as_mut()?;
        let step = following.cursor.find(units(block_bytes));
        let found = match step {
            Step::Row(at) => Some(following.cursor.row(at)).filter(Row::is_placed),
            Step::Off | Step::Over => None,
        };
        let found = found.map(|row| (following.range, following.place(&row, block_bytes)));
        self.see_if_lost();
        found.filter(|_| !self.is_lost)
    }

    /// Where a request goes that is not planned: a free block, and the first byte of it to take.
    pub(crate) fn spare(&self, ledger: &Ledger, request: &Request) -> Option<(BlockId, u64)> {
        sparing(ledger, request)
    }

    /// A planned place was not free.
    pub(crate) fn note_miss(&mut self) {
        if let Some(following) = &mut self.following {
            following.cursor.note_miss();
        }
        self.see_if_lost();
    }

    fn see_if_lost(&mut self) {
        let following = self.following.as_ref();
        if following.is_some_and(|following| following.cursor.is_lost()) {
            (self.is_lost, self.is_quick) = (true, false);
            self.recording.get_or_insert_with(Recording::cut);
        }
    }

    /// True where something may have to be done before the next request: an iteration is over, or
    /// so much was recorded that it may be periodic.
    pub(crate) fn is_due(&self, active_bytes: u64) -> bool {
        if self.is_paused {
            return false;
        }
        let is_over = match &self.following {
            // What goes as planned goes on by itself.
            Some(_) if self.is_as_planned() => false,
            Some(Following { cursor, .. }) => {
                let is_off = self.is_lost || cursor.misses() > 0;
                cursor.is_at_end() || self.is_begun() && is_off && active_bytes <= self.base_bytes
            }
            None => self.is_begun() && active_bytes <= self.base_bytes,
        };
        is_over || self.is_adrift() || self.recorded() >= self.look_at || self.is_in_phase()
    }

    /// True while there is no plan to follow and nothing to be done but to record.
    pub(crate) fn is_loose(&self, active_bytes: u64) -> bool {
        self.following.is_none() && !self.is_due(active_bytes)
    }

    /// True where an iteration may end: all that came in it is gone, or the plan has no more.
    pub(crate) fn is_between(&self, active_bytes: u64) -> bool {
        let is_at_base = active_bytes <= self.base_bytes;
        match &self.following {
            Some(Following { cursor, .. }) => {
                let is_off = self.is_lost || cursor.misses() > 0;
                cursor.is_at_end() || cursor.is_at_start() || is_off && is_at_base
            }
            None => is_at_base,
        }
    }

    /// True when all of the iteration went as planned so far, and nobody records it.
    fn is_as_planned(&self) -> bool {
        !self.is_lost && self.recording.is_none() && self.misses() == 0
    }

    /// True when the plan was given up, and its memory is still set apart for it.
    pub(crate) fn is_adrift(&self) -> bool {
        self.is_lost && self.following.is_some()
    }

    fn is_begun(&self) -> bool {
        self.recorded() > 0
            || self.following.as_ref().is_some_and(|following| !following.cursor.is_at_start())
    }

    /// Begins an iteration with `active_bytes` handed out.
    pub(crate) fn begin(&mut self, active_bytes: u64, records: bool) {
        self.base_bytes = active_bytes;
        (self.is_lost, self.is_paused, self.phase) = (false, false, None);
        (self.recording, self.look_at) = (None, FIRST_LOOK);
        if let Some(following) = &mut self.following {
            following.cursor.begin_anew();
        }
        self.is_quick = self.following.is_some();
        if records {
            (self.is_quick, self.rest) = (false, 0);
            self.recording = Some(Recording::default());
        }
    }

    /// Ends an iteration, until the next [begins](Self::begin).
    pub(crate) fn pause(&mut self) {
        (self.is_paused, self.is_quick, self.recording) = (true, false, None);
    }

    /// Goes through its rows again, whatever the other streams are at.
    pub(crate) fn wrap(&mut self) {
        if let Some(following) = &mut self.following
            && following.cursor.is_at_end()
        {
            following.cursor.begin_anew();
        }
    }

    /// Follows another plan, or none, from the next iteration on.
    pub(crate) fn follow(&mut self, following: Option<Following>) {
        self.following = following;
        (self.is_quick, self.rest, self.filled) = (false, 0, 0);
    }

    /// Goes on without a plan in the midst of an iteration.
    pub(crate) fn give_up(&mut self) {
        if self.following.take().is_some() {
            (self.is_lost, self.is_quick, self.rest) = (true, false, 0);
            self.recording.get_or_insert_with(Recording::cut);
        }
    }

    /// True if it has a plan to follow.
    pub(crate) fn follows(&self) -> bool {
        self.following.is_some()
    }

    /// Requests that were not as planned in this iteration.
    pub(crate) fn misses(&self) -> u32 {
        self.following.as_ref().map_or(0, |following| following.cursor.misses())
    }

    /// True where the plan was left for the rest of the iteration.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Records nothing for so many requests.
    pub(crate) fn rest(&mut self, requests: usize) {
        (self.rest, self.recording, self.phase) = (requests, None, None);
    }

    /// True while nothing is recorded because recording came to nothing before.
    pub(crate) fn rests(&self) -> bool {
        self.rest > 0
    }

    /// Goes on with a recording that was taken.
    pub(crate) fn record_on(&mut self, recording: Recording) {
        self.is_quick = false;
        self.recording = Some(recording);
    }

    /// Takes what was recorded, with its digest.
    pub(crate) fn take_recording(&mut self) -> Option<Recording> {
        self.recording.take()
    }

    /// What is recorded.
    pub(crate) fn seen(&self) -> &[Seen] {
        self.recording.as_ref().map_or(&[], Recording::seen)
    }

    #[inline]
    fn recorded(&self) -> usize {
        self.recording.as_ref().map_or(0, |recording| recording.seen().len())
    }

    /// A period is to be looked for.
    pub(crate) fn is_long(&mut self) -> bool {
        let recorded = self.recorded();
        let is_long = recorded >= self.look_at;
        if is_long {
            self.look_at = recorded + recorded / LOOK_PART;
        }
        is_long
    }

    /// A period of `length` ended before the request of this number.
    pub(crate) fn set_phase(&mut self, end: usize, length: usize) {
        self.phase = Some((end, length));
    }

    /// True where the next request is the first of a period found before.
    pub(crate) fn is_in_phase(&self) -> bool {
        self.phase.is_some_and(|(end, length)| {
            self.recorded() >= end && (self.recorded() - end).is_multiple_of(length)
        })
    }

    /// A request was served by the block of this place in the ledger. True if that was recorded,
    /// so that its end has to be as well.
    pub(crate) fn record_taken(&mut self, block_bytes: u64, block: usize) -> bool {
        if self.recording.as_ref().is_some_and(Recording::is_full) {
            self.rest(self.recorded() << self.filled.min(MOST_FILLED));
            (self.filled, self.look_at) = (self.filled + 1, FIRST_LOOK);
        }
        let Some(recording) = &mut self.recording else {
            if self.rest > 0 && !self.is_paused {
                self.rest -= 1;
                self.recording = (self.rest == 0).then(Recording::cut);
            }
            return false;
        };
        recording.took(block_bytes, CLOCK.fetch_add(1, Ordering::Relaxed), block);
        true
    }

    /// A recorded block was given up.
    pub(crate) fn record_freed(&mut self, block: usize) {
        if let Some(recording) = &mut self.recording {
            recording.gave_up(CLOCK.fetch_add(1, Ordering::Relaxed), block);
        }
    }
}

/// Where the plan does not tell.
impl Policy for Planned {
    #[inline]
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        self.online.request(requested_bytes)
    }

    #[inline]
    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        self.online.fit(ledger, request)
    }

    fn segment_bytes(&self, request: &Request) -> u64 {
        self.online.segment_bytes(request)
    }

    fn take_of_segment(&self, segment_bytes: u64, request: &Request) -> u64 {
        self.online.take_of_segment(segment_bytes, request)
    }

    /// Every request is a step of the cursor: none is served from what was freed last.
    fn repeats(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_begins_again_after_a_rest() {
        let mut planned = Planned::new(&Conf::default());
        assert!(planned.record_taken(512, 0));
        planned.rest(3);
        for _ in 0..3 {
            assert!(planned.rests() && !planned.record_taken(512, 0));
        }
        assert!(!planned.rests() && planned.record_taken(512, 0));
        assert!(planned.take_recording().is_some_and(|recording| recording.is_cut()));
        // An iteration that is to be recorded ends a rest.
        planned.rest(3);
        planned.begin(0, true);
        assert!(planned.record_taken(512, 0) && !planned.seen().is_empty());
    }
}
