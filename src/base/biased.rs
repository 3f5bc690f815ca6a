//! A lock for data that one thread uses nearly always.
//!
//! The thread that uses it is its owner and enters with two plain stores and three loads: no
//! atomic read-modify-write, which alone would cost more than a whole allocation. Anyone else
//! takes an ordinary mutex, withdraws the ownership, and waits until the owner is out.
//!
//! Why that excludes: the owner stores `busy` and then loads `owner`; the other stores `owner`
//! and then loads `busy`. With a full barrier between store and load on both sides one of them
//! sees the other's store (Dekker). The owner's barrier is a compiler fence, because the other
//! side's barrier runs on the owner's core too (`membarrier(2)`, private expedited). Where the
//! system has no such call, nobody ever becomes the owner: a fence on every entry would cost what
//! the mutex does. The interleavings are modelled in `tests/loom_biased.rs`.
//!
//! A thread that was the owner may come late: it saw its own token, was held up, and sets `busy`
//! when another one has long been the owner. So every owner has a `busy` of its own for as long
//! as it runs: of running threads that would share one, only the first is ever an owner.
//!
//! Ownership goes to a thread that entered several times in a row with nobody between; each
//! withdrawal doubles how often, so that threads that take turns end up with a plain mutex.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::sync::{
    AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, barrier, is_over, lock, try_lock,
};

/// Entries in a row after which a thread owns the data for the first time, and at most.
const FIRST_STREAK: u32 = 1;
const LONGEST_STREAK: u32 = 1024;

/// How many running threads may be owners of a lock; others use the mutex. Tokens are numbers
/// in a row, so that threads started together have places of their own.
const PLACES: usize = 64;

/// Data behind a biased lock.
pub(crate) struct Biased<T> {
    /// The token of the thread that enters without the mutex; 0 is nobody. Raised by that
    /// thread with the mutex held, cleared by others with the mutex held.
    owner: AtomicU64,
    /// The owner is inside. Each is written by the one thread that has the place.
    busy: [AtomicBool; PLACES],
    /// Who is inside by the mutex; 0 is nobody.
    inside: AtomicU64,
    turns: Mutex<Turns>,
    value: UnsafeCell<T>,
}

// SAFETY: a guard gives access to one thread at a time, as a mutex's does.
unsafe impl<T: Send> Sync for Biased<T> {}

/// Who entered by the mutex lately. Guards `Biased::value` while `owner` is 0.
struct Turns {
    last: u64,
    streak: u32,
    needed: u32,
    /// Who has which place; 0 is nobody.
    places: [u64; PLACES],
}

/// The place of a thread, which it may have or not.
#[inline(always)]
fn place(me: u64) -> usize {
    me as usize % PLACES
}

impl Turns {
    /// True if the thread `me` has its place, from now on at least. One that does not get it
    /// asks again after more entries than before.
    #[cold]
    fn has_place(&mut self, me: u64) -> bool {
        let place = &mut self.places[place(me)];
        if *place == 0 || *place != me && is_over(*place) {
            *place = me;
        }
        let has = *place == me;
        if !has {
            self.streak = 0;
            self.needed = (self.needed * 2).min(LONGEST_STREAK);
        }
        has
    }
}

/// The thread that asks is inside already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reentered;

/// Access to the data. Not `Send`, for it may hold a mutex.
pub(crate) struct BiasedGuard<'a, T> {
    lock: &'a Biased<T>,
    /// The place of the thread that is inside.
    place: usize,
    turns: Option<MutexGuard<'a, Turns>>,
}

impl<T> Biased<T> {
    pub(crate) fn new(value: T) -> Self {
        barrier::prepare();
        Self {
            owner: AtomicU64::new(0),
            busy: std::array::from_fn(|_| AtomicBool::new(false)),
            inside: AtomicU64::new(0),
            turns: Mutex::new(Turns {
                last: 0,
                streak: 0,
                needed: FIRST_STREAK,
                places: [0; PLACES],
            }),
            value: UnsafeCell::new(value),
        }
    }

