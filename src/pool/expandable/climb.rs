//! What happens when no free block of the stream fits, step by step: grow at home within the
//! budget, repeat what was decided before, find a run of free bytes, map free handles together.

use std::sync::Arc;

use super::{All, Book, Expandable};
use crate::base::{BiasedGuard, Result};
use crate::device::Stream;
use crate::policy::Request;
use crate::policy::expandable::{Ledgers, PAGE_BYTES, Placed, key_of, live_hash, shortest_run};
use crate::pool::allocator::Inner;
use crate::pool::heap::{Heap, HeapState, Taken};
use crate::pool::ladder::Served;
use crate::pool::shared::Shared;

/// How often a place may be lost to another thread before the request gives up.
const ATTEMPTS: usize = 8;
/// Steps of the ledger before an allocator out of use begins anew, and more for each miss and
/// each growth since: so that what beginning anew costs is a small part of what went before.
const STEPS_BEFORE_RESET: u64 = 512;
const STEPS_A_MISS: u64 = 32;
const STEPS_A_GROWTH: u64 = 16;

/// One request on its way.
pub(super) struct Climb<'a> {
    pub(super) inner: &'a Inner,
    pub(super) book: &'a mut Book,
    pub(super) heap: &'a Arc<Heap>,
    pub(super) request: Request,
    /// Bytes handed out, this request's with them, and given up since the last reset.
    pub(super) live_bytes: u64,
    pub(super) freed_bytes: u64,
    /// Names the state for the memo.
    key: u64,
}

impl Inner {
    /// Serves a request that found no free block of its stream; `None` if limit or device say
    /// "full" and no free memory can be mapped for it. Never waits for a stream.
    pub(in crate::pool) fn grow_pages<'a>(
        &'a self,
        expandable: &Expandable,
        heap: &'a Arc<Heap>,
        stream: &Stream,
        request: &Request,
    ) -> Result<Option<Served<'a>>> {
        let mut book = expandable.book();
        book.meet(heap.number, stream);
        let (live_bytes, freed_bytes) = self.shared.flow();
        let mut climb = Climb {
            inner: self,
            book: &mut book,
            heap,
            request: *request,
            live_bytes: live_bytes + request.block_bytes,
            freed_bytes,
            key: 0,
        };
        let Some(taken) = climb.run(stream)? else { return Ok(None) };
        Ok(Some(Served { heap, taken, state: heap.enter()? }))
    }
}

