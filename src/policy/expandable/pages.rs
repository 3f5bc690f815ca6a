//! Physical handles, the addresses they are mapped at, and which of those owns which bytes.
//!
//! Invariants
//! 1. Every byte of a handle is idle, or is owned by one of the handle's views and then not
//!    absent in the ledger of that view's arena. All else in the ranges is absent.
//! 2. Only free bytes change their owner, so no address in use is ever changed.
//!
//! Ownership is in bytes, not pages: two blocks may share a page through two views.

mod spans;

use std::collections::{BTreeMap, HashMap, HashSet};

use slab::Slab;

use self::spans::Span;

use crate::ledger::{Ledger, SegmentId, SplitChange};

/// Names a handle while it exists.
pub(crate) type HandleId = usize;
/// Names a range while it exists.
pub(crate) type RangeId = usize;

/// The ledgers of all arenas, or of those a step is about.
pub(crate) trait Ledgers {
    /// The ledger of an arena.
    fn of(&mut self, arena: u32) -> &mut Ledger;
    /// Free blocks of an arena changed.
    fn changed(&mut self, arena: u32, split: SplitChange);
}

/// Physical memory, mapped whole and never split. Sizes in bytes.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) bytes: u64,
    /// The arena it was made for.
    pub(crate) arena: u32,
    /// Its first view, which stays.
    pub(crate) home: u64,
    /// All its views.
    pub(crate) views: Vec<u64>,
    /// What tiles it, in order.
    pieces: Vec<Piece>,
    /// The streams whose work may still use what is idle of it.
    pub(crate) idle_of: Vec<u32>,
    /// When that became idle.
    idle_at: u64,
    /// The driver would not take it back: nothing is served from it.
    pub(crate) is_kept: bool,
}

/// Bytes of a handle with one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    /// The view that owns them; none where they are idle.
    owner: Option<u64>,
}

/// A mapping of a handle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) handle: HandleId,
    pub(crate) range: RangeId,
}

/// Address space of an arena, mapped from its start on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) arena: u32,
    /// What it is in the arena's ledger.
    pub(crate) segment: SegmentId,
    pub(crate) start: u64,
    /// Where the next view goes.
    pub(crate) end: u64,
    /// Where the address space ends.
    pub(crate) limit: u64,
}

/// What a stream has of the pages.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// The stream's number, as in [`Pages::users`].
    pub(crate) stream: u32,
    /// Where handles have their first view; grows like a heap.
    pub(crate) home: Option<RangeId>,
    /// The handles there, in order of address.
    pub(crate) home_handles: Vec<HandleId>,
    /// How many of them are in use since the last reset.
    pub(crate) home_used: usize,
    /// The end of those.
    pub(crate) brk: u64,
    /// Where free handles are mapped behind one another.
    pub(crate) runs: Vec<RangeId>,
}

/// Everything physical of one allocator.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) handles: Slab<Handle>,
    pub(crate) views: BTreeMap<u64, View>,
    pub(crate) ranges: Slab<Range>,
    pub(crate) arenas: Vec<Arena>,
    pub(crate) reserved_bytes: u64,
    /// In handles that are not wholly idle.
    pub(crate) used_bytes: u64,
    /// Counts resets and orders.
    clock: u64,
    /// When a stream last was made to wait for another: by who was waited for and who waits.
    ordered_at: HashMap<(u32, u32), u64>,
}

impl Handle {
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.pieces[..], [Piece { owner: None, .. }])
    }

    /// The view that owns all of it.
    pub(crate) fn sole_owner(&self) -> Option<u64> {
        match self.pieces[..] {
            [Piece { owner, .. }] => owner,
            _ => None,
        }
    }

    pub(crate) fn owns_any(&self, view: u64) -> bool {
        self.pieces.iter().any(|piece| piece.owner == Some(view))
    }

    #[cfg(test)]
    pub(super) fn owns_within(&self, view: u64, from: u64, to: u64) -> bool {
        let within = |piece: &&Piece| piece.start < to && from < piece.end;
        self.pieces.iter().filter(within).any(|piece| piece.owner == Some(view))
    }

    pub(crate) fn idle_parts(&self) -> Vec<(u64, u64)> {
        let idle = self.pieces.iter().filter(|piece| piece.owner.is_none());
        idle.map(|piece| (piece.start, piece.end)).collect()
    }
}

