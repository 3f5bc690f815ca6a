//! Physical handles, the addresses they are mapped at, and which of those owns which bytes.
//!
//! Invariants
//! 1. Every byte of a handle is idle, or is owned by one of the handle's views and then not
//!    absent in the ledger of that view's arena. All else in the ranges is absent.
//! 2. Only free bytes change their owner, so no address in use is ever changed.
//!
//! Ownership is in bytes, not pages: two blocks may share a page through two views.

mod free;
mod handle;
mod parcel;

use std::collections::{BTreeMap, HashSet};

use slab::Slab;

pub(crate) use self::free::Free;
pub(crate) use self::handle::Handle;
use self::handle::Piece;
pub(crate) use self::parcel::Site;
use self::parcel::{Parcel, Part, Span};
use crate::ledger::{Ledger, SegmentId, SplitChange};

/// Names a handle while it exists.
pub(crate) type HandleId = usize;
/// Names a range while it exists.
pub(crate) type RangeId = usize;

/// The ledgers of all arenas, or of those a step is about.
pub(crate) trait Ledgers {
    /// The ledger of an arena.
    fn of(&mut self, arena: u32) -> &mut Ledger;
    /// Whether what is free in an arena's ledger, or idle in handles made for it, may go to
    /// another.
    fn lends(&self, _arena: u32) -> bool {
        true
    }
    /// Free blocks of an arena changed.
    fn changed(&mut self, arena: u32, split: SplitChange);
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
    /// Such ranges as nothing is mapped in any more.
    pub(crate) spare: Vec<RangeId>,
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
    /// Counts views and handles that were lost to what is found by them.
    losses: u64,
    /// When a stream last was made to wait for another: by who was waited for and who waits.
    ordered_at: BTreeMap<(u32, u32), u64>,
}

impl Pages {
    /// Enters new physical memory, idle, with its first view.
    pub(crate) fn add(&mut self, bytes: u64, home: u64, range: RangeId) -> HandleId {
        let id = self.handles.insert(Handle::new(bytes, self.ranges[range].arena, home));
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
        self.losses += 1;
        if let Some(view) = self.views.remove(&address) {
            self.handles[view.handle].views.retain(|&view| view != address);
        }
    }

    /// Puts a handle out of use.
    pub(crate) fn keep(&mut self, id: HandleId) {
        self.losses += 1;
        self.handles[id].is_kept = true;
    }

    /// Takes a handle out that is wholly idle and has no view any more.
    pub(crate) fn remove(&mut self, id: HandleId) {
        let handle = self.handles.remove(id);
        debug_assert!(handle.views.is_empty() && handle.is_idle());
        self.reserved_bytes -= handle.bytes;
    }