impl Climb<'_> {
    fn run(&mut self, stream: &Stream) -> Result<Option<Taken>> {
        self.book.unmap_doomed(false);
        self.book.retry_strays(&self.inner.shared);
        self.drop_views();
        self.begin_anew()?;
        {
            let mut state = self.heap.enter()?;
            state.stream.get_or_insert_with(|| stream.clone());
            state.poll(&self.inner.shared);
            if let Some(taken) = state.reuse(&self.inner.shared, &self.request) {
                return Ok(Some(taken));
            }
        }
        let pace = &mut self.book.pace;
        pace.peak_bytes = pace.peak_bytes.max(self.live_bytes);
        for _ in 0..ATTEMPTS {
            if let Some(taken) = self.extend(true)? {
                return Ok(Some(taken));
            }
            self.book.pace.misses += 1;
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

    pub(super) fn number(&self) -> usize {
        self.heap.number as usize
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        self.inner.shared.most_bytes() / PAGE_BYTES * PAGE_BYTES
    }

    /// With nothing in use anywhere, and enough done since it last was so, lets every byte be
    /// idle: a program that begins again then takes the same path as the first time.
    fn begin_anew(&mut self) -> Result<()> {
        let (shared, number) = (&self.inner.shared, self.number());
        {
            let mut state = self.heap.enter()?;
            state.settle_pending(shared);
            if !state.is_quiet() {
                return Ok(());
            }
        }
        let book = &mut *self.book;
        let freed_bytes = self.freed_bytes;
        self.inner.heaps.at_once(|states| {
            bring_up_to_date(shared, states);
            let mut unused = true;
            for state in states.iter_mut() {
                let totals = state.ledger.totals();
                unused &= totals.active_bytes + totals.retired_bytes == 0;
            }
            let pace = &mut book.pace;
            pace.versions.resize(states.len().max(pace.versions.len()), 0);
            let due =
                STEPS_BEFORE_RESET + STEPS_A_MISS * pace.misses + STEPS_A_GROWTH * pace.extends;
            let own = &mut states[number];
            let version = own.ledger.version();
            if version < pace.versions[number] + due {
                own.quiet_from = pace.versions[number] + due;
                return;
            }
            if !unused {
                own.quiet_from = version + due;
                return;
            }
            book.pages.reset(&mut All(states));
            for (state, version) in states.iter_mut().zip(&mut pace.versions) {
                *version = state.ledger.version();
                state.quiet_from = *version + STEPS_BEFORE_RESET;
            }
            (pace.misses, pace.extends, pace.peak_bytes) = (0, 0, 0);
            pace.freed_before = freed_bytes;
        })
    }

    /// Serves the request from what is mapped already, whoever owns it: where it went before in
    /// the same state, else from the shortest run that fits.
    fn mapped(&mut self) -> Result<Option<Taken>> {
        let (shared, number, request) = (&self.inner.shared, self.heap.number, self.request);
        let (book, key) = (&mut *self.book, &mut self.key);
        self.inner.heaps.at_once(|states| {
            bring_up_to_date(shared, states);
            let live = states.iter().map(|state| live_hash(&state.ledger));
            *key = key_of(live.fold(0, u64::wrapping_add), number, request.block_bytes);
            if let Some(placed) = book.memo.get(*key).cloned()
                && let Some(taken) = book.take(shared, states, number, &request, &placed)?
            {
                return Ok(Some(taken));
            }
            let bytes = request.block_bytes;
            let run = shortest_run(&book.pages, &mut All(states), number, bytes);
            let Some(address) = run else { return Ok(None) };
            let placed = Placed { claims: vec![(address, bytes)], address };
            let taken = book.take(shared, states, number, &request, &placed)?;
            book.memo.insert(*key, placed);
            Ok(taken)
        })?
    }

    /// Takes the bytes of a chain; `None` if another thread took some of them meanwhile.
    fn take(&mut self, placed: Placed) -> Result<Option<Taken>> {
        let (shared, number, request) = (&self.inner.shared, self.heap.number, self.request);
        let (book, key) = (&mut *self.book, self.key);
        self.inner.heaps.at_once(|states| {
            bring_up_to_date(shared, states);
            let taken = book.take(shared, states, number, &request, &placed)?;
            if taken.is_some() {
                book.memo.insert(key, placed);
            }
            Ok(taken)
        })?
    }
}

impl Book {
    /// Claims a place and hands the request out there; `None` if not all of it is free. Streams
    /// that used the bytes are waited for first, on the device.
    fn take(
        &mut self,
        shared: &Shared,
        states: &mut [BiasedGuard<'_, HeapState>],
        number: u32,
        request: &Request,
        placed: &Placed,
    ) -> Result<Option<Taken>> {
        let taker = self.pages.arenas[number as usize].stream;
        let mut all = All(states);
        for &(address, bytes) in &placed.claims {
            if !self.pages.is_usable(&mut all, address, bytes) {
                return Ok(None);
            }
        }
        for &(address, bytes) in &placed.claims {
            let users = self.pages.users(address, bytes, taker);
            self.order(shared, &users, taker)?;
            self.pages.claim(&mut all, address, bytes);
        }
        let Some((_, view)) = self.pages.views.range(..=placed.address).next_back() else {
            return Ok(None);
        };
        let segment = self.pages.ranges[view.range].segment;
        let free = all.of(number).free_at(segment, placed.address);
        let end = placed.address + request.block_bytes;
        if free.is_none_or(|(at, bytes)| at + bytes < end) {
            return Ok(None);
        }
        let (block, split) = all.of(number).part_at(segment, placed.address);
        all.changed(number, split);
        Ok(Some(states[number as usize].hand_out(shared, block, request.block_bytes, request)))
    }
}

/// Lets the ledgers show as free all that is.
pub(super) fn bring_up_to_date(shared: &Shared, states: &mut [BiasedGuard<'_, HeapState>]) {
    for state in states {
        state.settle_pending(shared);
        state.poll(shared);
    }
}