impl Pages {
    /// Enters new physical memory, idle, with its first view.
    pub(crate) fn add(&mut self, bytes: u64, home: u64, range: RangeId) -> HandleId {
        let pieces = vec![Piece { start: 0, end: bytes, owner: None }];
        let (idle_of, idle_at) = (Vec::new(), 0);
        let arena = self.ranges[range].arena;
        let handle =
            Handle { bytes, arena, home, views: vec![], pieces, idle_of, idle_at, is_kept: false };
        let id = self.handles.insert(handle);
        self.reserved_bytes += bytes;
        self.map(home, id, range);
        id
    }

    /// Enters a view, all of which lies within the range.
    pub(crate) fn map(&mut self, address: u64, handle: HandleId, range: RangeId) {
        self.views.insert(address, View { handle, range });
        let entry = &mut self.handles[handle];
        entry.views.push(address);
        let Range { end, limit, .. } = &mut self.ranges[range];
        *end = (*end).max(address + entry.bytes);
        debug_assert!(end <= limit, "mapped beyond the end of the range");
    }

    /// Takes a view out that owns nothing.
    pub(crate) fn unmap(&mut self, address: u64) {
        if let Some(view) = self.views.remove(&address) {
            self.handles[view.handle].views.retain(|&view| view != address);
        }
    }

    /// Takes a handle out that is wholly idle and has no view any more.
    pub(crate) fn remove(&mut self, id: HandleId) {
        let handle = self.handles.remove(id);
        debug_assert!(handle.views.is_empty() && handle.is_idle());
        self.reserved_bytes -= handle.bytes;
    }

