//! What the owner of a copy and those who carry it out share: how far it is, whether it is
//! still wanted, how it ended, and who is told.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use crate::base::{Result, lock, wait};

/// Told how a copy ended.
pub(super) type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// A copy as both sides see it.
#[derive(Debug)]
pub(super) struct Request {
    total_bytes: u64,
    done_bytes: AtomicU64,
    cancelled: AtomicBool,
    end: Mutex<End>,
    ended: Condvar,
}

#[derive(Default)]
struct End {
    outcome: Option<Result<()>>,
    waker: Option<Waker>,
    callback: Option<Callback>,
}

impl Request {
    pub(super) fn new(total_bytes: u64) -> Self {
        Self {
            total_bytes,
            done_bytes: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            end: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(super) fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// How it ended, if it has.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        lock(&self.end).outcome.clone()
    }

    /// Blocks until it has ended.
    pub(super) fn wait(&self) -> Result<()> {
        let mut end = lock(&self.end);
        loop {
            if let Some(outcome) = &end.outcome {
                return outcome.clone();
            }
            end = wait(&self.ended, end);
        }
    }

    /// As a future: the outcome, or the task is woken when there is one.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Result<()>> {
        let mut end = lock(&self.end);
        match &end.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                end.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Has `callback` called by whoever ends the copy, or right now if it has ended.
    pub(super) fn on_end(&self, callback: Callback) {
        let mut end = lock(&self.end);
        match end.outcome.clone() {
            None => end.callback = Some(callback),
            Some(outcome) => {
                drop(end);
                callback(outcome);
            }
        }
    }

    /// Ends it and tells everybody. What ended stays as it ended.
    pub(super) fn finish(&self, outcome: Result<()>) {
        let mut end = lock(&self.end);
        if end.outcome.is_some() {
            return;
        }
        end.outcome = Some(outcome.clone());
        let (waker, callback) = (end.waker.take(), end.callback.take());
        drop(end);
        self.ended.notify_all();
        call(|| waker.into_iter().for_each(Waker::wake));
        call(|| callback.into_iter().for_each(|callback| callback(outcome.clone())));
    }
}

/// Calls code that is not ours and may panic: the thread that ends copies goes on.
fn call(code: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)).is_err() {
        tracing::error!("the callback of a copy panicked; other copies go on");
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}
