//! What happens when no free block of the stream fits, step by step: grow at home within the
//! budget, repeat what was decided before, find a run of free bytes, map free handles together.

use std::sync::Arc;

use super::members::{All, at_once};
use super::{Book, Expandable};
use crate::base::Result;
use crate::conf::PLANNED;
use crate::device::Stream;
use crate::policy::Request;
use crate::policy::expandable::{
    FINE_BELOW_BYTES, Moment, PAGE_BYTES, Placed, after, key_of, live_hash, shortest_run,
};
use crate::pool::heap::{Heap, Taken};
use crate::pool::shared::Shared;

/// How often a place may be lost to another thread before the request gives up.
const ATTEMPTS: usize = 8;
/// Steps of the ledger before a pool out of use begins anew, and more for each miss and each
/// growth since: so that what beginning anew costs is a small part of what went before.
const STEPS_BEFORE_RESET: u64 = 512;
const STEPS_A_MISS: u64 = 32;
const STEPS_A_GROWTH: u64 = 16;
/// A program does not only load where a miss finds this part of what is live free.
const FREE_PART: u64 = 16;

/// One request on its way.
pub(super) struct Climb<'a> {
    pub(super) shared: &'a Shared,
    pub(super) book: &'a mut Book,
    /// All of the book, by arena.
    pub(super) heaps: Vec<Arc<Heap>>,
    pub(super) heap: &'a Heap,
    pub(super) arena: u32,
    pub(super) request: Request,
    /// Bytes handed out or in flight, this request's with them.
    pub(super) live_bytes: u64,
    /// For the memo.
    moment: Moment,
}

impl Expandable {
    /// Serves a request that found no free block of its heap; `None` if limit or device say
    /// "full" and no free memory can be mapped for it. Never waits for a stream.
    ///
    /// # Errors
    /// What the driver says.
    pub(in crate::pool) fn serve(
        &self,
        shared: &Shared,
        heap: &Arc<Heap>,
        stream: &Stream,
        request: &Request,
    ) -> Result<Option<Taken>> {
        let mut book = self.book()?;
        let arena = book.meet(heap, stream);
        let heaps = book.heaps()?;
        let mut climb = Climb {
            shared,
            book: &mut book,
            heaps,
            heap,
            arena,
            request: *request,
            live_bytes: 0,
            moment: Moment::default(),
        };
        climb.run(stream)
    }
}

