//! What happens when no free block of the stream fits: grow at home within the budget, repeat
//! what was decided before, find a run of free bytes, map free handles behind one another.

use std::sync::Arc;

use super::driver::{Fresh, map};
use super::{All, Book, Doomed, Expandable, One};
use crate::base::{BiasedGuard, Result};
use crate::device::{PageId, Stream};
use crate::event::TraceEvent;
use crate::policy::Request;
use crate::policy::expandable::{
    HandleId, Ledgers, PAGE_BYTES, Placed, Plan, Range, RangeId, budget, chain, cut, growth_bytes,
    key_of, live_hash, shortest_run,
};
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
struct Climb<'a> {
    inner: &'a Inner,
    book: &'a mut Book,
    heap: &'a Arc<Heap>,
    request: Request,
    /// Bytes handed out, this request's with them, and given up since the last reset.
    live_bytes: u64,
    freed_bytes: u64,
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

    fn number(&self) -> usize {
        self.heap.number as usize
    }

    fn capacity_bytes(&self) -> u64 {
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

    /// Moves the end of the home range up until the request fits below it: first over idle
    /// handles, then, if `fresh` and within the budget, over new ones.
    fn extend(&mut self, fresh: bool) -> Result<Option<Taken>> {
        let (shared, number) = (&self.inner.shared, self.number());
        let bytes = self.request.block_bytes;
        let mut begun = false;
        loop {
            let book = &mut *self.book;
            let Some(home) = book.pages.arenas[number].home else {
                if !fresh {
                    return Ok(None);
                }
                book.make_home(shared, self.heap)?;
                continue;
            };
            let mut state = self.heap.enter()?;
            state.settle_pending(shared);
            let (segment, brk) = (book.pages.ranges[home].segment, book.pages.arenas[number].brk);
            let below = brk.checked_sub(1).filter(|&last| last >= book.pages.ranges[home].start);
            let top = below.and_then(|last| state.ledger.free_at(segment, last));
            let missing = match top {
                Some((at, free_bytes)) if free_bytes >= bytes => {
                    let block = state.ledger.block_at(segment, at);
                    return Ok(Some(state.hand_out(shared, block, bytes, &self.request)));
                }
                top => (bytes - top.map_or(0, |(_, bytes)| bytes)).next_multiple_of(PAGE_BYTES),
            };
            let idle =
                book.pages.arenas[number].home_used < book.pages.arenas[number].home_handles.len();
            let budget =
                budget(book.pace.peak_bytes.max(self.live_bytes)).min(self.capacity_bytes());
            let book = &mut *self.book;
            if !begun {
                let over = book.pages.used_bytes + missing > budget;
                if if fresh { over } else { !idle } {
                    return Ok(None);
                }
                book.pace.extends += 1;
                begun = true;
            }
            if idle {
                let number = self.heap.number;
                if !book.pages.take_up(&mut One(&mut state), number, missing) {
                    book.take_up_next(shared, &mut state, number as usize)?;
                }
                continue;
            }
            drop(state);
            if !fresh || !self.grow_home(home, missing, budget)? {
                return Ok(None);
            }
        }
    }

    /// Takes new handles at the end of the home range; false if there is no room for them.
    fn grow_home(&mut self, home: RangeId, missing: u64, budget: u64) -> Result<bool> {
        let (shared, capacity) = (&self.inner.shared, self.capacity_bytes());
        let Range { end, limit, .. } = self.book.pages.ranges[home];
        let reserved = self.book.pages.reserved_bytes;
        // The last page stays absent: no free block is ever a whole range.
        let room = (limit - end - PAGE_BYTES).min(capacity.saturating_sub(reserved));
        if missing > room || reserved + missing > budget {
            return Ok(false);
        }
        let freed_bytes = self.freed_bytes.wrapping_sub(self.book.pace.freed_before);
        let loading = freed_bytes <= self.live_bytes / 16;
        let wanted = growth_bytes(missing, reserved, budget, loading).min(room);
        let mut fresh = self.book.create(shared, &cuts(wanted, reserved, capacity, loading))?;
        if fresh.is_none() && wanted > missing {
            fresh = self.book.create(shared, &cuts(missing, reserved, capacity, loading))?;
        }
        let Some(fresh) = fresh else { return Ok(false) };
        let bytes = fresh.iter().map(|fresh| fresh.bytes).sum();
        let pages: Vec<PageId> = fresh.iter().map(|fresh| fresh.page).collect();
        if let Err(error) = map(shared, end, &pages) {
            self.book.take_back(shared, fresh, bytes);
            return Err(error);
        }
        let mut state = self.heap.enter()?;
        let (book, number) = (&mut *self.book, self.heap.number);
        let mut at = end;
        for fresh in &fresh {
            let handle = book.enter(shared, number, at, home, fresh);
            let arena = &mut book.pages.arenas[number as usize];
            arena.home_handles.push(handle);
            arena.home_used += 1;
            book.pages.claim(&mut One(&mut state), at, fresh.bytes);
            at += fresh.bytes;
        }
        book.pages.arenas[number as usize].brk = at;
        came(shared, &state, end, bytes, fresh.len());
        Ok(true)
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

    /// Maps free handles, and new ones where these are too few, behind one another. `None` if
    /// limit or device have no room for what is new.
    fn chain(&mut self) -> Result<Option<Placed>> {
        let (shared, number) = (&self.inner.shared, self.heap.number);
        let bytes = self.request.block_bytes;
        let pages = &self.book.pages;
        let plan = self.inner.heaps.at_once(|states| {
            bring_up_to_date(shared, states);
            chain(pages, &mut All(states), number, bytes)
        })?;
        let (reserved, capacity) = (pages.reserved_bytes, self.capacity_bytes());
        if reserved + plan.create_bytes > capacity {
            return Ok(None);
        }
        let sizes = cuts(plan.create_bytes, reserved, capacity, false);
        let Some(fresh) = self.book.create(shared, &sizes)? else { return Ok(None) };
        let range = match plan.range {
            Some(range) => Ok(range),
            None => self.book.make_run(shared, self.heap, bytes),
        };
        let mapped = range.and_then(|range| {
            let mapped = self.book.map_chain(shared, &plan, range, &fresh);
            if mapped.is_err() && plan.range.is_none() {
                self.book.unmake_run(&mut *self.heap.enter()?, range);
            }
            mapped.map(|()| range)
        });
        let range = match mapped {
            Ok(range) => range,
            Err(error) => {
                self.book.take_back(shared, fresh, plan.create_bytes);
                return Err(error);
            }
        };
        Ok(Some(self.enter_chain(&plan, range, &fresh)?))
    }

    /// Notes what [`Book::map_chain`] mapped; gives where the request goes.
    fn enter_chain(&mut self, plan: &Plan, range: RangeId, fresh: &[Fresh]) -> Result<Placed> {
        let (shared, number) = (&self.inner.shared, self.heap.number);
        let book = &mut *self.book;
        let start = book.pages.ranges[range].end;
        let bytes = self.request.block_bytes;
        let address = start - plan.prefix_bytes + plan.skip_bytes;
        let mut at = start;
        for &handle in &plan.maps {
            at = book.enter_view(shared, number, at, range, handle);
        }
        let new_at = at;
        for fresh in fresh {
            book.enter(shared, number, at, range, fresh);
            at += fresh.bytes;
        }
        let mut claims = vec![(address, bytes)];
        if plan.create_bytes > 0 {
            came(shared, &*self.heap.enter()?, new_at, plan.create_bytes, fresh.len());
            if at > address + bytes {
                // All of what is new, so that its rest is of use.
                claims.push((address + bytes, at - address - bytes));
            }
        }
        if let Some(handle) = plan.last {
            book.enter_view(shared, number, at, range, handle);
        }
        Ok(Placed { claims, address })
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

    /// Where there are too many views, drops the oldest that own nothing.
    fn drop_views(&mut self) {
        let (shared, book) = (&self.inner.shared, &mut *self.book);
        if book.pages.views.len() <= book.most_views {
            return;
        }
        for _ in 0..book.by_age.len() {
            if book.pages.views.len() <= book.most_views / 8 * 7 {
                return;
            }
            let Some(address) = book.by_age.pop_front() else { return };
            let Some(&view) = book.pages.views.get(&address) else { continue };
            let handle = &book.pages.handles[view.handle];
            let arena = &book.pages.arenas[book.pages.ranges[view.range].arena as usize];
            let stream = book.streams.get(arena.stream as usize).and_then(Option::as_ref);
            let marked = if handle.owns_any(address) || handle.home == address {
                None
            } else {
                stream.and_then(|stream| shared.events.record(stream).ok())
            };
            let Some(after) = marked else {
                book.by_age.push_back(address);
                continue;
            };
            let doomed = Doomed { address, bytes: handle.bytes, after: Arc::new(after) };
            book.pages.unmap(address);
            shared.pages.remove(address);
            shared.count(|stats| stats.mappings -= 1);
            book.doomed.push(doomed);
        }
    }
}

impl Book {
    /// Moves the end of a home range up over the next handle and claims what is idle of it.
    fn take_up_next(
        &mut self,
        shared: &Shared,
        state: &mut HeapState,
        number: usize,
    ) -> Result<()> {
        let arena = &self.pages.arenas[number];
        let (id, taker) = (arena.home_handles[arena.home_used], arena.stream);
        let handle = &self.pages.handles[id];
        let (home, bytes) = (handle.home, handle.bytes);
        let idle = if handle.is_kept { Vec::new() } else { handle.idle_parts() };
        for (start, end) in idle {
            let users = self.pages.users(home + start, end - start, taker);
            self.order(shared, &users, taker)?;
            self.pages.claim(&mut One(state), home + start, end - start);
        }
        let arena = &mut self.pages.arenas[number];
        arena.home_used += 1;
        arena.brk = home + bytes;
        Ok(())
    }

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

    /// Maps what a plan says at the end of a range. A failure leaves nothing mapped.
    fn map_chain(
        &mut self,
        shared: &Shared,
        plan: &Plan,
        range: RangeId,
        fresh: &[Fresh],
    ) -> Result<()> {
        let named = |id: &HandleId| self.physical.get(id).copied();
        let mut pages: Vec<PageId> = plan.maps.iter().filter_map(named).collect();
        pages.extend(fresh.iter().map(|fresh| fresh.page));
        pages.extend(plan.last.iter().filter_map(named));
        map(shared, self.pages.ranges[range].end, &pages)
    }

    /// Enters another view of a handle; gives the address behind it.
    fn enter_view(
        &mut self,
        shared: &Shared,
        number: u32,
        at: u64,
        range: RangeId,
        handle: HandleId,
    ) -> u64 {
        let bytes = self.pages.handles[handle].bytes;
        self.pages.map(at, handle, range);
        shared.pages.insert(at, bytes, number);
        shared.count(|stats| {
            stats.mappings += 1;
            stats.remapped_bytes += bytes;
        });
        self.by_age.push_back(at);
        at + bytes
    }
}

/// Lets the ledgers show as free all that is.
fn bring_up_to_date(shared: &Shared, states: &mut [BiasedGuard<'_, HeapState>]) {
    for state in states {
        state.settle_pending(shared);
        state.poll(shared);
    }
}

/// Counts and shows new physical memory.
fn came(shared: &Shared, state: &HeapState, address: u64, bytes: u64, handles: usize) {
    shared.handles_came(bytes);
    shared.count(|stats| stats.mappings += handles as u64);
    let stream = state.key;
    tracing::debug!(bytes, handles, stream, "took physical memory");
    shared.note(|| TraceEvent::SegmentAlloc { address, bytes, stream });
}

/// The sizes of the handles that make up `bytes`.
fn cuts(bytes: u64, mut reserved: u64, capacity: u64, loading: bool) -> Vec<u64> {
    let (mut left, mut sizes) = (bytes, Vec::new());
    while left > 0 {
        let size = cut(left, bytes, reserved, capacity, loading);
        sizes.push(size);
        (left, reserved) = (left - size, reserved + size);
    }
    sizes
}
