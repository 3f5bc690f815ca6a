//! Frees from other threads, on their way to whoever enters the heap next. Putting one in takes
//! no lock and no memory while there is room; looking whether there is any is one load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::base::lock;

/// How many wait without taking memory.
const ROOM: usize = 128;

/// A queue of many senders, emptied by one at a time.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    /// Set after something was put in, cleared before everything is taken out: what is put in
    /// meanwhile sets it again.
    has_any: AtomicBool,
    sender: Sender<T>,
    receiver: Receiver<T>,
    /// What found no room.
    overflow: Mutex<Vec<T>>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let (sender, receiver) = bounded(ROOM);
        Self { has_any: AtomicBool::new(false), sender, receiver, overflow: Mutex::default() }
    }
}

impl<T> Mailbox<T> {
    /// Never blocks for longer than another thread's push into the overflow.
    pub(super) fn put(&self, thing: T) {
        // Both ends live as long as this does, so the only refusal is "full".
        if let Err(TrySendError::Full(thing) | TrySendError::Disconnected(thing)) =
            self.sender.try_send(thing)
        {
            lock(&self.overflow).push(thing);
        }
        self.has_any.store(true, Ordering::Release);
    }

    #[inline]
    pub(super) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Relaxed)
    }

    /// Gives everything that is in to `done`.
    #[cold]
    pub(super) fn take_all(&self, mut done: impl FnMut(T)) {
        self.has_any.swap(false, Ordering::Acquire);
        while let Ok(thing) = self.receiver.try_recv() {
            done(thing);
        }
        let overflow = std::mem::take(&mut *lock(&self.overflow));
        overflow.into_iter().for_each(done);
    }
}
