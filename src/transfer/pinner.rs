//! The thread that pins homes, and most of the windows before them. Pinning takes the system a
//! quarter of a second for a GiB, so that whoever asks for a unit does not wait for it: until a home
//! is there the window does, and until that is whole a few slots do.
//!
//! The thread takes one after the other, in the order they were asked for, and holds no lock
//! while the system pins. Nobody waits for it but who says so ([`Pinner::wait`]). It is told to
//! end and not joined; what it is pinning then goes back to the pool when the system is done, and
//! [`settle`](crate::device::settle) waits for that.
//!
//! Locks: the queue's is held for a push or a pop. A home's own is never taken under it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};

use super::home::{HomeCell, HomeMemory};
use super::landing::Landing;
use super::window::LateSlots;
use crate::base::{Error, lock, wait};
use crate::device::{GivingUp, Stream};
use crate::pinned::PinnedPool;

/// Pins the windows and homes of one loader.
#[derive(Debug)]
pub(crate) struct Pinner {
    pinned: PinnedPool,
    /// The streams that copy from what is pinned.
    streams: [Stream; 2],
    /// On a simulated device whoever asks does it at once: the clock there moves with the calls
    /// of the driver, and is to move the same way in every run.
    at_once: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Once it is closed, until the thread has let go of all of the above.
    closing: OnceLock<GivingUp>,
}

#[derive(Debug, Default)]
struct Queue {
    /// What was asked for, the first first.
    waiting: VecDeque<Wanted>,
    /// The thread was started.
    started: bool,
    /// The thread is pinning.
    at_work: bool,
    closed: bool,
    refusal: Option<Refusal>,
}

/// What is to be pinned.
#[derive(Debug)]
enum Wanted {
    /// A slot of a window, for chunks of so many bytes.
    Slot(u64, Weak<LateSlots>),
    /// Who drops a home has it left out.
    Home(Weak<HomeCell>),
    /// Memory that another device's loader has pinned and filled.
    Guest(Weak<HomeMemory>),
}

/// What was refused for want of room.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    /// The smallest request, in bytes.
    bytes: u64,
    /// What nobody held of the budget then, in bytes.
    room_bytes: u64,
}

impl Pinner {
    /// For memory that these streams copy from. Its thread begins when the first is asked for.
    pub(super) fn new(pinned: &PinnedPool, streams: [Stream; 2]) -> Arc<Self> {
        Arc::new(Self {
            pinned: pinned.clone(),
            streams,
            at_once: pinned.device().info().simulated,
            queue: Mutex::default(),
            changed: Condvar::new(),
            closing: OnceLock::new(),
        })
    }

    /// Whether asking waits until a home is pinned.
    pub(crate) fn is_at_once(&self) -> bool {
        self.at_once
    }

    /// Has a home pinned, unless it is or is about to be. Waits for nothing, except where it is
    /// done [at once](Self::is_at_once).
    pub(super) fn ask(self: &Arc<Self>, home: &Arc<HomeCell>) {
        if !home.begin() {
            return;
        }
        if self.at_once {
            return self.settle(home);
        }
        if !self.enqueue(Wanted::Home(Arc::downgrade(home))) {
            home.end(None, self.pinned.device());
        }
    }

    /// Has memory that another device's loader has filled pinned for this one's device too, unless
    /// it is or is about to be.
    pub(super) fn ask_for_guest(self: &Arc<Self>, memory: &Arc<HomeMemory>) {
        if !memory.guests.begin(self.pinned.device()) {
            return;
        }
        if self.at_once {
            return memory.open_to(&self.pinned);
        }
        // Where nothing is pinned any more the loader ends.
        self.enqueue(Wanted::Guest(Arc::downgrade(memory)));
    }

    /// Has a slot of a window pinned, for chunks of so many bytes. Where it is refused the window
    /// does with those it has.
    pub(super) fn ask_for_slot(self: &Arc<Self>, chunk_bytes: u64, window: &Arc<LateSlots>) {
        if self.at_once {
            lock(window).extend(self.pin(chunk_bytes, &self.both()));
        } else {
            self.enqueue(Wanted::Slot(chunk_bytes, Arc::downgrade(window)));
        }
    }

    /// False where nothing is pinned any more.
    fn enqueue(self: &Arc<Self>, wanted: Wanted) -> bool {
        let mut queue = lock(&self.queue);
        if queue.closed || !self.has_thread(&mut queue) {
            return false;
        }
        queue.waiting.push_back(wanted);
        drop(queue);
        self.changed.notify_all();
        true
    }

    /// Waits until all that was asked for is pinned or refused, or nothing is pinned any more.
    pub(crate) fn wait(&self) {
        let mut queue = lock(&self.queue);
        while !queue.closed && (queue.at_work || !queue.waiting.is_empty()) {
            queue = wait(&self.changed, queue);
        }
    }