    /// The free runs of a handle, whoever owns them: first byte and end within it.
    pub(crate) fn free_runs(&self, ledgers: &mut dyn Ledgers, id: HandleId) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut add = |start: u64, end: u64| match runs.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => runs.push((start, end)),
        };
        let handle = &self.handles[id];
        if handle.is_kept {
            return Vec::new();
        }
        for &Piece { start, end, owner } in &handle.pieces {
            let Some(view) = owner else {
                add(start, end);
                continue;
            };
            let Range { arena, segment, .. } = self.ranges[self.views[&view].range];
            ledgers.of(arena).free_parts(segment, view + start, view + end, |from, to| {
                add(from - view, to - view);
            });
        }
        runs
    }

    /// True if `bytes` from `address` are mapped, all free, and none of them twice.
    pub(crate) fn is_usable(&self, ledgers: &mut dyn Ledgers, address: u64, bytes: u64) -> bool {
        let Some(parts) = self.parts(address, bytes) else { return false };
        if self.are_apart(&parts) {
            return self.spans(&parts).iter().all(|span| self.is_free(ledgers, span));
        }
        let mut seen: HashMap<HandleId, Vec<(u64, u64)>> = HashMap::new();
        parts.into_iter().all(|(_, view, from, to)| {
            let seen = seen.entry(view.handle).or_default();
            let once = seen.iter().all(|&(start, end)| end <= from || to <= start);
            seen.push((from, to));
            let runs = self.free_runs(ledgers, view.handle);
            once && runs.iter().any(|&(start, end)| start <= from && to <= end)
        })
    }

    /// The streams that `taker` has to wait for before `bytes` from `address` are its own.
    pub(crate) fn users(&self, address: u64, bytes: u64, taker: u32) -> Vec<u32> {
        let parts = self.parts(address, bytes).unwrap_or_default();
        let spans = self.spans(&parts);
        let owners = spans.iter().filter_map(|span| span.owner.filter(|&(_, at)| at != span.at));
        let stream = |range: RangeId| self.arenas[self.ranges[range].arena as usize].stream;
        let mut users: Vec<u32> = owners.map(|(range, _)| stream(range)).collect();
        if spans.iter().any(|span| span.owner.is_none()) {
            for (_, View { handle, .. }, from, to) in parts {
                let handle = &self.handles[handle];
                let is_idle =
                    |piece: &Piece| piece.owner.is_none() && piece.start < to && from < piece.end;
                if handle.pieces.iter().any(is_idle) {
                    users.extend(self.idle_users_of(handle, taker));
                }
            }
        }
        users.sort_unstable();
        users.dedup();
        users.retain(|&user| user != taker);
        users
    }

    /// True if `taker` has nobody to wait for before all of a handle is its own.
    pub(crate) fn is_ready(&self, id: HandleId, taker: u32) -> bool {
        let handle = &self.handles[id];
        let is_own = |owner| self.stream_of(owner) == taker;
        handle.pieces.iter().all(|piece| match piece.owner {
            Some(owner) => is_own(owner),
            None => self.idle_users_of(handle, taker).next().is_none(),
        })
    }

    /// The streams that `taker` has to wait for before what is idle of a handle is its own.
    fn idle_users_of<'a>(
        &'a self,
        handle: &'a Handle,
        taker: u32,
    ) -> impl Iterator<Item = u32> + 'a {
        let ordered_at = move |user: u32| self.ordered_at.get(&(user, taker));
        let unordered = move |user: u32| ordered_at(user).is_none_or(|&at| at < handle.idle_at);
        handle.idle_of.iter().copied().filter(move |&user| user != taker && unordered(user))
    }

    /// `taker` waits for everything `user` was given by now.
    pub(crate) fn note_order(&mut self, user: u32, taker: u32) {
        self.clock += 1;
        self.ordered_at.insert((user, taker), self.clock);
    }

    /// Gives `bytes` from `address`, which [are usable](Self::is_usable), to that address.
    pub(crate) fn claim(&mut self, ledgers: &mut dyn Ledgers, address: u64, bytes: u64) {
        let parts = self.parts(address, bytes).unwrap_or_default();
        let Some(&(_, View { range: taking, .. }, ..)) = parts.first() else { return };
        let taker = self.ranges[taking];
        for Span { at, bytes, owner } in self.spans(&parts) {
            if let Some((range, owned_at)) = owner {
                if owned_at == at {
                    continue;
                }
                let giver = self.ranges[range];
                let change = ledgers.of(giver.arena).carve(giver.segment, owned_at, bytes);
                ledgers.changed(giver.arena, change);
            }
            let change = ledgers.of(taker.arena).fill(taker.segment, at, bytes);
            ledgers.changed(taker.arena, change);
        }
        for (view, View { handle, .. }, from, to) in parts {
            self.own_part(handle, view, from, to);
        }
    }

    /// Lets a view own a part of its handle.
    fn own_part(&mut self, id: HandleId, view: u64, from: u64, to: u64) {
        let handle = &mut self.handles[id];
        if handle.is_idle() {
            self.used_bytes += handle.bytes;
        }
        let owned = Piece { start: from, end: to, owner: Some(view) };
        if to - from == handle.bytes {
            handle.pieces.clear();
            handle.pieces.push(owned);
        } else {
            handle.pieces = overlaid(&handle.pieces, vec![owned]);
        }
    }

    /// Takes a wholly free handle from its owners: it becomes idle.
    pub(crate) fn disown(&mut self, ledgers: &mut dyn Ledgers, id: HandleId) {
        let handle = &self.handles[id];
        if !handle.is_idle() {
            self.used_bytes -= handle.bytes;
        }
        let whole = Piece { start: 0, end: handle.bytes, owner: None };
        let mut streams: Vec<u32> = handle.idle_of.clone();
        if handle.pieces.iter().all(|piece| piece.owner.is_some()) {
            streams.clear();
        }
        for &Piece { start, end, owner } in &handle.pieces {
            let Some(owner) = owner else { continue };
            let Range { arena, segment, .. } = self.ranges[self.views[&owner].range];
            let change = ledgers.of(arena).carve(segment, owner + start, end - start);
            ledgers.changed(arena, change);
            streams.push(self.arenas[arena as usize].stream);
        }
        streams.sort_unstable();
        streams.dedup();
        let at = self.clock + 1;
        let handle = &mut self.handles[id];
        handle.pieces = vec![whole];
        (handle.idle_of, handle.idle_at) = (streams, at);
    }

    /// Takes from a view what is free of what it owns: that becomes idle.
    pub(crate) fn let_go(&mut self, ledgers: &mut dyn Ledgers, address: u64) {
        let Some(&View { handle: id, range }) = self.views.get(&address) else { return };
        let Range { arena, segment, .. } = self.ranges[range];
        let mut free: Vec<(u64, u64)> = Vec::new();
        for piece in self.handles[id].pieces.iter().filter(|piece| piece.owner == Some(address)) {
            let (from, to) = (address + piece.start, address + piece.end);
            ledgers.of(arena).free_parts(segment, from, to, |from, to| {
                free.push((from - address, to - address));
            });
        }
        if free.is_empty() {
            return;
        }
        let stream = self.arenas[arena as usize].stream;
        for &(from, to) in &free {
            let change = ledgers.of(arena).carve(segment, address + from, to - from);
            ledgers.changed(arena, change);
        }
        let at = self.clock + 1;
        let handle = &mut self.handles[id];
        let idle = free.into_iter().map(|(start, end)| Piece { start, end, owner: None });
        handle.pieces = overlaid(&handle.pieces, idle.collect());
        handle.idle_at = at;
        if !handle.idle_of.contains(&stream) {
            handle.idle_of.push(stream);
        }
        if handle.is_idle() {
            self.used_bytes -= handle.bytes;
        }
    }

    /// With nothing in use: every byte becomes idle and every home range begins anew. What is
    /// mapped stays, so a program that begins again finds handles where it made them.
    pub(crate) fn reset(&mut self, ledgers: &mut dyn Ledgers) {
        // Orders from now on are later than what became idle.
        self.clock += 1;
        for (_, Range { arena, segment, .. }) in &self.ranges {
            let change = ledgers.of(*arena).empty(*segment);
            ledgers.changed(*arena, change);
        }
        let (views, ranges, arenas) = (&self.views, &self.ranges, &self.arenas);
        let stream_of = |view: u64| arenas[ranges[views[&view].range].arena as usize].stream;
        for (_, handle) in &mut self.handles {
            if handle.pieces.iter().all(|piece| piece.owner.is_some()) {
                handle.idle_of.clear();
            }
            for owner in handle.pieces.iter().filter_map(|piece| piece.owner) {
                let stream = stream_of(owner);
                if !handle.idle_of.contains(&stream) {
                    handle.idle_of.push(stream);
                }
            }
            handle.pieces.truncate(1);
            handle.pieces[0] = Piece { start: 0, end: handle.bytes, owner: None };
            handle.idle_at = self.clock;
        }
        self.used_bytes = 0;
        for arena in &mut self.arenas {
            arena.home_used = 0;
            arena.brk = arena.home.map_or(0, |home| self.ranges[home].start);
        }
    }

    /// Moves the end of a home range up over handles that are wholly idle and that no other
    /// stream has to be waited for, until `wanted` bytes are there. False if the next is not so.
    pub(crate) fn take_up(&mut self, ledgers: &mut dyn Ledgers, number: u32, wanted: u64) -> bool {
        let arena = &mut self.arenas[number as usize];
        let Some(home) = arena.home else { return false };
        let (start, stream) = (arena.brk, arena.stream);
        while arena.brk - start < wanted {
            let Some(&id) = arena.home_handles.get(arena.home_used) else { break };
            let handle = &mut self.handles[id];
            let is_done = |&user: &u32| {
                let ordered_at = || self.ordered_at.get(&(user, stream));
                user == stream || ordered_at().is_some_and(|&at| at >= handle.idle_at)
            };
            let ready = handle.home == arena.brk && !handle.is_kept && handle.is_idle();
            if !ready || !handle.idle_of.iter().all(is_done) {
                break;
            }
            handle.pieces[0].owner = Some(handle.home);
            self.used_bytes += handle.bytes;
            arena.home_used += 1;
            arena.brk += handle.bytes;
        }
        let bytes = arena.brk - start;
        if bytes > 0 {
            let change = ledgers.of(number).fill(self.ranges[home].segment, start, bytes);
            ledgers.changed(number, change);
        }
        bytes > 0
    }

    /// Nothing enqueued so far uses what is idle: the host waited for all streams.
    pub(crate) fn forget_users(&mut self) {
        for (_, handle) in &mut self.handles {
            handle.idle_of.clear();
        }
        self.ordered_at.clear();
    }

    /// After handles left: home ranges end behind what they still have.
    pub(crate) fn settle_homes(&mut self) {
        for arena in &mut self.arenas {
            let Some(home) = arena.home else { continue };
            let handles = &self.handles;
            let range = &mut self.ranges[home];
            let end = |id: HandleId| handles[id].home + handles[id].bytes;
            let brk = arena.brk;
            let below = |&&id: &&HandleId| handles[id].home < brk;
            arena.home_handles.retain(|&id| handles.contains(id) && in_range(range, &handles[id]));
            arena.home_used = arena.home_handles.iter().filter(below).count();
            let used = &arena.home_handles[..arena.home_used];
            arena.brk = used.last().map_or(range.start, |&id| end(id));
            range.end = arena.home_handles.last().map_or(range.start, |&id| end(id));
        }
    }

    /// All handles.
    pub(crate) fn ids(&self) -> Vec<HandleId> {
        self.handles.iter().map(|(id, _)| id).collect()
    }

    /// Bytes nobody owns.
    pub(crate) fn idle_bytes(&self) -> u64 {
        let idle = self.handles.iter().flat_map(|(_, handle)| handle.idle_parts());
        idle.map(|(start, end)| end - start).sum()
    }

    /// The streams whose work may still use what is idle.
    pub(crate) fn idle_users(&self) -> HashSet<u32> {
        self.handles.iter().flat_map(|(_, handle)| &handle.idle_of).copied().collect()
    }

    /// The arena in whose range a view lies.
    pub(crate) fn arena_of(&self, view: u64) -> Option<u32> {
        self.views.get(&view).map(|view| self.ranges[view.range].arena)
    }

    fn stream_of(&self, view: u64) -> u32 {
        self.arenas[self.ranges[self.views[&view].range].arena as usize].stream
    }

    /// Proves the invariants against the ledgers of all arenas.
    pub(crate) fn check(&self, ledgers: &mut dyn Ledgers) -> Result<(), String> {
        let mut owned = vec![0; self.arenas.len()];
        let (mut reserved, mut used) = (0, 0);
        for (id, handle) in &self.handles {
            reserved += handle.bytes;
            used += if handle.is_idle() { 0 } else { handle.bytes };
            let mut at = 0;
            for &Piece { start, end, owner } in &handle.pieces {
                if start != at || end <= start {
                    return Err(format!("handle {id} is not tiled at {at:#x}"));
                }
                at = end;
                let Some(owner) = owner else { continue };
                let view = self.views.get(&owner).filter(|view| view.handle == id);
                let view = view.ok_or_else(|| format!("{owner:#x} is no view of handle {id}"))?;
                let Range { arena, segment, .. } = self.ranges[view.range];
                let there = present_bytes(ledgers.of(arena), segment, owner + start, owner + end);
                if there != end - start {
                    return Err(format!("{owner:#x} owns bytes its ledger lacks"));
                }
                owned[arena as usize] += end - start;
            }
            if at != handle.bytes {
                return Err(format!("handle {id} is not tiled to its end"));
            }
        }
        if (reserved, used) != (self.reserved_bytes, self.used_bytes) {
            return Err(format!("the pages hold {reserved} bytes, {used} of them used"));
        }
        for (arena, owned) in owned.into_iter().enumerate() {
            let mut there = 0;
            for (_, range) in self.ranges.iter().filter(|(_, range)| range.arena == arena as u32) {
                let ledger = ledgers.of(range.arena);
                there += present_bytes(ledger, range.segment, range.start, range.limit);
            }
            if there != owned {
                return Err(format!("arena {arena} owns {owned} bytes, its ledger has {there}"));
            }
        }
        Ok(())
    }
}

