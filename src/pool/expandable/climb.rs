//! What happens when no free block of the stream fits, step by step: grow at home within the
//! budget, repeat what was decided before, find a run of free bytes, map free handles together.

use std::sync::Arc;

use super::members::{All, at_once_but};
use super::{Book, Expandable, Pace};
use crate::base::{Result, thread_token};
use crate::conf::PLANNED;
use crate::device::Stream;
use crate::ledger::Ledger;
use crate::policy::Request;
use crate::policy::expandable::{
    FINE_BELOW_BYTES, Moment, PAGE_BYTES, Placed, Seen, Share, after, key_of, live_hash,
    shortest_run,
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
    /// What the streams have that share with this one, this request included.
    pub(super) share: Share,
    /// As far as the miss at hand shows, the program only loads.
    pub(super) loads: bool,
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
            share: Share::default(),
            loads: false,
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
            match self.chain()? {
                Some(placed) => {
                    if let Some(taken) = self.take(placed)? {
                        return Ok(Some(taken));
                    }
                }
                None if self.book.sharing.share_all() => {}
                None => return Ok(None),
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
        book.sharing.begin(thread_token(), arena);
        let apart = book.sharing.apart().to_vec();
        let (taken, share, misses) = at_once_but(&self.heaps, &apart, |all| {
            all.bring_up_to_date(shared);
            let seen = all.numbered().map(|(at, state)| (at, seen(&state.ledger)));
            let mut share = book.sharing.note(arena, request.block_bytes, seen);
            all.leave_out(book.sharing.apart());
            if book.begin_anew(all, arena, share.used == request.block_bytes) {
                book.sharing.begin_anew();
                share.peak = share.used;
            }
            let misses: u64 = all.numbered().map(|(at, _)| book.paces[at as usize].misses).sum();
            let state = all.state(arena);
            state.stream.get_or_insert_with(|| stream.clone());
            (state.reuse(shared, &request), share, misses)
        })?;
        let before = share.used - request.block_bytes;
        // Nothing had to be put together so far, and nearly all that is held is in use. What a
        // plan packs tightly has to come in single pages while that is not many.
        let is_fine = shared.conf.policy() == PLANNED && share.held < FINE_BELOW_BYTES;
        let is_full = share.held - before <= before / FREE_PART;
        self.loads = misses == 0 && is_full && !is_fine;
        self.share = share;
        Ok(taken)
    }

    /// Serves the request from what is mapped already, whoever owns it: where it went before in
    /// the same state, else from the shortest run that fits.
    fn mapped(&mut self) -> Result<Option<Taken>> {
        let (shared, arena, request) = (self.shared, self.arena, self.request);
        let (book, moment) = (&mut *self.book, &mut self.moment);
        let apart = book.sharing.apart().to_vec();
        at_once_but(&self.heaps, &apart, |all| {
            all.bring_up_to_date(shared);
            book.note_miss(all, arena);
            let before = &mut book.paces[arena as usize].name;
            *before = after(*before, arena, request.block_bytes);
            moment.misses = *before;
            if let Some(placed) = book.memo.by_misses(moment.misses).cloned()
                && let Some(taken) = book.take(shared, all, arena, &request, &placed)?
            {
                return Ok(Some(taken));
            }
            let live = all.numbered().map(|(_, state)| live_hash(&state.ledger));
            moment.state = key_of(live.fold(0, u64::wrapping_add), arena, request.block_bytes);
            if let Some(placed) = book.memo.by_state(moment.state).cloned()
                && let Some(taken) = book.take(shared, all, arena, &request, &placed)?
            {
                return Ok(Some(taken));
            }
            let bytes = request.block_bytes;
            let run = shortest_run(&book.pages, all, arena, bytes);
            let Some(address) = run else { return Ok(None) };
            let claims = vec![(address, bytes)];
            let placed = Arc::new(Placed::new(&book.pages, claims, address));
            let taken = book.take(shared, all, arena, &request, &placed)?;
            book.memo.insert(*moment, placed);
            Ok(taken)
        })?
    }

    /// Takes the bytes of a chain; `None` if another thread took some of them meanwhile.
    fn take(&mut self, placed: Placed) -> Result<Option<Taken>> {
        let (shared, arena, request) = (self.shared, self.arena, self.request);
        let (book, moment) = (&mut *self.book, self.moment);
        let apart = book.sharing.apart().to_vec();
        at_once_but(&self.heaps, &apart, |all| {
            all.bring_up_to_date(shared);
            let taken = book.take(shared, all, arena, &request, &placed)?;
            if taken.is_some() {
                book.memo.insert(moment, Arc::new(placed));
            }
            Ok(taken)
        })?
    }
}

fn seen(ledger: &Ledger) -> Seen {
    Seen {
        version: ledger.version(),
        used_bytes: ledger.ranges_used_bytes(),
        held_bytes: ledger.ranges_bytes(),
    }
}

impl Book {
    /// Something was done that beginning anew would undo.
    fn note_miss(&mut self, all: &mut All<'_>, arena: u32) {
        let mut first = true;
        for (number, _) in all.numbered() {
            first &= self.paces[number as usize].misses == 0;
        }
        self.paces[arena as usize].misses += 1;
        if first {
            for (number, state) in all.numbered() {
                state.anew_from = self.paces[number as usize].version + STEPS_BEFORE_RESET;
            }
        }
    }

    /// With nothing in use on the streams that share, and enough done since that last was so, lets
    /// every byte of theirs be idle: a program that begins again then takes the same path as the
    /// first time. False if it is not time yet.
    fn begin_anew(&mut self, all: &mut All<'_>, arena: u32, unused: bool) -> bool {
        let (mut misses, mut extends) = (0, 0);
        for (number, _) in all.numbered() {
            let pace = &self.paces[number as usize];
            (misses, extends) = (misses + pace.misses, extends + pace.extends);
        }
        let due = STEPS_BEFORE_RESET + STEPS_A_MISS * misses + STEPS_A_GROWTH * extends;
        let own = all.state(arena);
        if misses == 0 || self.planner.is_in_force() {
            // All that is free lies together at home, as after beginning anew.
            own.anew_from = u64::MAX;
            return false;
        }
        if own.ledger.ranges_used_bytes() > 0 {
            return false;
        }
        let (version, before) = (own.ledger.version(), self.paces[arena as usize].version);
        if version < before + due {
            own.anew_from = before + due;
            return false;
        }
        if !unused {
            own.anew_from = version + due;
            return false;
        }
        self.pages.reset(all);
        for (number, state) in all.numbered() {
            let version = state.ledger.version();
            self.paces[number as usize] = Pace { version, ..Pace::default() };
            state.anew_from = u64::MAX;
        }
        true
    }
}