    /// Pins nothing any more. Never blocks.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.queue);
        if queue.started {
            self.closing.get_or_init(GivingUp::new);
        }
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        self.changed.notify_all();
        for wanted in waiting {
            if let Wanted::Home(home) = wanted
                && let Some(home) = home.upgrade()
            {
                home.end(None, self.pinned.device());
            }
        }
    }

    /// Starts the thread before the first request; false where the system gives none.
    fn has_thread(self: &Arc<Self>, queue: &mut Queue) -> bool {
        if !queue.started {
            let pinner = Arc::clone(self);
            let started = std::thread::Builder::new()
                .name("riverbed-pinner".into())
                .spawn(move || pinner.work());
            queue.started = started.is_ok();
            if let Err(error) = started {
                tracing::warn!(%error, "no thread to pin memory with: every load reads its files");
                queue.closed = true;
            }
        }
        queue.started
    }

    fn work(&self) {
        while let Some(wanted) = self.next() {
            match wanted {
                // Dropped meanwhile, and nobody's any more.
                Wanted::Home(home) => {
                    let Some(home) = home.upgrade() else { continue };
                    self.settle(&home);
                }
                Wanted::Guest(memory) => {
                    let Some(memory) = memory.upgrade() else { continue };
                    memory.open_to(&self.pinned);
                }
                Wanted::Slot(chunk_bytes, window) => {
                    let Some(window) = window.upgrade() else { continue };
                    let slot = self.pin_if_room(chunk_bytes, &self.both());
                    lock(&window).extend(slot);
                }
            }
        }
    }

    /// Waits for something to pin; none when it is closed.
    fn next(&self) -> Option<Wanted> {
        let mut queue = lock(&self.queue);
        queue.at_work = false;
        loop {
            if queue.closed {
                return None;
            }
            if let Some(wanted) = queue.waiting.pop_front() {
                queue.at_work = true;
                return Some(wanted);
            }
            self.changed.notify_all();
            queue = wait(&self.changed, queue);
        }
    }

    /// Pins a home, or refuses it: within the budget of its cache, if it is of one, where others
    /// that are needed later make room for it.
    fn settle(&self, home: &HomeCell) {
        home.end(self.pin_home(home), self.pinned.device());
    }

    fn pin_home(&self, home: &HomeCell) -> Option<Landing> {
        let len_bytes = home.plan.len_bytes;
        // Streams are noted with a home when they copy from it.
        let Some(place) = &home.place else { return self.pin_if_room(len_bytes, &[]) };
        let bytes = Landing::bytes_for(len_bytes);
        let claim = match place.admit(bytes) {
            Ok(claim) => claim,
            Err(refused) => {
                home.note_refused(refused.until);
                return None;
            }
        };
        let landing = self.pin_if_room(len_bytes, &[]).or_else(|| {
            let has_room = place.make_room(bytes, self.pinned.device());
            has_room.then(|| self.pin_if_room(len_bytes, &[])).flatten()
        });
        Some(landing?.claimed_by(Some(claim)))
    }

    fn both(&self) -> [&Stream; 2] {
        let [ahead, demand] = &self.streams;
        [ahead, demand]
    }

    /// Pins so many bytes for these streams, unless as much was refused and nobody gave anything back since: each
    /// attempt makes the pool give to the system whatever is free.
    fn pin_if_room(&self, bytes: u64, streams: &[&Stream]) -> Option<Landing> {
        let refusal = lock(&self.queue).refusal;
        let hopeless =
            |refusal: Refusal| bytes >= refusal.bytes && self.room() <= refusal.room_bytes;
        if refusal.is_some_and(hopeless) {
            return None;
        }
        let landing = self.pin(bytes, streams);
        if landing.is_none() {
            let bytes = refusal.map_or(bytes, |refusal| refusal.bytes.min(bytes));
            let refusal = Refusal { bytes, room_bytes: self.room() };
            lock(&self.queue).refusal = Some(refusal);
        }
        landing
    }

    /// What nobody holds of the budget, in bytes.
    fn room(&self) -> u64 {
        let stats = self.pinned.stats();
        let held_bytes = stats.active_bytes + stats.retired_bytes + stats.adopted_bytes;
        self.pinned.budget().bytes.saturating_sub(held_bytes)
    }

    fn pin(&self, bytes: u64, streams: &[&Stream]) -> Option<Landing> {
        match Landing::new(&self.pinned, bytes, streams) {
            Ok(landing) => Some(landing),
            // The budget is spent, or the system pins no more.
            Err(Error::PinnedBudget { .. } | Error::Unsupported { .. }) => None,
            Err(error) => {
                tracing::warn!(%error, "no pinned memory to read into");
                None
            }
        }
    }
}
