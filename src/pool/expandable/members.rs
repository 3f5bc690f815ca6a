//! The heaps that share a book, each one arena of it, and how they are entered together.

use std::sync::{Arc, Weak};

use super::{Book, Pace};
use crate::base::{BiasedGuard, Error, Result};
use crate::device::Stream;
use crate::fence::StreamKey;
use crate::ledger::{Ledger, SplitChange};
use crate::policy::expandable::{Arena, CLASS, Ledgers};
use crate::pool::heap::{Heap, HeapState};
use crate::pool::shared::Shared;

/// A heap with memory of the book.
#[derive(Debug)]
pub(super) struct Member {
    /// Its place among the allocator's heaps.
    pub(super) number: u32,
    heap: Weak<Heap>,
}

/// The insides of all members, by arena.
pub(super) struct All<'a> {
    /// None where the heap was not entered: it lends nothing, and nothing of it is asked for.
    states: Vec<Option<&'a mut HeapState>>,
}

/// The inside of one heap, for steps that touch no other.
pub(super) struct One<'a>(pub(super) &'a mut HeapState);

impl Book {
    /// Which arena a heap is, with `stream` as its stream.
    pub(super) fn meet(&mut self, heap: &Arc<Heap>, stream: &Stream) -> u32 {
        let known = self.members.iter().position(|member| member.number == heap.number);
        let at = known.unwrap_or_else(|| {
            self.members.push(Member { number: heap.number, heap: Arc::downgrade(heap) });
            self.pages.arenas.push(Arena { stream: u32::MAX, ..Arena::default() });
            self.paces.push(Pace::default());
            self.members.len() - 1
        });
        let known = self.streams.get(self.pages.arenas[at].stream as usize);
        let key = StreamKey::of(stream);
        if known.and_then(Option::as_ref).is_none_or(|known| StreamKey::of(known) != key) {
            self.streams.push(Some(stream.clone()));
            self.pages.arenas[at].stream = self.streams.len() as u32 - 1;
        }
        at as u32
    }

    /// The heaps, by arena.
    ///
    /// # Errors
    /// The allocator is gone.
    pub(super) fn heaps(&self) -> Result<Vec<Arc<Heap>>> {
        let heaps: Option<Vec<_>> =
            self.members.iter().map(|member| member.heap.upgrade()).collect();
        heaps.ok_or_else(|| Error::invalid("allocator", "gone", "keep it while it is used"))
    }
}

/// Shows `look` the insides of all members at one moment, with nothing put off: what changes
/// beside a block that only counts as free would make its count wrong. The book's lock is held, so no two
/// threads do this to the same heaps; everybody who is in several enters them in this order.
///
/// # Errors
/// The thread is inside one of them already.
pub(super) fn at_once<R>(heaps: &[Arc<Heap>], look: impl FnOnce(&mut All<'_>) -> R) -> Result<R> {
    at_once_but(heaps, &[], look)
}

/// As [`at_once`], without entering the heaps of the arenas `apart`.
///
/// # Errors
/// The thread is inside one of the others already.
pub(super) fn at_once_but<R>(
    heaps: &[Arc<Heap>],
    apart: &[u32],
    look: impl FnOnce(&mut All<'_>) -> R,
) -> Result<R> {
    if let [heap] = heaps {
        let mut state = heap.enter()?;
        state.settle_pending(&heap.shared);
        return Ok(look(&mut All { states: vec![Some(&mut *state)] }));
    }
    let mut order: Vec<usize> = (0..heaps.len()).collect();
    order.retain(|&at| !apart.contains(&(at as u32)));
    order.sort_unstable_by_key(|&at| heaps[at].number);
    let mut guards: Vec<Option<BiasedGuard<'_, HeapState>>> = heaps.iter().map(|_| None).collect();
    for at in order {
        let mut state = heaps[at].enter()?;
        state.settle_pending(&heaps[at].shared);
        guards[at] = Some(state);
    }
    Ok(look(&mut All { states: guards.iter_mut().map(|state| state.as_deref_mut()).collect() }))
}

impl<'a> All<'a> {
    /// The members' insides, of those of all heaps.
    pub(super) fn of(
        members: &[Member],
        states: impl Iterator<Item = (u32, &'a mut HeapState)>,
    ) -> Option<Self> {
        let mut found: Vec<Option<&mut HeapState>> = members.iter().map(|_| None).collect();
        for (number, state) in states {
            if let Some(at) = members.iter().position(|member| member.number == number) {
                found[at] = Some(state);
            }
        }
        found.iter().all(Option::is_some).then_some(Self { states: found })
    }

    /// Lets the ledgers show as free what other streams are done with.
    pub(super) fn bring_up_to_date(&mut self, shared: &Shared) {
        for state in self.states() {
            state.poll(shared);
        }
    }

    /// These arenas are as if their heaps had not been entered.
    pub(super) fn leave_out(&mut self, arenas: &[u32]) {
        for &arena in arenas {
            self.states[arena as usize] = None;
        }
    }

    /// The inside of one that was entered.
    pub(super) fn state(&mut self, arena: u32) -> &mut HeapState {
        let state = self.states[arena as usize].as_deref_mut();
        // Never `None`: a miss's own arena is never left alone, and `Ledgers::lends` keeps all
        // else that was not entered out of what is seen as free, so no claim names it.
        state.expect("what lends nothing is not asked for")
    }

    /// Those that were entered, by arena.
    pub(super) fn states(&mut self) -> impl Iterator<Item = &mut HeapState> {
        self.states.iter_mut().filter_map(|state| state.as_deref_mut())
    }

    /// The same with their numbers.
    pub(super) fn numbered(&mut self) -> impl Iterator<Item = (u32, &mut HeapState)> {
        (0..).zip(&mut self.states).filter_map(|(at, state)| Some((at, state.as_deref_mut()?)))
    }
}

impl Ledgers for All<'_> {
    fn of(&mut self, arena: u32) -> &mut Ledger {
        &mut self.state(arena).ledger
    }

    fn lends(&self, arena: u32) -> bool {
        self.states[arena as usize].is_some()
    }

    fn changed(&mut self, arena: u32, split: SplitChange) {
        self.state(arena).note_moved(CLASS, split);
    }
}

impl Ledgers for One<'_> {
    fn of(&mut self, _arena: u32) -> &mut Ledger {
        &mut self.0.ledger
    }

    fn changed(&mut self, _arena: u32, split: SplitChange) {
        self.0.note_moved(CLASS, split);
    }
}