    /// The free runs of a handle, whoever owns them and lends: first byte and end within it.
    pub(crate) fn free_runs(&self, ledgers: &mut dyn Ledgers, id: HandleId) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        self.add_free_runs(ledgers, id, &mut runs);
        runs
    }

    /// Puts the free runs of a handle behind others.
    pub(crate) fn add_free_runs(
        &self,
        ledgers: &mut dyn Ledgers,
        id: HandleId,
        runs: &mut Vec<(u64, u64)>,
    ) {
        let first = runs.len();
        let mut add = |start: u64, end: u64| match runs[first..].last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => runs.push((start, end)),
        };
        let handle = &self.handles[id];
        if handle.is_kept {
            return;
        }
        for &Piece { start, end, owner } in handle.pieces() {
            let Some(view) = owner else {
                if ledgers.lends(handle.arena) {
                    add(start, end);
                }
                continue;
            };
            let Range { arena, segment, .. } = self.ranges[self.views[&view].range];
            if !ledgers.lends(arena) {
                continue;
            }
            ledgers.of(arena).free_parts(segment, view + start, view + end, |from, to| {
                add(from - view, to - view);
            });
        }
    }

    /// True if `taker` has nobody to wait for before all of a handle is its own.
    pub(crate) fn is_ready(&self, id: HandleId, taker: u32) -> bool {
        let handle = &self.handles[id];
        let is_own = |owner| self.stream_of(owner) == taker;
        handle.pieces().iter().all(|piece| match piece.owner {
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

    /// Gives a parcel to the range it lies in.
    pub(crate) fn claim(&mut self, ledgers: &mut dyn Ledgers, parcel: &Parcel<'_>) {
        let Some(&Part { range: taking, .. }) = parcel.parts.first() else { return };
        let taker = self.ranges[taking];
        let others = || parcel.spans.iter().filter(|span| !span.is_own());
        for &Span { bytes, owner, .. } in others() {
            if let Some((range, owned_at)) = owner {
                let giver = self.ranges[range];
                let change = ledgers.of(giver.arena).carve(giver.segment, owned_at, bytes);
                ledgers.changed(giver.arena, change);
            }
        }
        // What comes from several owners is filled at once.
        let mut spans = others().peekable();
        while let Some(&Span { at, mut bytes, .. }) = spans.next() {
            while let Some(next) = spans.next_if(|next| next.at == at + bytes) {
                bytes += next.bytes;
            }
            let change = ledgers.of(taker.arena).fill(taker.segment, at, bytes);
            ledgers.changed(taker.arena, change);
        }
        for &Part { view, handle, from, to, .. } in parcel.parts {
            let handle = &mut self.handles[handle];
            if handle.is_idle() {
                self.used_bytes += handle.bytes;
            }
            handle.lay(Piece { start: from, end: to, owner: Some(view) });
        }
    }

    /// Takes a wholly free handle from its owners: it becomes idle.
    pub(crate) fn disown(&mut self, ledgers: &mut dyn Ledgers, id: HandleId) {
        let handle = &self.handles[id];
        if !handle.is_idle() {
            self.used_bytes -= handle.bytes;
        }
        let mut streams: Vec<u32> = handle.idle_of.clone();
        if handle.pieces().iter().all(|piece| piece.owner.is_some()) {
            streams.clear();
        }
        for &Piece { start, end, owner } in handle.pieces() {
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
        handle.set_owner(None);
        (handle.idle_of, handle.idle_at) = (streams, at);
    }

    /// Takes from a view what is free of what it owns: that becomes idle.
    pub(crate) fn let_go(&mut self, ledgers: &mut dyn Ledgers, address: u64) {
        let Some(&View { handle: id, range }) = self.views.get(&address) else { return };
        let Range { arena, segment, .. } = self.ranges[range];
        let mut free: Vec<(u64, u64)> = Vec::new();
        for piece in self.handles[id].pieces().iter().filter(|piece| piece.owner == Some(address)) {
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
        for (start, end) in free {
            handle.lay(Piece { start, end, owner: None });
        }
        handle.idle_at = at;
        if !handle.idle_of.contains(&stream) {
            handle.idle_of.push(stream);
        }
        if handle.is_idle() {
            self.used_bytes -= handle.bytes;
        }
    }

    /// With nothing in use of the arenas that lend: every byte of theirs becomes idle and their
    /// home ranges begin anew. What is mapped stays, so a program that begins again finds handles
    /// where it made them.
    pub(crate) fn reset(&mut self, ledgers: &mut dyn Ledgers) {
        // Orders from now on are later than what became idle.
        self.clock += 1;
        for (_, Range { arena, segment, .. }) in &self.ranges {
            if ledgers.lends(*arena) {
                let change = ledgers.of(*arena).empty(*segment);
                ledgers.changed(*arena, change);
            }
        }
        let (views, ranges, arenas) = (&self.views, &self.ranges, &self.arenas);
        let arena_of = |view: u64| ranges[views[&view].range].arena;
        let mut given: Vec<Piece> = Vec::new();
        for (_, handle) in &mut self.handles {
            let lent =
                |piece: &&Piece| piece.owner.is_some_and(|view| ledgers.lends(arena_of(view)));
            given.clear();
            given.extend(handle.pieces().iter().filter(lent));
            if given.is_empty() {
                continue;
            }
            if handle.pieces().iter().all(|piece| piece.owner.is_some()) {
                handle.idle_of.clear();
            }
            for piece in &given {
                let stream = piece.owner.map(|view| arenas[arena_of(view) as usize].stream);
                handle.idle_of.extend(stream.filter(|stream| !handle.idle_of.contains(stream)));
                handle.lay(Piece { owner: None, ..*piece });
            }
            handle.idle_at = self.clock;
            if handle.is_idle() {
                self.used_bytes -= handle.bytes;
            }
        }
        for (number, arena) in (0..).zip(&mut self.arenas) {
            if ledgers.lends(number) {
                arena.home_used = 0;
                arena.brk = arena.home.map_or(0, |home| self.ranges[home].start);
            }
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
            handle.set_owner(Some(handle.home));
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
            for &Piece { start, end, owner } in handle.pieces() {
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