    /// Enters as the thread `me`; waits for whoever is inside.
    ///
    /// # Errors
    /// The thread is inside already: waiting would never end.
    #[inline]
    pub(crate) fn enter(&self, me: u64) -> Result<BiasedGuard<'_, T>, Reentered> {
        match self.enter_as_owner(me)? {
            Some(guard) => Ok(guard),
            None => self.enter_by_mutex(me),
        }
    }

    /// Enters if that takes nothing from anybody: as the owner, or where nobody owns the data
    /// and nobody is inside.
    #[inline]
    pub(crate) fn try_enter(&self, me: u64) -> Option<BiasedGuard<'_, T>> {
        match self.enter_as_owner(me) {
            Ok(Some(guard)) => Some(guard),
            Ok(None) => self.try_enter_by_mutex(me),
            Err(Reentered) => None,
        }
    }

    /// Enters if the thread `me` owns the data and is not inside already. The quickest way in.
    /// Of a number that is no thread's nothing is ever the owner.
    #[inline(always)]
    pub(crate) fn as_owner(&self, me: u64) -> Option<Owner<'_, T>> {
        let busy = &self.busy[place(me)];
        if self.owner.load(Ordering::Relaxed) != me || busy.load(Ordering::Relaxed) {
            return None;
        }
        busy.store(true, Ordering::Relaxed);
        barrier::light();
        let inside = Owner { busy, value: &self.value };
        (self.owner.load(Ordering::Relaxed) == me).then_some(inside)
    }

    #[inline]
    fn enter_as_owner(&self, me: u64) -> Result<Option<BiasedGuard<'_, T>>, Reentered> {
        if self.owner.load(Ordering::Relaxed) != me {
            return Ok(None);
        }
        let place = place(me);
        let busy = &self.busy[place];
        if busy.load(Ordering::Relaxed) {
            return Err(Reentered);
        }
        busy.store(true, Ordering::Relaxed);
        barrier::light();
        if self.owner.load(Ordering::Relaxed) == me {
            return Ok(Some(BiasedGuard { lock: self, place, turns: None }));
        }
        busy.store(false, Ordering::Release);
        Ok(None)
    }

    #[cold]
    fn enter_by_mutex(&self, me: u64) -> Result<BiasedGuard<'_, T>, Reentered> {
        if self.inside.load(Ordering::Relaxed) == me {
            return Err(Reentered);
        }
        let mut turns = lock(&self.turns);
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != 0 {
            self.owner.store(0, Ordering::Relaxed);
            barrier::heavy();
            while self.busy[place(owner)].load(Ordering::Acquire) {
                super::sync::yield_now();
            }
            turns.needed = (turns.needed * 2).min(LONGEST_STREAK);
        }
        Ok(self.inside_by_mutex(me, turns))
    }

    #[cold]
    fn try_enter_by_mutex(&self, me: u64) -> Option<BiasedGuard<'_, T>> {
        if self.inside.load(Ordering::Relaxed) == me {
            return None;
        }
        let turns = try_lock(&self.turns)?;
        // With the mutex held nobody else clears or raises this.
        if self.owner.load(Ordering::Relaxed) != 0 {
            return None;
        }
        Some(self.inside_by_mutex(me, turns))
    }

    fn inside_by_mutex<'a>(
        &'a self,
        me: u64,
        mut turns: MutexGuard<'a, Turns>,
    ) -> BiasedGuard<'a, T> {
        self.inside.store(me, Ordering::Relaxed);
        turns.streak = if turns.last == me { turns.streak.saturating_add(1) } else { 1 };
        turns.last = me;
        BiasedGuard { lock: self, place: place(me), turns: Some(turns) }
    }
}

/// Access of the owner alone.
pub(crate) struct Owner<'a, T> {
    busy: &'a AtomicBool,
    value: &'a UnsafeCell<T>,
}

impl<T> Owner<'_, T> {
    /// The data.
    #[inline(always)]
    pub(crate) fn get(&mut self) -> &mut T {
        // SAFETY: as for a guard of the owner, whose `busy` is set for as long as this lives.
        unsafe { &mut *self.value.get() }
    }
}

impl<T> Drop for Owner<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.busy.store(false, Ordering::Release);
    }
}

impl<T> Drop for BiasedGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        match &mut self.turns {
            None => self.lock.busy[self.place].store(false, Ordering::Release),
            Some(turns) => {
                self.lock.inside.store(0, Ordering::Relaxed);
                let me = turns.last;
                if barrier::is_asymmetric() && turns.streak >= turns.needed && turns.has_place(me) {
                    // From here on this thread may enter without the mutex; it is the one
                    // that was inside last, so nothing is missed.
                    self.lock.owner.store(me, Ordering::Relaxed);
                }
            }
        }
    }
}

impl<T> Deref for BiasedGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: a guard exists only while its thread is the one inside: as the owner with
        // `busy` seen by whoever withdraws the ownership, or with the mutex and no owner.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for BiasedGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; and a thread that is inside is refused to enter again.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> fmt::Debug for Owner<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for BiasedGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BiasedGuard").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Biased<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Biased").finish_non_exhaustive()
    }
}
