//! The streams that copy from memory that outlives their loaders.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::board::Board;
use crate::base::lock;
use crate::device::{Event, Stream};

/// Streams, each as long as its loader lives and its last copy runs.
#[derive(Debug)]
pub(super) struct Users(Mutex<Vec<User>>);

#[derive(Debug)]
struct User {
    stream: Stream,
    /// Of the loader.
    board: Weak<Board>,
    /// Its last copy, once the loader is gone.
    end: Option<Event>,
}

impl Users {
    /// None, with room for those of two loaders.
    pub(super) fn with_room() -> Self {
        Self(Mutex::new(Vec::with_capacity(4)))
    }

    /// Notes the streams of the loader of `board`, and forgets others that are done. Takes from the
    /// heap only for a loader that is new here.
    pub(super) fn note(&self, streams: [&Stream; 2], board: &Arc<Board>) {
        let mut users = lock(&self.0);
        if users.iter().any(|user| std::ptr::eq(user.board.as_ptr(), Arc::as_ptr(board))) {
            return;
        }
        users.retain_mut(|user| !user.is_done());
        let [ahead, demand] = streams;
        let both = [Some(ahead), (demand != ahead).then_some(demand)];
        users.extend(both.into_iter().flatten().map(|stream| User {
            stream: stream.clone(),
            board: Arc::downgrade(board),
            end: None,
        }));
    }

    /// The streams that may still copy.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Stream> + use<> {
        let users = std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
        users.into_iter().map(|user| user.stream)
    }
}

impl User {
    /// Whether it copies no more. Never waits; what the driver does not tell counts as copying.
    fn is_done(&mut self) -> bool {
        if self.board.strong_count() > 0 {
            return false;
        }
        if self.end.is_none() {
            let marked = Event::new(self.stream.device())
                .and_then(|end| end.record(&self.stream).map(|()| end));
            self.end = marked.ok();
        }
        self.end.as_ref().is_some_and(|end| end.query().unwrap_or(false))
    }
}