impl Climb<'_> {
    fn run(&mut self, stream: &Stream) -> Result<Option<Taken>> {
        self.book.unmap_doomed(self.shared, false);
        self.book.retry_strays(self.shared);
        self.drop_views();
        if let Some(taken) = self.look(stream)? {
            return Ok(Some(taken));
        }
        // What a plan is not using now comes before more memory.
        if self.book.planner.is_in_force()
            && let Some(taken) = self.mapped()?
        {
            return Ok(Some(taken));
        }
        for _ in 0..ATTEMPTS {
            if let Some(taken) = self.extend(true)? {
                return Ok(Some(taken));
            }
            if let Some(taken) = self.mapped()? {
                return Ok(Some(taken));
            }
            if let Some(taken) = self.extend(false)? {
                return Ok(Some(taken));
            }
            let Some(placed) = self.chain()? else { return Ok(None) };
            if let Some(taken) = self.take(placed)? {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        self.shared.most_bytes() / PAGE_BYTES * PAGE_BYTES
    }

    /// Sees how much is in use, begins anew if it is time to, and searches again.
    fn look(&mut self, stream: &Stream) -> Result<Option<Taken>> {
        let (shared, arena, request) = (self.shared, self.arena, self.request);
        let book = &mut *self.book;
        let (taken, live_bytes, held_bytes) = at_once(&self.heaps, |all| {
            all.bring_up_to_date(shared);
            let live_bytes: u64 = all.states().map(|state| state.ledger.ranges_used_bytes()).sum();
            let held_bytes: u64 = all.states().map(|state| state.ledger.ranges_bytes()).sum();
            book.begin_anew(all, arena, live_bytes == 0);
            let state = all.state(arena);
            state.stream.get_or_insert_with(|| stream.clone());
            (state.reuse(shared, &request), live_bytes, held_bytes)
        })?;
        self.live_bytes = live_bytes + request.block_bytes;
        let pace = &mut book.pace;
        // Nothing had to be put together so far, and nearly all that is held is in use. What a
        // plan packs tightly has to come in single pages while that is not many.
        let is_fine = shared.conf.policy() == PLANNED && held_bytes < FINE_BELOW_BYTES;
        let is_full = held_bytes - live_bytes <= live_bytes / FREE_PART;
        pace.loads = pace.misses == 0 && is_full && !is_fine;
        pace.peak_bytes = pace.peak_bytes.max(self.live_bytes);
        Ok(taken)
    }

    /// Serves the request from what is mapped already, whoever owns it: where it went before in
    /// the same state, else from the shortest run that fits.
    fn mapped(&mut self) -> Result<Option<Taken>> {
        let (shared, arena, request) = (self.shared, self.arena, self.request);
        let (book, moment) = (&mut *self.book, &mut self.moment);
        at_once(&self.heaps, |all| {
            all.bring_up_to_date(shared);
            book.note_miss(all);
            let before = &mut book.pace.names[arena as usize];
            *before = after(*before, arena, request.block_bytes);
            moment.misses = *before;
            if let Some(placed) = book.memo.by_misses(moment.misses).cloned()
                && let Some(taken) = book.take(shared, all, arena, &request, &placed)?
            {
                return Ok(Some(taken));
            }
            let live = all.states().map(|state| live_hash(&state.ledger));
            moment.state = key_of(live.fold(0, u64::wrapping_add), arena, request.block_bytes);
            if let Some(placed) = book.memo.by_state(moment.state).cloned()
                && let Some(taken) = book.take(shared, all, arena, &request, &placed)?
            {
                return Ok(Some(taken));
            }
            let bytes = request.block_bytes;
            let run = shortest_run(&book.pages, all, arena, bytes);
            let Some(address) = run else { return Ok(None) };
            let placed = Placed { claims: vec![(address, bytes)], address };
            let taken = book.take(shared, all, arena, &request, &placed)?;
            book.memo.insert(*moment, placed);
            Ok(taken)
        })?
    }

    /// Takes the bytes of a chain; `None` if another thread took some of them meanwhile.
    fn take(&mut self, placed: Placed) -> Result<Option<Taken>> {
        let (shared, arena, request) = (self.shared, self.arena, self.request);
        let (book, moment) = (&mut *self.book, self.moment);
        at_once(&self.heaps, |all| {
            all.bring_up_to_date(shared);
            let taken = book.take(shared, all, arena, &request, &placed)?;
            if taken.is_some() {
                book.memo.insert(moment, placed);
            }
            Ok(taken)
        })?
    }
}

impl Book {
    /// Something was done that beginning anew would undo.
    fn note_miss(&mut self, all: &mut All<'_>) {
        self.pace.misses += 1;
        if self.pace.misses == 1 {
            for (state, version) in all.states().zip(&self.pace.versions) {
                state.anew_from = version + STEPS_BEFORE_RESET;
            }
        }
    }

    /// With nothing in use anywhere, and enough done since it last was so, lets every byte be
    /// idle: a program that begins again then takes the same path as the first time.
    fn begin_anew(&mut self, all: &mut All<'_>, arena: u32, unused: bool) {
        let pace = &mut self.pace;
        let at = arena as usize;
        let due = STEPS_BEFORE_RESET + STEPS_A_MISS * pace.misses + STEPS_A_GROWTH * pace.extends;
        let own = all.state(arena);
        if pace.misses == 0 || self.planner.is_in_force() {
            // All that is free lies together at home, as after beginning anew.
            own.anew_from = u64::MAX;
            return;
        }
        if own.ledger.ranges_used_bytes() > 0 {
            return;
        }
        let version = own.ledger.version();
        if version < pace.versions[at] + due {
            own.anew_from = pace.versions[at] + due;
            return;
        }
        if !unused {
            own.anew_from = version + due;
            return;
        }
        self.pages.reset(all);
        for (state, version) in all.states().zip(&mut pace.versions) {
            *version = state.ledger.version();
            state.anew_from = u64::MAX;
        }
        pace.names.fill(0);
        (pace.misses, pace.extends, pace.peak_bytes) = (0, 0, 0);
    }
}