/// What tiles a handle once `over`, in order, is laid over what did.
fn overlaid(under: &[Piece], over: Vec<Piece>) -> Vec<Piece> {
    let mut cuts: Vec<u64> = under.iter().chain(&over).flat_map(|p| [p.start, p.end]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut tiles: Vec<Piece> = Vec::new();
    for pair in cuts.windows(2) {
        let covers = |piece: &&Piece| piece.start <= pair[0] && pair[1] <= piece.end;
        let Some(top) = over.iter().find(covers).or_else(|| under.iter().find(covers)) else {
            continue;
        };
        match tiles.last_mut() {
            Some(last) if last.owner == top.owner => last.end = pair[1],
            _ => tiles.push(Piece { start: pair[0], end: pair[1], owner: top.owner }),
        }
    }
    tiles
}

fn in_range(range: &Range, handle: &Handle) -> bool {
    (range.start..range.limit).contains(&handle.home)
}

/// How many bytes of the addresses are not absent.
fn present_bytes(ledger: &mut Ledger, range: SegmentId, from: u64, to: u64) -> u64 {
    use crate::ledger::State;
    let mut present = 0;
    let mut at = from;
    while at < to {
        let id = ledger.block_at(range, at);
        let block = &ledger[id];
        let end = (block.address + block.bytes).min(to);
        if block.state != State::Absent {
            present += end - at;
        }
        at = end;
    }
    present
}
